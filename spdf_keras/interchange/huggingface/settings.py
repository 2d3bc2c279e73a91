"""`config.json`: the sizes of a model, and what decides how it computes."""

from pathlib import Path
from typing import Any

from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.values import as_type, shown

FILE = "config.json"

# Our setting, and the default that a file without the field stands for: those of the
# class `GPT2Config` of transformers.
_SIZES: dict[str, tuple[str, Any]] = {
    "n_layer": ("num_layers", 12),
    "n_head": ("num_heads", 12),
    "n_embd": ("hidden_dim", 768),
    "vocab_size": ("vocabulary_size", 50257),
    "n_positions": ("max_sequence_length", 1024),
    "layer_norm_epsilon": ("layer_norm_epsilon", 1e-5),
}
# Fields that change what a model computes, with the only value that a GPT here has. A
# file without the field stands for that value.
_FIXED: dict[str, Any] = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "tie_word_embeddings": True,
}
# Fields that may only be missing or empty: weights in another form, or code.
_ABSENT = ("quantization_config", "pruned_heads", "auto_map")
_ACTIVATIONS = {"gelu_new": "gelu_new", "gelu": "gelu"}


def read_sizes(fields: dict[str, Any], file: Path) -> GPTConfig:
    """Returns the sizes of the model that `config.json` describes.

    Args:
        fields: The content of the file.
        file: Names it in errors.

    Raises:
        InputError: If a field has a value that a GPT here cannot have; it is named.
    """
    kind = fields.get("model_type")
    if kind != "gpt2":
        raise InputError(
            f"`model_type` in '{file}' must be gpt2. Received: {shown(kind)}. Models "
            "of other types cannot be read."
        )
    for name, only in _FIXED.items():
        if fields.get(name, only) != only:
            raise InputError(
                f"`{name}` in '{file}' must be {_json(only)}. Received: "
                f"{shown(fields[name])}, and a GPT here does not compute that."
            )
    for name in _ABSENT:
        if fields.get(name):
            raise InputError(
                f"`{name}` in '{file}' must be absent. Received: {shown(fields[name])}."
                " Save the model in float32 with the classes of transformers first."
            )
    activation = fields.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise InputError(
            f"`activation_function` in '{file}' must be one of "
            f"{', '.join(_ACTIVATIONS)}. Received: {shown(activation)}."
        )
    try:
        values = {
            ours: as_type(name, type(default), fields.get(name, default))
            for name, (ours, default) in _SIZES.items()
        }
        if fields.get("n_inner") is not None:
            values["intermediate_dim"] = as_type("n_inner", int, fields["n_inner"])
        return GPTConfig(**values, activation=_ACTIVATIONS[activation])
    except InputError as error:
        raise InputError(f"'{file}' cannot be used: {error}") from error


def to_fields(sizes: GPTConfig, end_token_id: int | None) -> dict[str, Any]:
    """Returns the content of `config.json` for a model.

    Dropouts are 0, as a GPT here trains without, while the class `GPT2Config` has 0.1.
    `n_ctx`, which transformers no longer reads, is for converters of llama.cpp.

    Args:
        sizes: Sizes of the model.
        end_token_id: The token that starts and ends texts; None without a tokenizer.
    """
    inner = sizes.intermediate_dim
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{name: getattr(sizes, ours) for name, (ours, _) in _SIZES.items()},
        "n_ctx": sizes.max_sequence_length,
        "n_inner": None if inner == 4 * sizes.hidden_dim else inner,
        "activation_function": sizes.activation,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "initializer_range": 0.02,
        **_FIXED,
        "use_cache": True,
        "bos_token_id": end_token_id,
        "eos_token_id": end_token_id,
        "dtype": "float32",
        "torch_dtype": "float32",  # the name in transformers 4
    }


def _json(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else shown(value)
