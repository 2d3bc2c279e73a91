"""Loads weights and files of dense and of sparse GPTs, which Keras alone cannot."""

import os
import warnings
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras, refuse_keras3
from spdf_keras.model.fitting.callbacks import FittedModel, create_slots, is_legacy
from spdf_keras.model.weight_files import Stored, WeightFile, open_weights
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.sparsity.masks import spread_kept
from spdf_keras.sparsity.remask import masked, remask

_LEGACY = "legacy_optimizer_"


class SavedModel(FittedModel):
    """A language model that loads files of dense and of sparse models.

    Weights are found by their paths. A dense model that loads a sparse file computes
    the same function; a sparse model takes the weights that its masks keep from a
    dense file. Optimizers come back with their state from every format that holds it.
    """

    def load_weights(
        self,
        filepath: Any,
        skip_mismatch: bool = False,
        by_name: bool = False,
        options: Any = None,
    ) -> Any:
        """Loads weights from a file of a dense or a sparse model, in any format.

        Masks are loaded too if both the file and the model have them. The optimizer's
        state is loaded if the file has it and both are dense or both are sparse.

        Args:
            filepath: A `.keras`, `.weights.h5` or `.h5` file, the prefix of a
                TensorFlow checkpoint, or the folder of a SavedModel.
            skip_mismatch: Leave weights that do not fit as they are, with a warning.
            by_name: It has no effect, as weights are always found by their paths.
            options: `tf.train.CheckpointOptions`, for TensorFlow's formats.

        Returns:
            The status of a TensorFlow checkpoint, as in Keras; else None.

        Raises:
            InputError: If the weights do not fit the model. Nothing is changed then.
        """
        path = os.fspath(filepath)
        weights, masks = self.named_weights(), self.named_masks()
        is_plain = len(self.weights) == len(weights) + len(masks) and not self.lora
        if "://" in path or not is_plain:
            # Keras itself loads remote files, models with the user's own layers, and
            # those with adapters, of which a file does not name the kernels.
            loaded = super().load_weights(filepath, skip_mismatch, by_name, options)
            remask(self)
            return loaded
        with open_weights(path) as file:
            fitting = self._fitting(path, file, skip_mismatch)
            new = {n: stored.read() for n, stored in file.masks.items() if n in masks}
            self._check_masks(new, f"in '{path}'")
            self._assign_masks(new)
            for name in fitting:
                value = file.weights[name].read()
                mask = masks.get(name)
                weights[name].assign(value if mask is None else masked(value, mask))
            status = None
            if bool(file.masks) == bool(masks):
                status = self._load_optimizer(path, file, options)
            elif file.root is not None:
                status = _partial_status(file)
        remask(self)
        return status

    def _fitting(self, path: str, file: WeightFile, skip_mismatch: bool) -> list[str]:
        """Returns the paths of the weights that can be loaded."""
        ours = {name: tuple(w.shape) for name, w in self.named_weights().items()}
        theirs = {name: stored.shape for name, stored in file.weights.items()}
        names = sorted(ours.keys() | theirs.keys())
        odd = [name for name in names if ours.get(name) != theirs.get(name)]
        if odd and not skip_mismatch:
            raise InputError(
                f"The weights in '{path}' do not fit the model: '{odd[0]}' is "
                f"{theirs.get(odd[0], 'missing')} there and "
                f"{ours.get(odd[0], 'unknown')} in the model."
            )
        if left := [name for name in odd if name in ours]:
            warnings.warn(
                f"{len(left)} weights are not in '{path}' as the model has them, and "
                f"stay as they were: {', '.join(left)}",
                stacklevel=3,
            )
        return [name for name in ours if name not in odd]

    def _check_masks(self, new: dict[str, NDArray[np.bool_]], where: str) -> None:
        masks = self.named_masks()
        if not self.keeps_mask_counts:
            return
        for name, mask in new.items():
            kept = np.count_nonzero(masks[name].numpy())
            if kept != np.count_nonzero(mask):
                raise InputError(
                    f"The masks {where} do not fit the model: {mask.mean():.1%} of "
                    f"'{name}' is kept there, {kept / mask.size:.1%} in the model. "
                    "Build the model with that sparsity."
                )

    def _assign_masks(self, new: dict[str, NDArray[np.bool_]]) -> None:
        """Assigns masks, and moves the moments that are held for kept weights alone."""
        weights, masks = self.named_weights(), self.named_masks()
        for name, mask in new.items():
            old = masks[name].numpy()
            if np.array_equal(old, mask):
                continue
            optimizer = getattr(self, "optimizer", None)
            if isinstance(optimizer, AdamW) and optimizer.has_slots:
                if optimizer.kept_mask(weights[name]) is not None:
                    for slot in optimizer.states(weights[name]):
                        slot.assign(spread_kept(slot.numpy(), old)[mask])
            masks[name].assign(mask)
        if new:
            self.note_densities()

    def _load_optimizer(self, path: str, file: WeightFile, options: Any) -> Any:
        """Loads the optimizer's state; returns the status of TensorFlow checkpoints."""
        optimizer = getattr(self, "optimizer", None)
        legacy = is_legacy(optimizer)
        state = file.legacy_optimizer if legacy else file.optimizer
        saved = len(file.optimizer) > 1 or bool(file.legacy_optimizer)
        if optimizer is not None and saved:
            create_slots(self)
            values = None
            if state and legacy:
                values = [] if file.root is not None else [s.read() for s in state]
            elif state:
                values = self._matched(state)
            if values is None:
                tf.get_logger().warning(
                    f"The optimizer's state in '{path}' is not that of "
                    f"{type(optimizer).__name__}: only the weights were loaded."
                )
                return _partial_status(file)
            if legacy:
                _set_legacy_state(self, values)
            elif [v.shape for v in values] != [stored.shape for stored in state]:
                for variable, value in zip(optimizer.variables, values, strict=True):
                    variable.assign(value)
                return _partial_status(file)
            elif file.root is None:
                for variable, value in zip(optimizer.variables, values, strict=True):
                    variable.assign(value)
        if file.root is None:
            return None
        if not file.root:
            return super().load_weights(file.prefix, options=options)
        return tf.train.Checkpoint(**{file.root: self}).read(file.prefix, options)

    def _matched(self, state: list[Stored]) -> list[NDArray[Any]] | None:
        """Returns values for a new optimizer's variables; None if they do not fit.

        Moments of kept weights alone and moments of all weights are converted.
        """
        masks = {}
        if isinstance(self.optimizer, AdamW):
            for name, mask in self.named_masks().items():
                weight = self.named_weights()[name]
                if self.optimizer.has_slots_of(weight):
                    for slot in self.optimizer.states(weight):
                        masks[id(slot)] = mask.numpy()
        variables, values = list(self.optimizer.variables), []
        if len(variables) != len(state):
            return None
        for variable, stored in zip(variables, state, strict=True):
            value, mask = stored.read(), masks.get(id(variable))
            if mask is not None and value.shape != tuple(variable.shape):
                if value.shape == mask.shape:
                    value = value[mask]
                elif value.shape == (np.count_nonzero(mask),):
                    value = spread_kept(value, mask)
            if value.shape != tuple(variable.shape):
                return None
            values.append(value)
        return values

    def set_weights(self, weights: Any) -> None:
        """Sets all weights, also with those of a dense or sparse twin of the model.

        Args:
            weights: From `get_weights`. If they come without masks, the model keeps
                its own; a dense model ignores masks.
        """
        weights = [np.asarray(weight) for weight in weights]
        is_mask = [v.dtype == tf.bool for v in self.weights]
        if sum(is_mask) and len(weights) == len(is_mask) - sum(is_mask):
            rest = iter(weights)
            weights = [
                variable.numpy() if mask else next(rest)
                for variable, mask in zip(self.weights, is_mask, strict=True)
            ]
        elif len(weights) > len(is_mask):
            unmasked = [weight for weight in weights if weight.dtype != bool]
            weights = unmasked if len(unmasked) == len(is_mask) else weights
        if len(weights) == len(is_mask):
            places = {id(mask): name for name, mask in self.named_masks().items()}
            new = {
                places[id(variable)]: weight.astype(bool)
                for variable, weight in zip(self.weights, weights, strict=True)
                if id(variable) in places and variable.shape == weight.shape
            }
            self._check_masks(new, "of `weights`")
            self._assign_masks(new)
        super().set_weights(weights)
        remask(self)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compiles the model; see `LanguageModel.compile` for the arguments."""
        refuse_keras3(**dict(zip(("optimizer", "loss"), args, strict=False)), **kwargs)
        restored = getattr(self, "optimizer", None)
        loading = kwargs.get("from_serialized", False)
        if loading:  # from a format without our own settings
            kwargs = {**getattr(self, "_compiled_with", {}), **kwargs}
        super().compile(*args, **kwargs)
        if loading and type(restored).__name__ == "RestoredOptimizer":
            self._take_state(restored)

    def _take_state(self, restored: Any) -> None:
        """Takes over the state that Keras restored from a SavedModel but would drop."""
        optimizer, variables = self.optimizer, self.trainable_variables
        if is_legacy(optimizer):
            create_slots(self)
            for variable in optimizer.weights:  # the step, and Nadam's cache
                name = variable.name.removesuffix(":0").split("/")[-1]
                if variable.shape.rank == 0 and name in restored._hyper:
                    variable.assign(restored._hyper[name])
            for variable in variables:
                saved = restored._slots.get(variable._unique_id, {})
                for name, slot in saved.items():
                    optimizer.get_slot(variable, name).assign(slot)
            return
        if len(restored.variables) > 1:
            optimizer.build(variables)
        pairs = list(zip(optimizer.variables, restored.variables, strict=False))
        if all(ours.shape == theirs.shape for ours, theirs in pairs):
            for ours, theirs in pairs:
                ours.assign(theirs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        # The parent refuses to recompile a model whose `compile` is overridden.
        self.compile(**keras.saving.deserialize_keras_object(config))
        if not is_legacy(self.optimizer):
            self.optimizer.build(self.trainable_variables)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if not getattr(self, "_is_compiled", False):
            return config
        settings = {
            "micro_batches": self.micro_batches,
            "recompute": self.recompute,
            "jit_compile": self.jit_compile,
        }
        return {**config, "compiled_with": settings}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        config = dict(config)
        settings = config.pop("compiled_with", {})
        model = super().from_config(config, custom_objects)
        model._set_untracked("_compiled_with", settings)
        return model

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        # Keras leaves legacy optimizers out of its newer formats.
        if is_legacy(getattr(self, "optimizer", None)):
            for index, value in enumerate(self.optimizer.get_weights()):
                store[f"{_LEGACY}{index}"] = value

    def load_own_variables(self, store: Any) -> None:
        count = sum(key.startswith(_LEGACY) for key in store)
        own = {k: store[k] for k in store if not k.startswith(_LEGACY)}
        super().load_own_variables(own)
        values = [np.asarray(store[f"{_LEGACY}{index}"]) for index in range(count)]
        _set_legacy_state(self, values)


def _set_legacy_state(model: Any, values: list[NDArray[Any]]) -> None:
    if values and is_legacy(getattr(model, "optimizer", None)):
        create_slots(model)
        model.optimizer.set_weights(values)


def _partial_status(file: WeightFile) -> Any:
    """Returns TensorFlow's status for a checkpoint; None for other files."""
    if file.root is None:
        return None
    return tf.train.Checkpoint().read(file.prefix).expect_partial()
