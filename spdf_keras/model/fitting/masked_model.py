"""How masks take part in training: an optimizer knows them, methods update them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.model.fitting.checked import CheckedModel
from spdf_keras.model.fitting.mask_updates import MaskUpdates, check_optimizer
from spdf_keras.model.fitting.ranking_kernels import ranking_function
from spdf_keras.model.fitting.rows import only_tensor
from spdf_keras.model.fitting.step_kernels import StepKernels
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.sparsity.algorithms.base import SparsityMethod
from spdf_keras.sparsity.algorithms.registry import make_method
from spdf_keras.sparsity.algorithms.static import Static
from spdf_keras.sparsity.wrapper import PruneFixedRandom


class MaskedModel(CheckedModel):
    """A Keras model whose blocks may have masks.

    Attributes:
        total_steps: Steps of the whole training, which `compile` was given.
        mask_updates: Updates the masks; None if nothing does.
    """

    total_steps = 0
    mask_updates: MaskUpdates | None = None

    def _prepare_masks(self, total_steps: int) -> None:
        """Prepares the optimizer for masks, and the updates of masks."""
        self.total_steps = int(total_steps)
        method = self._method(self.total_steps)
        with self.distribute_strategy.scope():
            self._prepare_optimizer(method)
        updates = None if method is None else MaskUpdates(self, method)
        self._set_untracked("mask_updates", updates)

    def _method(self, total_steps: int) -> SparsityMethod | None:
        """Returns the method that updates the masks, if one does."""
        wrappers = [b for b in self.blocks if isinstance(b, PruneFixedRandom)]
        settings = wrappers[0].settings if wrappers else None
        if settings is None or type(make_method(settings)) is Static:
            return None
        check_optimizer(self.optimizer, settings)
        return make_method(settings, total_steps)

    def make_train_function(self, force: bool = False) -> Any:
        """Calls `keras.Model.make_train_function`, unless a method updates masks."""
        if self.mask_updates is None:
            return super().make_train_function(force)
        made = getattr(self, "train_function", None)
        if made is None or force:
            made = self.mask_updates.train_function()
            self.train_function = made
        return made

    def ranking_function(self) -> Callable[[Any], list[Any]]:
        """Returns a function of a batch: the gradients by which weights may grow.

        They are those of the masked kernels, at pruned weights too, in the order of
        `named_masks`: of the loss of the whole batch, before clipping.
        """

        def compute(data: Any, kernels: StepKernels) -> Any:
            token_ids, labels, weights = step_inputs(data)
            return self._accumulate(token_ids, labels, weights, kernels, logs=False)

        return ranking_function(self, compute)

    def note_densities(self) -> bool:
        """Notes how many weights masks keep; whether other kernels skip zeros now."""
        changed = False
        for block in self.blocks:
            if isinstance(block, PruneFixedRandom):
                before = block.skipped_names
                kept = (np.count_nonzero(mask.numpy()) for mask in block.masks)
                block.note_density(int(sum(kept)))
                changed |= block.skipped_names != before
        return changed

    def _prepare_optimizer(self, method: SparsityMethod | None) -> None:
        in_float16 = self.embedding.compute_dtype == "float16"
        if isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer):
            return
        if isinstance(self.optimizer, AdamW):
            weights, masks = self.named_weights(), self.named_masks()
            trained = {id(variable) for variable in self.trainable_variables}
            pairs = [
                (weights[path], mask)
                for path, mask in masks.items()
                if id(weights[path]) in trained
            ]
            skips = bool(self.sparse_kernels) and not self.jit_compile
            is_latent = method is not None and method.is_latent
            self.optimizer.prepare(
                [] if is_latent else pairs, in_float16, skips, method
            )
        elif in_float16:
            raise InputError(
                "`optimizer` of a model in mixed_float16 must be spdf_keras' AdamW, "
                f"which scales the loss. Received: {type(self.optimizer).__name__}. "
                "Take it, or precision='mixed_bfloat16'."
            )


def step_inputs(data: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """Returns token ids, labels and weights (or None) of a batch as Keras has it."""
    token_ids, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    # The model's input casts other integers too, but `recompute` bypasses it.
    token_ids = tf.cast(only_tensor(token_ids), tf.int32)
    return token_ids, only_tensor(labels), only_tensor(weights)
