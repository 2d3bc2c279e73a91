"""Exports a SavedModel that plain TensorFlow loads: no Keras, no custom code."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.export.card import ExportCard, Logits, logit_error
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.model.build import build_gpt
from spdf_keras.model.generation import Kernels, effective_kernels, prefill, project
from spdf_keras.model.gpt import GPT

_FLOAT32_NOTE = "Computes in float32; the model itself computes in {}."


def to_saved_model(model: GPT, path: str | Path, overwrite: bool = False) -> ExportCard:
    """Writes a SavedModel with the signature `serving_default`.

    Its input is `token_ids`, int32 `(batch, length)`, its output `logits`,
    float32 `(batch, length, vocabulary_size)`; both sizes are free, up to the
    context. Masks are folded into the kernels. `tf.saved_model.load` is all that
    it takes to run it:

        tf.saved_model.load(path).signatures["serving_default"](token_ids=...)

    Args:
        model: The model, sparse or stripped.
        path: Folder to write; its parents are made.
        overwrite: Replace a SavedModel that is there.

    Returns:
        Its size and error, measured on random prompts.

    Raises:
        InputError: If `model` is no GPT, or `path` exists.
        ExportError: If the file's logits are not the model's.
    """
    model, notes = float32_model(model)
    kernels = FoldedKernels(model)

    def serve(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        hidden, _ = prefill(model, token_ids, tf.shape(token_ids)[1], kernels.tensors())
        return {"logits": project(model, hidden)}

    with staged(path, overwrite, folder_with="saved_model.pb") as stage:
        spec = tf.TensorSpec((None, None), tf.int32, name="token_ids")
        write_signatures({"serving_default": trace(serve, spec)}, stage)
        error, scale = logit_error(_run(stage, model))
        size = size_bytes(stage)
    return ExportCard(
        format="saved_model",
        path=str(path),
        size_bytes=size,
        dense_size_bytes=size,
        sparsity=kernels.sparsity,
        max_abs_error=error,
        max_abs_logit=scale,
        notes=(*notes, *zeros_notes(kernels.sparsity)),
    )


def zeros_notes(sparsity: float) -> tuple[str, ...]:
    """What a format without sparse encoding makes of a model's zeros."""
    if not sparsity:
        return ()
    return (
        "Zeros are stored and multiplied like any weight: neither smaller nor faster "
        "than the dense model.",
    )


class FoldedKernels:
    """The kernels of all blocks, masks multiplied in, as variables of their own.

    As variables, since a graph cannot hold 2 GB of constants; as values, since a
    mask in an exported file would be multiplied at every call.

    Args:
        model: The model; its weights are copied.
    """

    def __init__(self, model: GPT) -> None:
        with tf.device("CPU:0"):
            self._variables = [
                {
                    # Plus 0: a mask leaves -0.0 of a negative weight, and a sparse
                    # encoding would not give that bit back.
                    name: tf.Variable(
                        kernel + 0.0, trainable=False, name=f"{index}/{name}"
                    )
                    for name, kernel in block.items()
                }
                for index, block in enumerate(effective_kernels(model))
            ]

    def tensors(self) -> Kernels:
        """What `prefill` and `decode` take, read where this is called."""
        return [
            {name: tf.convert_to_tensor(variable) for name, variable in block.items()}
            for block in self._variables
        ]

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in all of them."""
        kernels = [v.numpy() for block in self._variables for v in block.values()]
        kept = sum(np.count_nonzero(kernel) for kernel in kernels)
        return float(1.0 - kept / sum(kernel.size for kernel in kernels))


def float32_model(model: GPT) -> tuple[GPT, tuple[str, ...]]:
    """The model that is exported: itself, or its twin that computes in float32.

    Args:
        model: A GPT of any precision.

    Returns:
        The model, and the notes that this calls for.

    Raises:
        InputError: If `model` is no GPT.
    """
    if not isinstance(model, GPT):
        raise InputError(
            f"`model` must be a GPT from `build_gpt`. Received: {type(model).__name__}."
        )
    precision = model.embedding.dtype_policy.name
    if precision == "float32":
        return model, ()
    twin = build_gpt(model.sizes, model.sparsity, precision="float32")
    twin.set_weights(model.get_weights())
    return twin, (_FLOAT32_NOTE.format(precision),)


def trace(function: Callable[..., Any], *specs: Any, **named_specs: Any) -> Any:
    """A concrete function whose arguments have the names of `specs`."""
    graph = tf.function(function, autograph=False)
    return graph.get_concrete_function(*specs, **named_specs)


def write_signatures(functions: dict[str, Any], path: Path) -> None:
    """Writes a SavedModel of concrete functions.

    Args:
        functions: One per signature, by name.
        path: Folder to write.
    """
    # Only the variables: a module that holds a Keras object is traced again when
    # it is saved, and needs Keras when it is loaded.
    module = tf.Module()
    module.variables_used = list(
        {
            id(v): v for function in functions.values() for v in function.variables
        }.values()
    )
    tf.saved_model.save(module, str(path), signatures=functions)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Keeps GPUs from rounding products to TensorFloat-32, off by 1e-3."""
    config = tf.config.experimental
    before = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        config.enable_tensor_float_32_execution(before)


def keras_logits(model: GPT, token_ids: Sequence[Any] | np.ndarray) -> Logits:
    """The model's own logits, `(batch, length, vocabulary_size)`, in full float32."""
    with exact_float32():
        return model(np.asarray(token_ids, np.int32), training=False).numpy()


def _run(path: Path, model: GPT) -> Iterator[tuple[Logits, Logits]]:
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    random, context = np.random.default_rng(0), model.embedding.max_sequence_length
    for batch, length in ((2, 16), (1, 33)):
        shape = batch, min(length, context)
        token_ids = random.integers(model.embedding.vocabulary_size, size=shape)
        with exact_float32():
            received = serve(token_ids=tf.constant(token_ids, tf.int32))["logits"]
        yield keras_logits(model, token_ids), received.numpy()
