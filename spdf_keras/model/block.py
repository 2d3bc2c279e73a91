"""The decoder block: one Keras layer, six prunable kernels."""

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate
from operator import add
from typing import Any

import tensorflow as tf

from spdf_keras.keras2 import keras, named_after
from spdf_keras.kernels import as_kernel, gelu, linear
from spdf_keras.model.paths import KERNELS

import tensorflow_model_optimization as tfmot  # isort: skip

Cache = tuple[tf.Tensor, tf.Tensor]

# Number of queries that attend together in training. A smaller number computes fewer
# scores that the causal mask discards, but makes the products smaller too. The value
# was measured on CPUs.
_CHUNK = 256


@keras.saving.register_keras_serializable("spdf_keras")
class GPTBlock(keras.layers.Layer, tfmot.sparsity.keras.PrunableLayer):
    """A pre-LayerNorm decoder block as in GPT-2.

    The kernels come as an argument when a wrapper masks them; the block itself
    knows nothing of sparsity.

    Args:
        num_heads: Attention heads; must divide the width of the inputs.
        intermediate_dim: Width of the feedforward part; 0 is 4 times the width.
        layer_norm_epsilon: Added to the variance in both LayerNorms.
        residual_scale: Factor on the initial standard deviation of the two
            projections that write to the residual stream, `W_D` and `W_O`.
        seed: Seed of the initial kernels; each kernel has its own stream.
        activation: Form of GELU, `gelu_new` or `gelu`; see `GPTConfig`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)`.
        training: Whether to attend in chunks, which skips most of the scores that
            the causal mask forbids. The results differ by rounding alone.
        kernels: The six kernels by name, in place of the block's own.
        cache: Keys and values so far, each `(batch, num_heads, cache_length,
            head_dim)`. `length` must be 1 with it.
        position: With `cache`, the position of the token in each row, `(batch,)`.
        past: In place of `cache`: keys and values in parts, each part as in `cache`
            with its own number of slots. They are read and not written. `inputs` may
            have any length.
        allowed: With `past`, the slots that each input sees, bool, `(batch, length,
            slots)`: the slots of all parts in order, then those of `inputs`.
        return_cache: Also return the keys and values: those of `inputs`, or
            the cache with the token's own written at `position`.

    Reference:
        Appendix A.1, Table 1, of
        [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464): the six
        are W_Q, W_K, W_V, W_D, W_I and W_O.
    """

    prunable_names = KERNELS

    def __init__(
        self,
        num_heads: int,
        intermediate_dim: int = 0,
        layer_norm_epsilon: float = 1e-5,
        residual_scale: float = 1.0,
        seed: int = 0,
        activation: str = "gelu_new",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.layer_norm_epsilon = layer_norm_epsilon
        self.residual_scale = residual_scale
        self.seed = seed
        self.activation = activation
        self.attention_norm, self.feedforward_norm = (
            keras.layers.LayerNormalization(
                epsilon=layer_norm_epsilon, name=name, dtype=self.dtype_policy
            )
            for name in ("attention_norm", "feedforward_norm")
        )

    def build(self, input_shape: Any) -> None:
        with named_after(self):
            self._create_weights(input_shape)
        super().build(input_shape)

    def _create_weights(self, input_shape: Any) -> None:
        hidden_dim = int(input_shape[-1])
        self.intermediate_dim = self.intermediate_dim or 4 * hidden_dim
        self._kernels, self._biases = [], []
        for index, name in enumerate(self.prunable_names):
            rows = self.intermediate_dim if name == "output" else hidden_dim
            columns = self.intermediate_dim if name == "intermediate" else hidden_dim
            writes_residual = name in ("attention_output", "output")
            initializer = keras.initializers.TruncatedNormal(
                stddev=0.02 * (self.residual_scale if writes_residual else 1.0),
                seed=self.seed + index,
            )
            self._kernels.append(
                self.add_weight(
                    name=f"{name}/kernel",
                    shape=(rows, columns),
                    initializer=initializer,
                )
            )
            self._biases.append(
                self.add_weight(
                    name=f"{name}/bias", shape=(columns,), initializer="zeros"
                )
            )
        for norm in (self.attention_norm, self.feedforward_norm):
            # Without the scope both gammas have one name, which HDF5 cannot hold.
            with tf.name_scope(norm.name):
                norm.build(input_shape)

    def get_prunable_weights(self) -> list[tf.Variable]:
        return list(self._kernels)

    def named_weights(self) -> dict[str, tf.Variable]:
        """Returns every weight by its path inside the block."""
        named = {}
        for name, kernel, bias in zip(
            self.prunable_names, self._kernels, self._biases, strict=True
        ):
            named[f"{name}/kernel"], named[f"{name}/bias"] = kernel, bias
        for norm in (self.attention_norm, self.feedforward_norm):
            named[f"{norm.name}/gamma"] = norm.gamma
            named[f"{norm.name}/beta"] = norm.beta
        return named

    def named_dependencies(self) -> dict[str, Any]:
        """Returns the block's objects in a TensorFlow checkpoint, except kernels."""
        biases = zip(self.prunable_names, self._biases, strict=True)
        norms = (self.attention_norm, self.feedforward_norm)
        return {
            **{f"{name}/bias": bias for name, bias in biases},
            **{norm.name: norm for norm in norms},
        }

    def _lookup_dependency(self, name: str, cached_dependencies: Any = None) -> Any:
        # A checkpoint of a masked model has the wrapper in this block's place, and the
        # block inside the wrapper.
        if name == "layer":
            return self
        return super()._lookup_dependency(name, cached_dependencies)

    def own_kernels(self) -> dict[str, Any]:
        """Returns the block's kernels by name: tensors, unless others were bound."""
        kernels = map(as_kernel, self._kernels)
        return dict(zip(self.prunable_names, kernels, strict=True))

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,
        kernels: dict[str, tf.Tensor] | None = None,
        cache: Cache | None = None,
        position: tf.Tensor | None = None,
        past: Sequence[Cache] = (),
        allowed: tf.Tensor | None = None,
        return_cache: bool = False,
    ) -> Any:
        kernels = kernels or self.own_kernels()
        biases = dict(zip(self.prunable_names, self._biases, strict=True))

        def project(name: str, x: tf.Tensor) -> tf.Tensor:
            return linear(x, kernels[name], biases[name])

        x = self.attention_norm(inputs)
        query, key, value = (
            self._split_heads(project(name, x)) for name in self.prunable_names[:3]
        )
        parts = [*past, (key, value)]
        if allowed is not None:
            allowed = allowed[:, None]
        elif cache is None or position is None:
            allowed = None if training else _causal(0, _dim(inputs, 1))
        else:
            # This blend is exact, and unlike a scatter XNNPACK runs it in one piece.
            slots = tf.one_hot(position, _dim(cache[0], 2), dtype=key.dtype)
            slots = slots[:, None, :, None]
            key, value = (
                old * (1 - slots) + new * slots
                for old, new in zip(cache, (key, value), strict=True)
            )
            columns = tf.range(_dim(cache[0], 2))
            allowed = (columns[None, :] <= position[:, None])[:, None, None, :]
            parts = [(key, value)]
        if training and allowed is None:
            attended = _causal_attention(query, key, value)
        else:
            attended = _attention(query, parts, allowed)
        attended = self._merge_heads(attended)
        x = inputs + project("attention_output", attended)
        y = project("intermediate", self.feedforward_norm(x))
        y = gelu(y, kernels["intermediate"], exact=self.activation == "gelu")
        x = x + project("output", y)
        return (x, (key, value)) if return_cache else x

    def _split_heads(self, x: tf.Tensor) -> tf.Tensor:
        head_dim = x.shape[-1] // self.num_heads
        x = tf.reshape(x, (_dim(x, 0), _dim(x, 1), self.num_heads, head_dim))
        return tf.transpose(x, (0, 2, 1, 3))

    def _merge_heads(self, x: tf.Tensor) -> tf.Tensor:
        hidden_dim = x.shape[1] * x.shape[3]
        x = tf.transpose(x, (0, 2, 1, 3))
        return tf.reshape(x, (_dim(x, 0), _dim(x, 1), hidden_dim))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "residual_scale": self.residual_scale,
            "seed": self.seed,
            "activation": self.activation,
        }


def _causal_attention(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Attends in chunks of queries, each to the keys up to its own end."""
    length = query.shape[2]
    if length is None:
        return _attention(query, [(key, value)], _causal(0, tf.shape(query)[2]))
    stops = [*range(_CHUNK, length, _CHUNK), length]
    starts = [0, *stops[:-1]]
    sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
    queries = tf.split(query, sizes, 2) if len(sizes) > 1 else [query]
    chunks = []
    for start, stop, part in zip(starts, stops, queries, strict=True):
        past = [(_prefix(key, stop), _prefix(value, stop))]
        chunks.append(_attention(part, past, _causal(start, stop)))
    return _join(chunks, 2)


def _prefix(x: tf.Tensor, stop: int) -> tf.Tensor:
    """Returns `x[:, :, :stop]`, whose own gradient takes several times as long."""
    if stop == x.shape[2]:
        return x
    return tf.slice(x, (0, 0, 0, 0), (-1, -1, stop, -1))


def _causal(start: Any, stop: Any) -> tf.Tensor:
    """Returns which tokens before `stop` are visible to each token from `start` on."""
    return (tf.range(start, stop)[:, None] >= tf.range(stop)[None, :])[None, None]


def _attention(
    query: tf.Tensor, parts: Sequence[Cache], allowed: tf.Tensor
) -> tf.Tensor:
    """Attends to keys and values that lie in parts, without joining them."""
    # Scaling the query is cheaper than scaling the scores, by head_dim / length.
    query = query * tf.cast(query.shape[-1] ** -0.5, query.dtype)
    scores = _join([tf.matmul(query, key, transpose_b=True) for key, _ in parts])
    scores = tf.cast(scores, tf.float32)
    # A difference is used for two reasons: XNNPACK runs it in one piece, other than a
    # `tf.where` of scores, and TensorFlow would fuse a sum with the product into a
    # kernel that is 90 times slower.
    scores -= tf.where(allowed, 0.0, 1e9)
    weights = tf.cast(tf.nn.softmax(scores), query.dtype)
    if len(parts) == 1:
        return tf.matmul(weights, parts[0][1])
    sizes = [_dim(value, 2) for _, value in parts]
    static = all(isinstance(size, int) for size in sizes)
    if static:
        # XNNPACK runs slices and sums of two in one piece with the rest.
        ends = list(accumulate(sizes))
        shares = [weights[..., e - n : e] for n, e in zip(sizes, ends, strict=True)]
    else:
        shares = tf.split(weights, sizes, axis=-1, num=len(sizes))
    products = [tf.matmul(w, v) for w, (_, v) in zip(shares, parts, strict=True)]
    return reduce(add, products) if static else tf.add_n(products)


def _join(parts: Sequence[tf.Tensor], axis: int = -1) -> tf.Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis)


def _dim(x: tf.Tensor, axis: int) -> Any:
    """Returns the static size of an axis if it is known, else a tensor."""
    return tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]
