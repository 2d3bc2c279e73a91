"""Which tensor of a GPT-2 checkpoint holds which weights of ours.

No tensor is transposed: Hugging Face's `Conv1D` has `(in, out)` as a Keras layer has.
Query, key and value lie side by side on the last axis of one tensor, `c_attn`, and so
do their biases and their masks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.config import GPTConfig
from spdf_keras.model.paths import block_name, kernel_path

# The prefix of all names but that of the head; old files do without it.
PREFIX = "transformer."
HEAD, TOKEN_TABLE = "lm_head.weight", "wte.weight"

_LINEAR = {
    "attn.c_attn": ("query", "key", "value"),
    "attn.c_proj": ("attention_output",),
    "mlp.c_fc": ("intermediate",),
    "mlp.c_proj": ("output",),
}
_NORMS = {"ln_1": "attention_norm", "ln_2": "feedforward_norm"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint.

    Attributes:
        name: Its name, without `PREFIX`.
        paths: Paths of the weights that it holds side by side, as in
            `GPT.named_weights`.
        shape: Its shape.
        is_kernel: Whether its weights may have masks.

    Example:
        >>> tensor = Tensor("b", ("block_0/query/bias", "block_0/key/bias"), (4,))
        >>> tensor.split(np.array([1, 2, 3, 4]))["block_0/key/bias"]
        array([3, 4])
    """

    name: str
    paths: tuple[str, ...]
    shape: tuple[int, ...]
    is_kernel: bool = False

    def split(self, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Returns the weights in the tensor by their paths."""
        parts = np.split(array, len(self.paths), axis=-1)
        return dict(zip(self.paths, parts, strict=True))

    def join(self, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Returns the tensor of weights, which are in the order of `paths`."""
        return np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def tensors(sizes: GPTConfig) -> Iterator[Tensor]:
    """Yields the tensors of a GPT with these sizes; the tied head is none."""
    d, inner = sizes.hidden_dim, sizes.intermediate_dim
    yield Tensor(TOKEN_TABLE, ("embedding/token",), (sizes.vocabulary_size, d))
    yield Tensor("wpe.weight", ("embedding/position",), (sizes.max_sequence_length, d))
    for index in range(sizes.num_layers):
        block = block_name(index)
        for layer, kernels in _LINEAR.items():
            name = f"h.{index}.{layer}"
            rows = inner if kernels == ("output",) else d
            columns = inner if kernels == ("intermediate",) else d * len(kernels)
            paths = tuple(kernel_path(block, kernel) for kernel in kernels)
            yield Tensor(f"{name}.weight", paths, (rows, columns), is_kernel=True)
            paths = tuple(f"{block}/{kernel}/bias" for kernel in kernels)
            yield Tensor(f"{name}.bias", paths, (columns,))
        for theirs, ours in _NORMS.items():
            yield from _norm(f"h.{index}.{theirs}", f"{block}/{ours}", d)
    yield from _norm("ln_f", "final_norm", d)


def _norm(name: str, path: str, width: int) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (f"{path}/gamma",), (width,))
    yield Tensor(f"{name}.bias", (f"{path}/beta",), (width,))
