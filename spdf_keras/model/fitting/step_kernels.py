"""The kernels of one training step whose zeros are skipped.

Their kept values are taken and laid out once per step, and forward pass, backward pass
and all micro-batches share them. The gradient of such a kernel is a vector of its kept
values, a quarter of the kernel at 75 % sparsity, until an optimizer asks for more.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from spdf_keras.keras2 import keras
from spdf_keras.kernels import SkippingKernel
from spdf_keras.model.substitution import substituted
from spdf_keras.native.tensorflow.calls import is_compiled
from spdf_keras.native.tensorflow.products import keep, spread
from spdf_keras.sparsity.wrapper import PruneFixedRandom

# A handle stands for the kept values of a kernel, to which its gradient flows: products
# do not read them, as they read the layout.
Handles = dict[tuple[str, str], tf.Tensor]


class _StepKernel(NamedTuple):
    """A kernel of the step.

    Attributes:
        variable: Its variable.
        mask: The variable of its mask.
        lay_out: Returns it as a `SkippingKernel`.
    """

    variable: tf.Variable
    mask: tf.Variable
    lay_out: Callable[[], SkippingKernel]


class StepKernels:
    """Lays out the kernels of a step, and turns their gradients into variables'.

    Attributes:
        shares_blocks: Whether `SharedBlock` knows the kernels.

    Args:
        blocks: The blocks of the model, in their wrappers.
        at_use: Lay a kernel out whenever its block is computed, so that the layouts of
            all blocks are never in memory together.
    """

    shares_blocks = True

    def __init__(
        self, blocks: Sequence[keras.layers.Layer], at_use: bool = False
    ) -> None:
        self._kernels: dict[tuple[str, str], _StepKernel] = {}
        self._keeps_count = all(getattr(b, "keeps_count", True) for b in blocks)
        # No layout can pass through a program of XLA, whose products make their own.
        for block in () if is_compiled() else blocks:
            if not isinstance(block, PruneFixedRandom):
                continue
            for name, (variable, mask) in block.skipped_variables().items():
                values, kept = map(tf.convert_to_tensor, (variable, mask))
                lay_out = partial(
                    SkippingKernel.lay_out, values, kept, block.compute_dtype
                )
                if not at_use:
                    lay_out = partial(_itself, lay_out())
                self._kernels[block.name, name] = _StepKernel(variable, mask, lay_out)

    def handles(self) -> Handles:
        """Returns new handles, for a tape to watch."""
        return {key: tf.zeros(0) for key in self._kernels}

    def handles_of(self, block: keras.layers.Layer, handles: Handles) -> Handles:
        """Returns the handles of one block."""
        return {key: handle for key, handle in handles.items() if key[0] == block.name}

    def of_block(
        self, block: keras.layers.Layer, handles: Handles
    ) -> dict[str, SkippingKernel]:
        """Returns the kernels of one block by name, with their handles."""
        return {
            key[1]: self._kernels[key].lay_out()._replace(kept=handle)
            for key, handle in self.handles_of(block, handles).items()
        }

    @contextlib.contextmanager
    def bound(
        self, blocks: Sequence[keras.layers.Layer], handles: Handles
    ) -> Iterator[None]:
        """Makes blocks compute with the kernels of the step while the block runs."""
        owners = self._owners
        with substituted(
            (block, "given_kernels", self.of_block(block, handles))
            for block in blocks
            if block.name in owners
        ):
            yield

    @property
    def _owners(self) -> set[str]:
        """Names of the blocks that have a kernel here."""
        return {owner for owner, _ in self._kernels}

    def merge(
        self,
        variables: Sequence[tf.Variable],
        gradients: Sequence[Any],
        of_handles: dict[tuple[str, str], tf.Tensor],
    ) -> list[Any]:
        """Returns the gradient of each variable: packed, if it is one of the step's.

        Args:
            variables: The variables.
            gradients: Their own gradients, through all but the products; mostly None.
            of_handles: The gradients of the handles.
        """
        merged = list(gradients)
        places = {id(variable): i for i, variable in enumerate(variables)}
        for key, kernel in self._kernels.items():
            place, packed = places.get(id(kernel.variable)), of_handles[key]
            if place is None:  # it is not trained
                continue
            if merged[place] is not None:  # a loss reads the variable itself
                dense = tf.convert_to_tensor(merged[place])
                packed += keep(dense, tf.convert_to_tensor(kernel.mask)).values
            merged[place] = packed
        return merged

    def zeros(self, variables: Sequence[tf.Variable]) -> list[tf.Tensor]:
        """Returns zeros in the shapes of merged gradients."""
        shapes: dict[int, Any] = {id(v): v.shape for v in variables}
        for kernel in self._kernels.values():
            shapes[id(kernel.variable)] = (self._num_kept(kernel.mask),)
        return [tf.zeros(shapes[id(variable)]) for variable in variables]

    def _num_kept(self, mask: tf.Variable) -> Any:
        if not self._keeps_count:
            return tf.math.count_nonzero(tf.convert_to_tensor(mask), dtype=tf.int32)
        with tf.init_scope():
            return np.count_nonzero(tf.convert_to_tensor(mask).numpy())

    def spread(
        self,
        variables: Sequence[tf.Variable],
        gradients: Sequence[tf.Tensor],
        takes_packed: Callable[[tf.Variable], bool],
    ) -> list[tf.Tensor]:
        """Returns merged gradients, dense where the optimizer does not take packed."""
        masks = {id(k.variable): k.mask for k in self._kernels.values()}
        return [
            gradient
            if id(v) not in masks or takes_packed(v)
            else spread(gradient, tf.convert_to_tensor(masks[id(v)]))
            for v, gradient in zip(variables, gradients, strict=True)
        ]


def _itself(kernel: SkippingKernel) -> SkippingKernel:
    return kernel
