"""Which variable of KerasNLP's GPT-2 holds which weight of ours."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spdf_keras.keras2 import keras
from spdf_keras.model.paths import block_name


def backbone_variables(backbone: Any) -> dict[str, Any]:
    """Returns the variables of a `GPT2Backbone` by the paths of our weights.

    Kernels of attention have an axis of heads there; in the order of rows they are
    ours, so `reshape` alone turns one into the other.

    Args:
        backbone: The backbone.
    """
    return dict(_variables(backbone))


@contextmanager
def quiet_walk() -> Iterator[None]:
    """Keeps quiet an advice of Keras that saving and loading of weights provokes.

    For that, KerasNLP reads every attribute of a model, and some are deprecated.
    """
    with warnings.catch_warnings():
        for name in ("Model.state_updates", "layer.updates"):
            warnings.filterwarnings("ignore", f"`{name}` will be removed")
        yield


def _variables(backbone: Any) -> Iterator[tuple[str, Any]]:
    (token,) = backbone.token_embedding.weights
    (position,) = backbone.position_embedding.weights
    yield "embedding/token", token
    yield "embedding/position", position
    for index, layer in enumerate(backbone.transformer_layers):
        block, attention = block_name(index), layer._self_attention_layer
        for name, dense in (
            ("query", attention._query_dense),
            ("key", attention._key_dense),
            ("value", attention._value_dense),
            ("attention_output", attention._output_dense),
            ("intermediate", layer._feedforward_intermediate_dense),
            ("output", layer._feedforward_output_dense),
        ):
            yield f"{block}/{name}/kernel", dense.kernel
            yield f"{block}/{name}/bias", dense.bias
        yield from _norm(f"{block}/attention_norm", layer._self_attention_layer_norm)
        yield from _norm(f"{block}/feedforward_norm", layer._feedforward_layer_norm)
    yield from _norm("final_norm", backbone.layer_norm)


def _norm(path: str, norm: keras.layers.Layer) -> Iterator[tuple[str, Any]]:
    yield f"{path}/gamma", norm.gamma
    yield f"{path}/beta", norm.beta
