"""Runtimes that skip an artefact's zeros, and runtimes that do not, with the reasons.

The reasons were measured, or read in the source, with the versions that `setup.py`
names; `docs/results/export.md` has the figures. A smaller file is not a faster one.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Runtime:
    """A runtime, and whether it skips the zeros of an artefact.

    Attributes:
        name: Name of the runtime and its device.
        skips_zeros: Whether it leaves out products with zeros.
        reason: The reason, in one or two sentences.
        library: Which library of this package it loads for that, a target of
            `spdf_keras.export.library_path`; empty without one.
        pays_from: Fraction of zeros from which skipping them was measured to pay; None
            where nothing was measured.
        minimum_version: Oldest version of the runtime that runs the artefact, as its
            converter writes it; empty where none is known.
    """

    name: str
    skips_zeros: bool
    reason: str
    library: str = ""
    pays_from: float | None = None
    minimum_version: str = ""


# Fractions of zeros from which the delegate takes a layer, as in
# `spdf_keras/native/litert/weights.cpp`; `benchmarks/break_even.py` measures them.
LITERT_PAYS_FROM = {"none": 0.2, "fp16": 0.2, "int8": 0.3}
# Oldest runtime that the delegate was tested with; `native/litert/runtime.cpp` has it.
_DELEGATE_VERSION = "ai-edge-litert 2.3"
# Oldest versions of TensorFlow Lite that have all operators of a file.
_LITERT_VERSIONS = {"none": "2.9", "fp16": "2.9", "int8": "2.17"}


def litert_runtimes(
    encoded: bool, quantize: str, sparsity: float
) -> tuple["Runtime", ...]:
    """Returns the runtimes of a `.tflite` file.

    Args:
        encoded: Whether zeros are stored as an index.
        quantize: `none`, `fp16` or `int8`.
        sparsity: Fraction of zeros in the kernels.
    """
    pays_from, version = LITERT_PAYS_FROM[quantize], _LITERT_VERSIONS[quantize]
    skips = sparsity >= pays_from
    delegate = Runtime(
        "LiteRT, CPU with the delegate libspdf_delegate.so",
        skips,
        f"The delegate takes layers from {pays_from:.0%} zeros on, from where a token "
        f"was measured to be faster than in XNNPACK. This file has {sparsity:.0%}.",
        "litert",
        pays_from,
        _DELEGATE_VERSION,
    )
    plain = TFLITE_SPARSE_RUNTIMES if encoded else TFLITE_DENSE_RUNTIMES
    oldest = f"TensorFlow Lite {version}"
    return (delegate, *(replace(each, minimum_version=oldest) for each in plain))


SAVED_MODEL_RUNTIMES = (
    Runtime(
        "TensorFlow, CPU and GPU",
        False,
        "Its products are dense: zeros are stored and multiplied like any weight.",
    ),
)

SAVED_MODEL_SKIPPING_RUNTIMES = (
    Runtime(
        "TensorFlow, CPU and GPU, tags serve",
        False,
        "The products of this graph are dense.",
    ),
    Runtime(
        "TensorFlow, CPU, tags serve and spdf",
        True,
        "The operations of this package skip the zeros. Kernels are packed at the head "
        "of each call: with GPT-2 Small at 75 %, calls below 200 tokens of logits, or "
        "6 new ones, take longer than in the plain graph.",
        "tensorflow",
        0.4,
    ),
)

TFLITE_DENSE_RUNTIMES = (
    Runtime(
        "LiteRT, CPU (XNNPACK)",
        False,
        "Zeros are stored, and its fully connected kernels are dense; its sparse "
        "kernels are for image models (NCHW) alone.",
    ),
    Runtime("LiteRT, GPU", False, "Zeros are stored, and its kernels are dense."),
)

TFLITE_SPARSE_RUNTIMES = (
    Runtime(
        "LiteRT, CPU (XNNPACK)",
        False,
        "DENSIFY unpacks weights once, at load, and dense kernels multiply the zeros.",
    ),
    Runtime(
        "LiteRT, CPU (built-in kernels)",
        False,
        "DENSIFY unpacks weights once. The sparse kernel needs blocks of 1x4 and more, "
        "which random masks do not have, and is slower than the dense one below 90 %.",
    ),
    Runtime(
        "LiteRT, GPU", False, "DENSIFY becomes a dense weight when the graph is built."
    ),
)

LITERTLM_RUNTIMES = (
    Runtime(
        "LiteRT-LM, CPU (XNNPACK)",
        False,
        "Its fully connected kernels are dense, and DENSIFY unpacks encoded weights "
        "when they are loaded.",
    ),
    Runtime(
        "LiteRT-LM, GPU",
        False,
        "Its kernels are dense. The bundle was not tried there.",
    ),
)

HUGGINGFACE_RUNTIMES = (
    Runtime(
        "transformers (PyTorch), CPU and GPU",
        False,
        "Its products are dense: zeros are stored and multiplied like any weight.",
    ),
)

KERAS_NLP_RUNTIMES = (
    Runtime(
        "KerasNLP (TensorFlow), CPU and GPU",
        False,
        "Its products are dense: zeros are stored and multiplied like any weight.",
    ),
)

XLA_RUNTIMES = (
    Runtime(
        "XLA, CPU (JAX)",
        False,
        "StableHLO's products are dense: kernels are unpacked, and zeros multiplied.",
    ),
    Runtime(
        "XLA, GPU (JAX)",
        False,
        "StableHLO's products are dense. Only jax.experimental.sparse calls cuSPARSE, "
        "and sparse tensor cores need two zeros in every four weights.",
    ),
    Runtime(
        "Cerebras CS-2",
        True,
        "The paper's machine skips single zeros of streamed weights. It takes these "
        "programs only through its own compiler, which was not tried.",
    ),
)

XLA_SKIPPING_RUNTIMES = (
    Runtime(
        "XLA, CPU (JAX) with the library libspdf_ffi.so",
        True,
        "The custom calls of the programs `*.skipping.stablehlo` multiply kept weights "
        "alone.",
        "xla",
        0.5,
    ),
    *XLA_RUNTIMES,
)

PEFT_RUNTIMES = (
    Runtime(
        "PEFT, on the base in transformers",
        False,
        "The adapter is beside the base's products, which transformers computes with "
        "all zeros.",
    ),
)
