"""Reads KerasNLP's GPT-2, from memory or from the folder of a preset."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spdf_keras.config import GPTConfig, TrainConfig
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.interchange.foreign import ForeignModel, Weights
from spdf_keras.interchange.json_files import read_json
from spdf_keras.interchange.keras_nlp.tokenizer import from_keras_nlp_tokenizer
from spdf_keras.interchange.keras_nlp.weights import backbone_variables, quiet_walk
from spdf_keras.keras2 import refuse_keras3
from spdf_keras.model.build import compile_for_pretraining
from spdf_keras.values import as_type, shown

if TYPE_CHECKING:
    from spdf_keras.model.gpt import GPT

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_SIZES = (
    *("num_layers", "num_heads", "hidden_dim", "intermediate_dim"),
    *("vocabulary_size", "max_sequence_length"),
)


def from_keras_nlp(model: Any) -> "GPT":
    """Makes a GPT with the weights of KerasNLP's GPT-2.

    `from_keras_nlp_tokenizer` makes its tokenizer.

    Args:
        model: A `keras_nlp.models.GPT2CausalLM` or `GPT2Backbone` of Keras 2.

    Returns:
        The model, compiled for pre-training as `build_gpt` compiles one. It computes
        the logits of KerasNLP's model, up to the rounding of sums.

    Raises:
        InputError: If `model` is something else.
    """
    gpt = _foreign(model).build()
    compile_for_pretraining(gpt, TrainConfig())
    return gpt


def open_keras_nlp(folder: str | Path) -> ForeignModel:
    """Loads the preset of a GPT-2 that KerasNLP, or an export here, has written.

    Its `config.json` names Python classes, which `from_preset` would import. Here only
    the sizes in it are read.

    Args:
        folder: The folder; nothing is downloaded.

    Raises:
        InputError: If there is no such folder, or it holds another model, or its
            weights do not fit.
    """
    from keras_nlp.models import GPT2Backbone

    folder = Path(folder)
    file, weights = (folder / name for name in (_CONFIG, _WEIGHTS))
    for needed in (file, weights):
        if not needed.is_file():
            raise InputError(
                f"No preset in '{folder}': there is no {needed.name}. Give the folder "
                "of a KerasNLP preset; nothing is downloaded."
            )
    about = read_json(file, "the settings of the model")
    kind, fields = about.get("class_name"), about.get("config")
    if kind != "GPT2Backbone" or not isinstance(fields, dict):
        raise InputError(
            f"`class_name` in '{file}' must be GPT2Backbone. Received: {shown(kind)}. "
            "Models of other kinds cannot be read."
        )
    try:
        sizes = GPTConfig(**{n: as_type(n, int, fields.get(n)) for n in _SIZES})
        dropout = as_type("dropout", float, fields.get("dropout", 0.1))
        backbone = GPT2Backbone(
            **{name: getattr(sizes, name) for name in _SIZES}, dropout=dropout
        )
        _check_count(weights, backbone.count_params())
        with quiet_walk():
            backbone.load_weights(str(weights))
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = str(error).strip().split("\n")[0]
        raise InputError(f"The preset '{folder}' cannot be used: {first}") from error
    return dataclasses.replace(
        _foreign(backbone),
        tokenizer=partial(Tokenizer.load, folder / "assets" / "tokenizer"),
        origin={"format": "keras_nlp", "folder": folder.resolve().name},
        files=(weights,),
    )


def _check_count(file: Path, expected: int) -> None:
    """Refuses weights of more or fewer layers, which Keras would load in part."""
    import h5py

    sizes = []
    with h5py.File(file, "r") as content:
        content.visititems(lambda _, item: sizes.append(getattr(item, "size", 0)))
    if sum(sizes) != expected:
        raise InputError(
            f"{file.name} must have the {expected:,} weights of the model in "
            f"{_CONFIG}. Received: {sum(sizes):,}."
        )


def _foreign(model: Any) -> ForeignModel:
    from keras_nlp.models import GPT2Backbone, GPT2CausalLM

    refuse_keras3(model=model)
    if not isinstance(model, GPT2CausalLM | GPT2Backbone):
        raise InputError(
            "`model` must be a GPT2CausalLM or a GPT2Backbone of KerasNLP. Received: "
            f"{type(model).__name__}."
        )
    backbone = model.backbone if isinstance(model, GPT2CausalLM) else model
    sizes = GPTConfig(
        **{name: getattr(backbone, name) for name in _SIZES},
        layer_norm_epsilon=backbone.layer_norm.epsilon,
    )
    notes = []
    if backbone.dropout:
        notes.append(
            f"A GPT here trains without dropout: dropout={backbone.dropout} has no "
            "effect."
        )
    return ForeignModel(
        sizes=sizes,
        read=partial(_weights, backbone, sizes),
        tokenizer=partial(from_keras_nlp_tokenizer, model),
        notes=tuple(notes),
        origin={"format": "keras_nlp"},
    )


def _weights(backbone: Any, sizes: GPTConfig) -> Weights:
    d, inner = sizes.hidden_dim, sizes.intermediate_dim
    shapes = {
        "intermediate/kernel": (d, inner),
        "output/kernel": (inner, d),
        "intermediate/bias": (inner,),
    }
    for path, variable in backbone_variables(backbone).items():
        value = np.asarray(variable.numpy(), np.float32)
        kind = path.partition("/")[2]
        if kind.endswith("/kernel"):
            value = value.reshape(shapes.get(kind, (d, d)))
        elif kind.endswith("/bias"):
            value = value.reshape(shapes.get(kind, (d,)))
        yield path, value
