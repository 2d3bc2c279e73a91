"""tfmot's pruning wrapper with an exact mask.

The stock wrapper zeroes weights by assignment in the forward pass. Between
steps its masked weights are therefore not zero, gradients and moments leak into
them, the clipping norm counts them, and even `predict` writes to variables.
Here the mask is part of the computation: the block gets `kernel * mask`, the
chain rule masks the gradient, and what starts at zero stays exactly zero under
any optimizer. Nothing is assigned after the weights are built, unless a method of
`[sparsity]` updates the masks between two steps: see `model/fitting/mask_updates.py`.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.trackable import base as trackable

from spdf_keras.config import SparsityConfig, check_sparsity
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras, named_after
from spdf_keras.kernels import skipping_kernel
from spdf_keras.sparsity.algorithms.registry import make_method
from spdf_keras.sparsity.masks import mask_path
from spdf_keras.sparsity.remask import masked
from spdf_keras.sparsity.skipping import Workload, describe_times, skipping_kernels
from spdf_keras.sparsity.structures import structure_of
from spdf_keras.sparsity.updating import initial_counts

# keras2 comes first, as it puts tfmot on the right Keras.
import tensorflow_model_optimization as tfmot  # isort: skip
from tensorflow_model_optimization.python.core.sparsity.keras import (  # isort: skip
    pruning_wrapper,
)
from tf_keras.src.mixed_precision import autocast_variable  # isort: skip


@keras.saving.register_keras_serializable("spdf_keras")
class NeverUpdate(tfmot.sparsity.keras.PruningSchedule):
    """A tfmot schedule that never updates a mask: static sparsity."""

    def __call__(self, step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.constant(False), tf.constant(0.0)

    def get_config(self) -> dict[str, Any]:
        return {"class_name": "spdf_keras>NeverUpdate", "config": {}}


class _FixedMask:
    """Stands for the `pruning_obj` that tfmot's callbacks call."""

    def __init__(self, wrapper: "PruneFixedRandom") -> None:
        self._wrapper = wrapper

    def conditional_mask_update(self) -> tf.Operation:
        return tf.no_op()

    def weight_mask_op(self) -> tf.Operation:
        if self._wrapper.is_latent:
            return tf.no_op()
        # Under mixed precision a cast read would round the float32 master weights.
        with autocast_variable.enable_auto_cast_variables(None):
            for weight, mask, _ in self._wrapper.pruning_vars:
                weight.assign(masked(weight, mask))
        return tf.no_op()


class _Threshold(NamedTuple):
    """The third of tfmot's `pruning_vars`; a fixed mask has no threshold."""

    name: str

    def numpy(self) -> float:
        return 0.0


class _MaskedKernel(trackable.Trackable):
    """Masks the kernel that a checkpoint of a dense model restores."""

    def __init__(self, weight: tf.Variable, mask: tf.Variable) -> None:
        self._weight, self._mask = weight, mask

    def _serialize_to_tensors(self) -> dict[str, tf.Tensor]:
        return {trackable.VARIABLE_VALUE_KEY: tf.convert_to_tensor(self._weight)}

    def _restore_from_tensors(self, restored: dict[str, tf.Tensor]) -> tf.Operation:
        value = restored[trackable.VARIABLE_VALUE_KEY]
        self._weight.assign(masked(value, self._mask))
        return tf.no_op()


@keras.saving.register_keras_serializable("spdf_keras")
class PruneFixedRandom(pruning_wrapper.PruneLowMagnitude):
    """Wraps a block so that its kernels keep a mask, drawn at random at first.

    It is a subclass of tfmot's `PruneLowMagnitude`, so `strip_pruning`, policies and
    callbacks know it. `UpdatePruningStep` is not needed, and does no harm.

    The wrapped layer names its kernels in `prunable_names`, returns them from
    `get_prunable_weights`, and takes `kernels`, a dict of tensors by name, in
    `call`. Masks are `bool` weights of the wrapper, so every Keras format saves
    them, and nothing of them stays on the layer that `strip` returns.

    Args:
        layer: The block. Its `name` and `prunable_names` give the paths of the masks.
        sparsity: A `SparsityConfig`, or the fraction of zeros in each kernel.
        seed: Seed of the masks, where `sparsity` is a number.
        compute: `sparse` skips the zeros on CPUs, `dense` multiplies them, `auto` takes
            the faster way for each kernel, as timed when the layer is built. Without
            a C++ compiler it is `dense`.
        tokens: Tokens of a micro-batch on one device, for the timings of `auto`.
        micro_batches: Micro-batches of a step, for the same.
        kept: Number of weights that each kernel keeps at first, by mask path; as the
            settings give it to these kernels alone if None.

    Call arguments:
        inputs: `(batch, length, hidden_dim)`.
        kernels: Kernels from `masked_kernels()`, where a loop has masked them once;
            if None, they are masked here and `compute` applies.
        **kwargs: Passed to the layer.

    Example:
        >>> from spdf_keras.model.block import GPTBlock
        >>> block = PruneFixedRandom(GPTBlock(num_heads=2), sparsity=0.75)
        >>> block(tf.zeros((1, 4, 8))).shape
        TensorShape([1, 4, 8])
    """

    # tfmot's UpdatePruningStep checks by this that pruning has started.
    pruning_step = 0

    def __init__(
        self,
        layer: keras.layers.Layer,
        sparsity: float | SparsityConfig = 0.5,
        seed: int = 0,
        compute: str = "dense",
        tokens: int = Workload().tokens,
        micro_batches: int = 1,
        kept: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        # Without it the wrapper would run a mixed-precision block in float32.
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, pruning_schedule=NeverUpdate(), **kwargs)
        if not isinstance(sparsity, SparsityConfig):
            fraction = check_sparsity(sparsity, f" for layer '{layer.name}'")
            sparsity = SparsityConfig(fraction, seed)
        self.settings = sparsity
        method = make_method(sparsity)
        self.is_latent, self.keeps_count = method.is_latent, method.keeps_count
        if self.is_latent and compute == "sparse":
            raise InputError(
                "`compute` must be dense or auto with the method "
                f"{sparsity.method}, whose masked weights have gradients. Received: "
                "compute='sparse'."
            )
        self.compute = "dense" if self.is_latent else compute
        self._kept = None if kept is None else dict(kept)
        self.tokens, self.micro_batches = tokens, micro_batches
        self.masks: list[tf.Variable] = []
        # Names of the kernels whose zeros are skipped, while there are enough of them.
        self.sparse_names: tuple[str, ...] = ()
        self.has_zeros_to_skip = True
        # Kernels by name that a training step lays out once, in place of the layer's
        # own. Keras' own `__setattr__` would track them.
        object.__setattr__(self, "given_kernels", {})

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in each kernel."""
        return self.settings.sparsity

    @property
    def seed(self) -> int:
        """Seed of the masks."""
        return self.settings.seed

    # A property, since Keras would track, and save, an attribute's kernels twice.
    @property
    def prunable_weights(self) -> list[tf.Variable]:
        return list(self.layer.get_prunable_weights())

    @property
    def pruning_vars(self) -> list[tuple[Any, Any, Any]]:
        weights = self.prunable_weights if self.built else []
        return [
            (weight, mask, _Threshold(mask.name))
            for weight, mask in zip(weights, self.masks, strict=True)
        ]

    @pruning_vars.setter
    def pruning_vars(self, value: Any) -> None:
        """The parent's constructor assigns an empty list."""

    def build(self, input_shape: Any) -> None:
        with named_after(self):
            keras.layers.Wrapper.build(self, input_shape)
            self._draw_masks()
        self.pruning_obj = _FixedMask(self)
        self.pruning_obj.weight_mask_op()
        of_dense_block = self.layer.named_dependencies() | {
            f"{name}/kernel": _MaskedKernel(weight, mask)
            for name, (weight, mask, _) in zip(
                self.layer.prunable_names, self.pruning_vars, strict=True
            )
        }
        # Keras' own `__setattr__` would track the attribute, and so save it.
        object.__setattr__(self, "_of_dense_block", of_dense_block)
        self.sparse_names = skipping_kernels(
            self._kernel_shapes, self.sparsity, self.compute, self._workload
        )

    def _draw_masks(self) -> None:
        # The parent's masks are floats, so its draw of variables is skipped.
        structure = structure_of(self.settings)
        names, weights = self.layer.prunable_names, self.prunable_weights
        paths = [mask_path(self.layer.name, name) for name in names]
        shapes = dict(zip(paths, self._kernel_shapes.values(), strict=True))
        kept = self._kept or initial_counts(shapes, make_method(self.settings))
        for name, path, weight in zip(names, paths, weights, strict=True):
            mask = self.add_weight(
                # HDF5 cannot hold two weights called "mask".
                name=f"mask/{name}",
                shape=weight.shape,
                dtype="bool",
                initializer=_MaskInitializer(
                    partial(structure.random, f"{self.seed}:{path}", kept=kept[path])
                ),
                trainable=False,
            )
            self.masks.append(mask)
        self.note_density(sum(kept[path] for path in paths))

    def note_density(self, kept: int) -> None:
        """Decides whether zeros are skipped, after masks have got so many kept weights.

        `auto` has measured at the sparsity of the settings, and skips from there on.
        """
        size = sum(math.prod(shape) for shape in self._kernel_shapes.values())
        zeros = size - kept
        least = 1 if self.compute == "sparse" else round(self.sparsity * size)
        # Tiles and single matrices round their counts.
        self.has_zeros_to_skip = zeros > 0 and zeros >= 0.999 * least

    @property
    def _kernel_shapes(self) -> dict[str, tuple[int, ...]]:
        names, weights = self.layer.prunable_names, self.prunable_weights
        return {
            name: tuple(map(int, weight.shape))
            for name, weight in zip(names, weights, strict=True)
        }

    @property
    def _workload(self) -> Workload:
        return Workload(self.tokens, self.micro_batches, self.compute_dtype)

    @property
    def skipped_names(self) -> tuple[str, ...]:
        """Names of the kernels whose zeros are skipped now."""
        return self.sparse_names if self.has_zeros_to_skip else ()

    def describe_times(self) -> str:
        """Says what `auto` has measured; see `skipping.describe_times`."""
        if self.compute != "auto":
            return ""
        return describe_times(self._kernel_shapes, self.sparsity, self._workload)

    def skipped_variables(self) -> dict[str, tuple[tf.Variable, tf.Variable]]:
        """Returns variable and mask of each kernel whose zeros are skipped, by name."""
        return {
            name: (weight, mask)
            for name, (weight, mask, _) in zip(
                self.layer.prunable_names, self.pruning_vars, strict=True
            )
            if name in self.skipped_names
        }

    def masked_kernels(
        self, skipping: Callable[[tf.Tensor, tf.Tensor, str], Any] | None = None
    ) -> dict[str, Any]:
        """Returns the layer's kernels with their masks, by name.

        Args:
            skipping: Makes a `Kernel` that skips zeros from float32 values, mask and
                compute dtype, for the kernels in `sparse_names`; if None, those are
                masked tensors too.
        """
        kernels = {}
        for name, (weight, variable, _) in zip(
            self.layer.prunable_names, self.pruning_vars, strict=True
        ):
            mask = tf.convert_to_tensor(variable)
            if skipping and name in self.given_kernels:
                kernels[name] = self.given_kernels[name]
            elif skipping and name in self.skipped_names:
                # Under mixed precision a cast read would round the gradient too.
                with autocast_variable.enable_auto_cast_variables(None):
                    values = tf.convert_to_tensor(weight)
                kernels[name] = skipping(values, mask, self.compute_dtype)
            else:
                kernel = tf.convert_to_tensor(weight)
                product = kernel * tf.cast(mask, kernel.dtype)
                if self.is_latent:  # the gradient passes straight to all weights
                    product = kernel + tf.stop_gradient(product - kernel)
                kernels[name] = product
        return kernels

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,
        kernels: dict[str, tf.Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        if "training" in inspect.signature(self.layer.call).parameters:
            kwargs["training"] = training
        if kernels is None:
            kernels = self.masked_kernels(skipping_kernel)
        return self.layer.call(inputs, kernels=kernels, **kwargs)

    def _lookup_dependency(self, name: str, cached_dependencies: Any = None) -> Any:
        """Finds the object that a TensorFlow checkpoint calls `name`.

        A checkpoint of a dense model has a block's weights in the wrapper's place.
        """
        found = super()._lookup_dependency(name, cached_dependencies)
        if found is None:
            found = vars(self).get("_of_dense_block", {}).get(name)
        return found

    def get_config(self) -> dict[str, Any]:
        # The parent's config would add its schedule, pooling and block size.
        config = keras.layers.Layer.get_config(self)
        layer = keras.layers.serialize(self.layer, use_legacy_format=True)
        names = "compute", "tokens", "micro_batches"
        return {
            **config,
            "layer": layer,
            "sparsity": dataclasses.asdict(self.settings),
            "kept": self._kept,
            **{name: getattr(self, name) for name in names},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PruneFixedRandom":
        config = dict(config)
        layer = keras.layers.deserialize(config.pop("layer"), use_legacy_format=True)
        # Files of earlier versions have a fraction and a seed.
        if isinstance(config["sparsity"], dict):
            config["sparsity"] = SparsityConfig(**config["sparsity"])
        return cls(layer, **config)


class _MaskInitializer(keras.initializers.Initializer):
    def __init__(self, draw: Callable[..., Any]) -> None:
        self._draw = draw

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
        return tf.constant(self._draw(shape=tuple(map(int, shape))))


def unwrap(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns the block inside a wrapper, or the layer itself without one."""
    return layer.layer if isinstance(layer, PruneFixedRandom) else layer
