"""Calls the entry points of the FFI library with arguments that are wrong.

    python damaged_calls.py RUNNERS LIBRARY

RUNNERS is the folder of `xla_library.py`. A library that was compiled with sanitizers
ends the process at the first wrong access, as a crash does. The last line of the output
counts calls and refusals. This program imports JAX and NumPy, nothing else: TensorFlow
does not start under a sanitizer.
"""

import ctypes
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, sys.argv[1])
from xla_library import RunError, SkippingLibrary  # type: ignore[import-not-found]

INTERFACE = 1
library = SkippingLibrary.open(sys.argv[2], INTERFACE)
random = np.random.default_rng(0)
counts = {"calls": 0, "refused": 0}


def attempt(function: Any, *arguments: Any) -> Any:
    """Calls a function, and counts a refusal."""
    counts["calls"] += 1
    try:
        return jax.block_until_ready(function(*arguments))
    except (RunError, ValueError, RuntimeError, TypeError):
        counts["refused"] += 1
        return None


def call(target: str, shapes: list[Any], *operands: Any) -> Any:
    """Runs one custom call."""
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.ffi.ffi_call(target, results)(*operands)


def floats(*shape: int) -> Any:
    """Draws an array."""
    return jnp.asarray(random.normal(size=shape), jnp.float32)


# Bits and values of any length, for shapes that they fit and others.
for _ in range(200):
    shape = random.integers(-2, 300, 2).tolist()
    bits = random.integers(256, size=random.integers(0, 2000), dtype=np.uint8)
    values = random.normal(size=random.integers(0, 9000)).astype(np.float32)
    attempt(library.pack, "kernel", bits, values, shape)
    attempt(library.mask, "kernel", bits, shape)
attempt(library.pack, "kernel", bits, values, [1 << 31, 1 << 33])
attempt(library.mask, "kernel", bits, [1 << 31, 1 << 33])
attempt(library.pack_dense, "kernel", np.zeros((0, 3), np.float32))

# Kernels that are right, with operands that fit and others.
for tokens, rows, columns in ((1, 5, 3), (7, 130, 257), (33, 300, 129), (0, 16, 16)):
    kept = random.random((rows, columns)) < 0.25
    bits, kernel = np.packbits(kept), np.asarray(floats(rows, columns)) * kept
    packed = library.pack("kernel", bits, kernel[kept], [rows, columns])
    mask = library.mask("kernel", bits, [rows, columns])
    x, bias, dy = floats(tokens, rows), floats(columns), floats(tokens, columns)
    y = attempt(call, "spdf_linear", [dy.shape], x, packed.id, bias)[0]
    np.testing.assert_allclose(y, x @ kernel + bias, atol=1e-4)
    arguments = x, kernel, mask.id
    shapes = [x.shape, kernel.shape]
    y = attempt(call, "spdf_masked_linear", [dy.shape], *arguments, bias)[0]
    np.testing.assert_allclose(y, x @ kernel + bias, atol=1e-4)
    dx, dkernel = attempt(call, "spdf_masked_gradients", shapes, *arguments, dy)
    np.testing.assert_allclose(dx, dy @ kernel.T, atol=1e-3)
    np.testing.assert_allclose(dkernel, kept * np.asarray(x.T @ dy), atol=1e-3)
    wrong = [x, bias, dy, kernel, packed.id, mask.id, jnp.int32(-1), floats()]
    for _ in range(60):
        picked = [wrong[i] for i in random.integers(len(wrong), size=4)]
        result = [wrong[i].shape for i in random.integers(len(wrong), size=2)]
        attempt(call, "spdf_linear", result[:1], *picked[:3])
        attempt(call, "spdf_masked_linear", result[:1], *picked)
        attempt(call, "spdf_masked_gradients", result, *picked)
        attempt(call, "spdf_linear", result, *picked)
    number = packed.id
    del packed
    attempt(call, "spdf_linear", [dy.shape], x, number, bias)
    for gone in (-5, 0, 1 << 30):
        library._library.spdf_xla_remove(ctypes.c_int32(gone))
print(counts)
