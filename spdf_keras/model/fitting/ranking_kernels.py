"""Masked kernels whose gradient is wanted at pruned weights too."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from spdf_keras.keras2 import keras
from spdf_keras.model.fitting.step_kernels import Handles, StepKernels
from spdf_keras.sparsity.wrapper import PruneFixedRandom

from tf_keras.src.mixed_precision import autocast_variable  # isort: skip


class RankingKernels(StepKernels):
    """The kernels of a step whose gradients rank weights that could grow.

    A handle is a kernel times its mask, float32; its gradient is not masked. Products
    are dense, and gradients of other variables are left out.

    Args:
        blocks: The blocks of the model, in their wrappers.
    """

    shares_blocks = False

    def __init__(self, blocks: Sequence[keras.layers.Layer]) -> None:
        self._blocks = {b.name: b for b in blocks if isinstance(b, PruneFixedRandom)}

    def handles(self) -> Handles:
        """Returns the masked kernels, for a tape to watch, in the order of masks."""
        found: Handles = {}
        # A cast read would round the float32 weights.
        with autocast_variable.enable_auto_cast_variables(None):
            for owner, block in self._blocks.items():
                names = block.layer.prunable_names
                for name, (weight, mask, _) in zip(
                    names, block.pruning_vars, strict=True
                ):
                    values = tf.convert_to_tensor(weight)
                    found[owner, name] = values * tf.cast(mask, values.dtype)
        return found

    def of_block(self, block: keras.layers.Layer, handles: Handles) -> dict[str, Any]:
        """Returns the kernels of one block by name, in its compute dtype."""
        return {
            key[1]: tf.cast(handle, block.compute_dtype)
            for key, handle in self.handles_of(block, handles).items()
        }

    @property
    def _owners(self) -> set[str]:
        return set(self._blocks)

    def merge(
        self,
        variables: Sequence[tf.Variable],
        gradients: Sequence[Any],
        of_handles: Handles,
    ) -> list[Any]:
        """Returns the gradients of the handles alone."""
        return list(of_handles.values())

    def zeros(self, variables: Sequence[tf.Variable]) -> list[tf.Tensor]:
        """Returns zeros in the shapes of the gradients."""
        return [
            tf.zeros(weight.shape)
            for block in self._blocks.values()
            for weight, _, _ in block.pruning_vars
        ]


def ranking_function(
    model: Any, compute: Callable[..., tuple[Any, list[tf.Tensor]]]
) -> Callable[[Any], list[Any]]:
    """Returns a function of a batch: the gradients by which a method ranks.

    Args:
        model: A compiled model.
        compute: Computes loss and gradients of a replica's part of the batch with the
            kernels that it is given.
    """

    def of_replica(data: Any) -> list[tf.Tensor]:
        _, gradients = compute(data, RankingKernels(model.blocks))
        scale = getattr(model.optimizer, "loss_scale", 1.0)
        context = tf.distribute.get_replica_context()
        return [context.all_reduce("sum", g) / scale for g in gradients]

    def of_batch(data: Any) -> list[Any]:
        strategy = model.distribute_strategy
        results = strategy.run(of_replica, args=(data,))
        return [strategy.experimental_local_results(result)[0] for result in results]

    if model.run_eagerly:
        return of_batch
    # AutoGraph would take seconds where no layer needs it.
    converts = not model.needs_no_autograph()
    return tf.function(of_batch, reduce_retracing=True, autograph=converts)
