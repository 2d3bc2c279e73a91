"""`generation_config.json`: how transformers decodes, and our `[decode]` settings."""

from pathlib import Path
from typing import Any

from spdf_keras.config import Config, DecodeConfig, config_from_tables
from spdf_keras.errors import InputError
from spdf_keras.interchange.json_files import read_json

FILE = "generation_config.json"

# Our settings by the fields of transformers.
_SETTINGS = {
    "max_new_tokens": "max_new_tokens",
    "num_beams": "num_beams",
    "length_penalty": "length_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "repetition_penalty": "repetition_penalty",
    "do_sample": "sample",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
}
_BEAMS, _DRAWS = ("length_penalty",), ("temperature", "top_k", "top_p")
# Fields that change no token of a model here, or repeat what `config.json` says.
_HARMLESS = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("use_cache", "max_length", "early_stopping", "return_dict_in_generate"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("num_return_sequences", "num_beam_groups", "cache_implementation"),
    "renormalize_logits",
)


def read_decoding(folder: Path) -> tuple[DecodeConfig, list[str]]:
    """Reads how a checkpoint's model is to decode.

    Args:
        folder: The folder of the checkpoint.

    Returns:
        The settings, the defaults if the folder has none, and a sentence for each
        field of the file that has no effect here.

    Raises:
        InputError: If the file is no JSON object.
    """
    file = folder / FILE
    if not file.is_file():
        return DecodeConfig(), []
    fields = read_json(file, "the settings of generation")
    given = {k: v for k, v in fields.items() if v is not None and not k.startswith("_")}
    given.pop("transformers_version", None)
    table = {ours: given.pop(name) for name, ours in _SETTINGS.items() if name in given}
    notes = [
        f"`{name}` of '{file}' has no effect here."
        for name, value in given.items()
        if name not in _HARMLESS and value not in (False, 0, 1.0, [], {})
    ]
    if not table.get("sample"):  # transformers reads them only where it draws
        table = {k: v for k, v in table.items() if k not in _DRAWS}
    try:
        return config_from_tables({"decode": table}).decode, notes
    except InputError as error:
        return Config().decode, [*notes, f"'{file}' has no effect here: {error}"]


def to_fields(decode: DecodeConfig, end_token_ids: list[int]) -> dict[str, Any]:
    """Returns the content of `generation_config.json`.

    A beam search here ends when no beam can become better than the best finished one,
    which is `early_stopping` `never`, and computes probabilities of the tokens that
    `no_repeat_ngram_size` leaves, which is `renormalize_logits`.

    Args:
        decode: The settings.
        end_token_ids: Tokens that end a continuation; the first is the end of text.
    """
    fields: dict[str, Any] = {}
    if end_token_ids:
        first, *others = end_token_ids
        fields["bos_token_id"] = fields["pad_token_id"] = first
        fields["eos_token_id"] = [first, *others] if others else first
    # transformers warns of settings that the way of decoding does not read.
    unread = (() if decode.num_beams > 1 else _BEAMS) + (
        () if decode.sample else _DRAWS
    )
    fields |= {
        name: getattr(decode, ours)
        for name, ours in _SETTINGS.items()
        if name not in unread
    }
    if decode.num_beams > 1:
        fields |= {"early_stopping": "never", "renormalize_logits": True}
    return fields
