"""A decoder block with low-rank adapters beside its frozen kernels."""

import dataclasses
import hashlib
from typing import Any

import tensorflow as tf

from spdf_keras.adapters.dropout import Dropout
from spdf_keras.config import GPTConfig, LoRAConfig
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.kernels import AdaptedKernel
from spdf_keras.model.block import GPTBlock


@keras.saving.register_keras_serializable("spdf_keras")
class AdaptedBlock(GPTBlock):
    """A `GPTBlock` whose own weights are frozen, and whose adapters train.

    A matrix W with an adapter computes `x @ W + scale * (dropout(x) @ P) @ Q`. Q starts
    as zero, so a new adapter changes no output, not even in its last bit. The block
    adapts the kernels that its wrapper gives it: a mask applies to W alone, and
    products that skip zeros skip those of W.

    Args:
        *args: As in `GPTBlock`; so is `kwargs`.
        lora: The settings of the adapters.
        **kwargs: See `args`.

    Call arguments:
        inputs: `(batch, length, hidden_dim)`.
        training: Whether dropout applies.
        kernels: The six kernels by name, to be adapted; if None the block's own.
        *args: As in `GPTBlock`; so is `kwargs`.
        **kwargs: See `args`.

    Example:
        >>> block = AdaptedBlock(num_heads=2, lora=LoRAConfig(rank=1))
        >>> block(tf.zeros((1, 4, 8))).shape, len(block.trainable_weights)
        (TensorShape([1, 4, 8]), 4)

    Reference:
        [Hu et al., 2021](https://arxiv.org/abs/2106.09685); P is drawn as PEFT draws
        its A.
    """

    def __init__(
        self, *args: Any, lora: LoRAConfig | dict[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lora = lora if isinstance(lora, LoRAConfig) else LoRAConfig(**lora)

    def add_weight(self, *args: Any, **kwargs: Any) -> tf.Variable:
        # The parent's weights are frozen.
        kwargs.setdefault("trainable", False)
        return super().add_weight(*args, **kwargs)

    def _create_weights(self, input_shape: Any) -> None:
        for norm in (self.attention_norm, self.feedforward_norm):
            norm.trainable = False
        super()._create_weights(input_shape)
        self._adapters: list[tf.Variable] = []
        for name, kernel in zip(self.prunable_names, self._kernels, strict=True):
            if name not in self.lora.targets:
                continue
            rows, columns = kernel.shape
            # Uniform up to the root of 1 / rows: Kaiming's draw with a = sqrt(5).
            down = keras.initializers.VarianceScaling(
                1 / 3, "fan_in", "uniform", seed=self._seed_of(name, "down")
            )
            for part, shape, initializer in (
                ("down", (rows, self.lora.rank), down),
                ("up", (self.lora.rank, columns), "zeros"),
            ):
                weight = self.add_weight(
                    name=f"{name}/adapter_{part}",
                    shape=shape,
                    initializer=initializer,
                    trainable=True,
                )
                self._adapters.append(weight)

    def _seed_of(self, name: str, use: str) -> int:
        text = f"lora:{self.lora.seed}:{self.name}/{name}:{use}"
        digest = hashlib.sha256(text.encode()).digest()
        return int.from_bytes(digest[:4], "little") >> 1

    @property
    def adapted_names(self) -> list[str]:
        """Names of the kernels that have an adapter, in the order of the kernels."""
        return [name for name in self.prunable_names if name in self.lora.targets]

    def named_adapters(self) -> dict[str, tf.Variable]:
        """Returns the weights of the adapters by their paths inside the block."""
        paths = [
            f"{name}/adapter_{part}"
            for name in self.adapted_names
            for part in ("down", "up")
        ]
        return dict(zip(paths, self._adapters, strict=True))

    def named_weights(self) -> dict[str, tf.Variable]:
        return {**super().named_weights(), **self.named_adapters()}

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,
        kernels: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        kernels = dict(kernels or self.own_kernels())
        adapters = self.named_adapters()
        for name in self.adapted_names:
            dropout = None
            if training and self.lora.dropout:
                seed = self._seed_of(name, "dropout")
                dropout = Dropout.here(self.lora.dropout, seed, inputs)
            kernels[name] = AdaptedKernel(
                kernels[name],
                tf.convert_to_tensor(adapters[f"{name}/adapter_down"]),
                tf.convert_to_tensor(adapters[f"{name}/adapter_up"]),
                self.lora.scale,
                dropout,
            )
        return super().call(inputs, training, kernels, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "lora": dataclasses.asdict(self.lora)}


def check_rank(lora: LoRAConfig, sizes: GPTConfig) -> None:
    """Refuses an adapter that is no smaller than the matrices that it adapts.

    Raises:
        InputError: If its rank is larger than a side of them.
    """
    # The width inside the feedforward part may be smaller than the model's.
    wide = {*lora.targets} & {"intermediate", "output"}
    largest = min(sizes.hidden_dim, sizes.intermediate_dim if wide else 1 << 31)
    if lora.rank > largest:
        raise InputError(
            f"`lora_rank` must be at most {largest}, the smaller side of the matrices "
            f"that it adapts. Received: lora_rank={lora.rank}."
        )
