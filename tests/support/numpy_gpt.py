"""A GPT of this package in NumPy, in float64: loss, gradients by hand, and AdamW.

It was written from the architecture alone and calls nothing of the package, so that
tests can compare a training with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]
# Takes the gradient of an output and returns that of the input; the gradients of the
# weights that took part go into a dictionary.
Backward = Callable[[Array, Weights], Array]

_EPSILON = 1e-5
_CUBIC, _ROOT = 0.044715, (2 / np.pi) ** 0.5


def loss_and_gradients(
    weights: Weights, token_ids: NDArray, labels: NDArray, num_heads: int
) -> tuple[float, Weights]:
    """Returns the mean cross-entropy of tokens and the gradient of every weight.

    The gradient of a masked kernel is that of the product of kernel and mask where the
    product is given as the weight.

    Args:
        weights: Every weight by its path, such as `block_0/query/kernel`.
        token_ids: `(batch, length)`.
        labels: `(batch, length)`.
        num_heads: Attention heads.
    """
    table, length = weights["embedding/token"], token_ids.shape[1]
    x = table[token_ids] + weights["embedding/position"][:length]
    backwards: list[Backward] = []
    for index in range(_num_blocks(weights)):
        x, backward = _block(x, weights, f"block_{index}", num_heads)
        backwards.append(backward)
    x, backward = _norm(x, weights, "final_norm")
    backwards.append(backward)
    loss, d_logits = _crossentropy(x @ table.T, labels)
    gradients: Weights = {}
    d_table = np.einsum("blv,bld->vd", d_logits, x)
    dx = d_logits @ table
    for backward in reversed(backwards):
        dx = backward(dx, gradients)
    np.add.at(d_table, token_ids, dx)
    gradients["embedding/token"] = d_table
    d_positions = np.zeros_like(weights["embedding/position"])
    d_positions[:length] = dx.sum(0)
    gradients["embedding/position"] = d_positions
    return loss, gradients


def _num_blocks(weights: Weights) -> int:
    return len({path.split("/")[0] for path in weights if path.startswith("block_")})


def _crossentropy(logits: Array, labels: NDArray) -> tuple[float, Array]:
    """Returns the mean over all tokens, and its gradient."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(-1, keepdims=True))
    of_labels = np.take_along_axis(shifted - log_sum, labels[..., None], -1)
    gradient = np.exp(shifted - log_sum)
    gradient -= np.eye(logits.shape[-1])[labels]
    return float(-of_labels.mean()), gradient / labels.size


def _block(
    x: Array, weights: Weights, name: str, num_heads: int
) -> tuple[Array, Backward]:
    """Attention and the feedforward part, each after a LayerNorm and added to `x`."""
    normed, norm_back = _norm(x, weights, f"{name}/attention_norm")
    query, query_back = _linear(normed, weights, f"{name}/query")
    key, key_back = _linear(normed, weights, f"{name}/key")
    value, value_back = _linear(normed, weights, f"{name}/value")
    attended, attention_back = _attention(query, key, value, num_heads)
    added, project_back = _linear(attended, weights, f"{name}/attention_output")
    middle = x + added
    normed, second_norm_back = _norm(middle, weights, f"{name}/feedforward_norm")
    inner, inner_back = _linear(normed, weights, f"{name}/intermediate")
    active, slope = _gelu(inner)
    added, output_back = _linear(active, weights, f"{name}/output")

    def backward(dy: Array, gradients: Weights) -> Array:
        d_inner = output_back(dy, gradients) * slope
        d_middle = dy + second_norm_back(inner_back(d_inner, gradients), gradients)
        parts = attention_back(project_back(d_middle, gradients))
        backs = (query_back, key_back, value_back)
        d_normed = sum(
            (back(part, gradients) for back, part in zip(backs, parts, strict=True)),
            np.zeros_like(x),
        )
        return d_middle + norm_back(d_normed, gradients)

    return middle + added, backward


def _norm(x: Array, weights: Weights, path: str) -> tuple[Array, Backward]:
    gamma = weights[f"{path}/gamma"]
    centred = x - x.mean(-1, keepdims=True)
    scale = ((centred**2).mean(-1, keepdims=True) + _EPSILON) ** -0.5
    unit = centred * scale

    def backward(dy: Array, gradients: Weights) -> Array:
        gradients[f"{path}/gamma"] = (dy * unit).sum((0, 1))
        gradients[f"{path}/beta"] = dy.sum((0, 1))
        d_unit = dy * gamma
        along = (d_unit * unit).mean(-1, keepdims=True)
        return scale * (d_unit - d_unit.mean(-1, keepdims=True) - unit * along)

    return unit * gamma + weights[f"{path}/beta"], backward


def _linear(x: Array, weights: Weights, path: str) -> tuple[Array, Backward]:
    kernel = weights[f"{path}/kernel"]

    def backward(dy: Array, gradients: Weights) -> Array:
        gradients[f"{path}/kernel"] = np.einsum("bli,blo->io", x, dy)
        gradients[f"{path}/bias"] = dy.sum((0, 1))
        return dy @ kernel.T

    return x @ kernel + weights[f"{path}/bias"], backward


def _attention(
    query: Array, key: Array, value: Array, num_heads: int
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """Causal attention; `backward` returns the gradients of query, key and value."""
    batch, length, width = query.shape

    def split(x: Array) -> Array:
        return x.reshape(batch, length, num_heads, -1).transpose(0, 2, 1, 3)

    def merge(x: Array) -> Array:
        return x.transpose(0, 2, 1, 3).reshape(batch, length, width)

    q, k, v = split(query), split(key), split(value)
    scale = (width // num_heads) ** -0.5
    scores = q @ k.swapaxes(-1, -2) * scale
    scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)

    def backward(dy: Array) -> tuple[Array, Array, Array]:
        dy = split(dy)
        d_shares = dy @ v.swapaxes(-1, -2)
        d_scores = shares * (d_shares - (d_shares * shares).sum(-1, keepdims=True))
        d_scores *= scale
        d_value = shares.swapaxes(-1, -2) @ dy
        return merge(d_scores @ k), merge(d_scores.swapaxes(-1, -2) @ q), merge(d_value)

    return merge(shares @ v), backward


def _gelu(x: Array) -> tuple[Array, Array]:
    """Returns GELU in the form with tanh, and its derivative."""
    tanh = np.tanh(_ROOT * (x + _CUBIC * x**3))
    slope = (1 - tanh**2) * _ROOT * (1 + 3 * _CUBIC * x**2)
    return 0.5 * x * (1 + tanh), 0.5 * (1 + tanh) + 0.5 * x * slope


@dataclass
class NumpyAdamW:
    """AdamW as the package defines it, with a count of steps per weight.

    Attributes:
        learning_rate: The learning rate of all steps.
        weight_decay: Times the learning rate; of matrices and tables alone.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added to the root of the corrected second moment.
        clip_norm: Bound of the global norm of the gradients.
        steps: Completed steps.
        moments: First and second moment of each weight, by path.
        starts: Completed steps when each weight of a kernel began to count.
    """

    learning_rate: float
    weight_decay: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float = 1.0
    steps: int = 0
    moments: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    starts: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def step(self, weights: Weights, gradients: Weights) -> float:
        """Moves `weights` in place; returns the norm of the gradients."""
        self.steps += 1
        norm = sum(float((g**2).sum()) for g in gradients.values()) ** 0.5
        factor = self.clip_norm / max(norm, self.clip_norm)
        for path, weight in weights.items():
            first, second = self.of(path, weight)
            gradient = gradients[path] * factor
            first += (1 - self.beta_1) * (gradient - first)
            second += (1 - self.beta_2) * (gradient**2 - second)
            count = self.steps - self.starts.get(path, np.zeros((), np.int64))
            corrected = first / (1 - self.beta_1**count)
            root = (second / (1 - self.beta_2**count)) ** 0.5
            decay = self.weight_decay * weight if weight.ndim == 2 else 0.0
            weight -= self.learning_rate * (corrected / (root + self.epsilon) + decay)
        return norm

    def of(self, path: str, weight: Array) -> tuple[Array, Array]:
        """Returns the moments of a weight, which start at zero."""
        if path not in self.moments:
            self.moments[path] = np.zeros_like(weight), np.zeros_like(weight)
        return self.moments[path]
