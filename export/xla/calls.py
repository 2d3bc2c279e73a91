"""Kernels whose products are custom calls, for programs that skip zeros on CPUs.

The library of `spdf_keras/native/xla` computes them. A program names a kernel, or its
mask, by an id: the process that runs the program packs it and gets the id.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

# Number of the calls' interface, as `spdf_keras/native/xla/registry.h` has it.
INTERFACE = 1

LINEAR = "spdf_linear"
MASKED_LINEAR = "spdf_masked_linear"
MASKED_GRADIENTS = "spdf_masked_gradients"
TARGETS = (LINEAR, MASKED_LINEAR, MASKED_GRADIENTS)


class PackedCall(NamedTuple):
    """A kernel that the runner has packed: a `Kernel` without gradients.

    Attributes:
        id: Its id, int32, `()`.
        shape: `(in_features, out_features)`.
    """

    id: tf.Tensor
    shape: tf.TensorShape

    def linear(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """See `Kernel`."""
        (y,) = _call(LINEAR, [x, self.id, bias], [(x.shape[0], self.shape[1])])
        return y


class MaskedCall(NamedTuple):
    """A dense kernel whose mask the runner has prepared: a `Kernel` with gradients.

    Attributes:
        values: `(in_features, out_features)`, float32; read where the mask is 1.
        mask_id: The id of the mask, int32, `()`.
    """

    values: tf.Tensor
    mask_id: tf.Tensor

    @property
    def shape(self) -> tf.TensorShape:
        """See `Kernel`."""
        return self.values.shape

    def linear(self, x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """See `Kernel`; the kernel's gradient is zero where the mask is 0."""

        @tf.custom_gradient
        def product(x: tf.Tensor, values: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
            def gradients(dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
                dx, dvalues = _call(
                    MASKED_GRADIENTS,
                    [x, values, self.mask_id, dy],
                    [x.shape, values.shape],
                )
                return dx, dvalues, tf.reduce_sum(dy, 0)

            outputs = [(x.shape[0], values.shape[1])]
            (y,) = _call(MASKED_LINEAR, [x, values, self.mask_id, bias], outputs)
            return y, gradients

        return product(x, self.values, bias)


def _call(
    target: str, operands: list[tf.Tensor], shapes: Sequence[Sequence[int]]
) -> list[tf.Tensor]:
    # `tf.raw_ops` lacks this operation.
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    return list(
        gen_xla_ops.xla_custom_call_v2(
            operands=operands,
            call_target_name=target,
            backend_config="",
            has_side_effect=False,
            result_dtypes=[tf.float32] * len(shapes),
            result_shapes=[tf.TensorShape(shape) for shape in shapes],
        )
    )
