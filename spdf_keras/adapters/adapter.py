"""An adapter by itself, apart from the model; this needs no TensorFlow."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spdf_keras.config import LoRAConfig
from spdf_keras.errors import InputError

if TYPE_CHECKING:
    from spdf_keras.model.gpt import GPT


@dataclass(frozen=True)
class Adapter:
    """The settings and weights of an adapter, apart from the model.

    Attributes:
        lora: Its settings.
        weights: Its weights by the paths of `GPT.named_adapters`. A pair of P and Q
            that is missing counts as zero.
        source: Where it comes from, for errors.
    """

    lora: LoRAConfig
    weights: dict[str, NDArray[np.float32]]
    source: str = "the adapter"

    @classmethod
    def of(cls, model: "GPT") -> "Adapter":
        """Takes the adapter of a model.

        Raises:
            InputError: If it has none.
        """
        weights = model.named_adapters()
        return cls(require_lora(model), {p: w.numpy() for p, w in weights.items()})

    @property
    def fingerprint(self) -> str:
        """A checksum of the weights, by which a run knows where it started."""
        digest = hashlib.sha256()
        for path in sorted(self.weights):
            weight = np.ascontiguousarray(self.weights[path], np.float32)
            digest.update(f"{path}:{weight.shape}".encode() + weight.tobytes())
        return digest.hexdigest()

    def put_into(self, model: "GPT") -> None:
        """Assigns the weights to a model with adapters of the same settings.

        Raises:
            InputError: If they do not fit; nothing is assigned then.
        """
        ours = model.named_adapters()
        for path in sorted(self.weights.keys() | ours.keys()):
            weight = self.weights.get(path)
            shape = tuple(ours[path].shape) if path in ours else "unknown"
            if weight is not None and weight.shape != shape:
                raise InputError(
                    f"{self.source[0].upper()}{self.source[1:]} does not fit the "
                    f"model: '{path}' is {weight.shape} in it and {shape} in the "
                    "model. Give the model that it was trained on."
                )
        for path, variable in ours.items():
            variable.assign(self.weights.get(path, np.zeros(variable.shape)))


def require_lora(model: "GPT") -> LoRAConfig:
    """Returns the settings of a model's adapters.

    Raises:
        InputError: If it has none.
    """
    if model.lora is None:
        raise InputError(
            "`model` must have an adapter, as `spdf-keras finetune --lora` trains one. "
            "Received: a model without one."
        )
    return model.lora


def refuse_adapter(model: "GPT") -> None:
    """Refuses a model with an adapter, where weights must be all there is.

    Raises:
        InputError: If it has one.
    """
    if model.lora is not None:
        raise InputError(
            "`model` must be a GPT without an adapter. Received: one with LoRA. Take "
            "what `spdf_keras.adapters.merge.merge` returns of it."
        )
