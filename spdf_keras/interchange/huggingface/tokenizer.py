"""The tokenizer of a checkpoint: `tokenizer.json`, or `vocab.json` and `merges.txt`."""

import json
from pathlib import Path
from typing import Any

from spdf_keras.data.tokenizers.bpe import END_OF_TEXT, Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.interchange.json_files import read_json
from spdf_keras.values import shown

FILE, SETTINGS, SPECIAL = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_ADDED = "added_tokens.json"

# What a part of `tokenizer.json` may hold, so that it encodes as GPT-2's tokenizer.
_MODEL = {
    "type": ("BPE",),
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}
_PARTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "pre_tokenizer": {
        "type": ("ByteLevel",),
        "add_prefix_space": (False,),
        "use_regex": (None, True),
    },
    "decoder": {"type": ("ByteLevel",)},
}
# Options of `tokenizer_config.json` that would change the ids of a text.
_OPTIONS = ("add_prefix_space", "add_bos_token", "add_eos_token")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a tokenizer that `read_tokenizer` may read."""
    return any((folder / name).is_file() for name in (FILE, "vocab.json"))


def read_tokenizer(folder: str | Path) -> Tokenizer:
    """Reads the tokenizer of a checkpoint, if it is one of GPT-2's kind.

    Hugging Face takes the text `<|endoftext|>` for the token, while a `Tokenizer`
    encodes it as characters. All other texts have equal ids.

    Args:
        folder: The folder of the checkpoint. `tokenizer.json` comes first, as in
            transformers.

    Raises:
        InputError: If there is none, or it is of another kind, or has tokens beside
            the vocabulary; what differs is named.
    """
    folder = Path(folder)
    settings = folder / SETTINGS
    if settings.is_file():
        options = read_json(settings, "the settings of the tokenizer")
        for name in _OPTIONS:
            if options.get(name):
                raise _refused(settings, name, options[name], "false")
    file = folder / FILE
    if not file.is_file():
        added = folder / _ADDED
        if added.is_file():
            _check_added(added, read_json(added, "the added tokens"))
        return Tokenizer.load(folder)
    return _parsed(file, read_json(file, "the tokenizer"))


def _parsed(file: Path, content: dict[str, Any]) -> Tokenizer:
    model = content.get("model")
    if not isinstance(model, dict):
        raise InputError(f"'{file}' must have a `model`, as a tokenizer has.")
    _check_part(file, "model", model, _MODEL)
    if content.get("normalizer") is not None:
        raise _refused(file, "normalizer", content["normalizer"], "null")
    for part, allowed in _PARTS.items():
        _check_part(file, part, content.get(part), allowed)
    after = content.get("post_processor")
    if after is not None:  # that of bytes moves offsets, and adds no token
        _check_part(file, "post_processor", after, {"type": ("ByteLevel",)})
    try:
        added = {item["content"]: item["id"] for item in content["added_tokens"]}
        vocabulary = dict(model["vocab"])
        merges: list[Any] = [
            tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
            for merge in model["merges"]
        ]
        ids = [*added.values(), *vocabulary.values()]
        is_sound = all(len(pair) == 2 for pair in merges) and all(
            type(number) is int for number in ids
        )
    except (KeyError, TypeError, ValueError):
        is_sound = False
    if not is_sound:
        raise InputError(
            f"'{file}' must have a `vocab` of token to id, `merges` of two tokens "
            "each, and `added_tokens` with `content` and `id`."
        )
    _check_added(file, added)
    try:
        return Tokenizer({**vocabulary, **added}, merges)
    except InputError as error:
        raise InputError(f"The tokenizer '{file}' cannot be used: {error}") from error


def _check_part(
    file: Path, part: str, found: Any, allowed: dict[str, tuple[Any, ...]]
) -> None:
    if not isinstance(found, dict):
        raise _refused(file, part, found, f"of type {allowed['type'][0]}")
    for key, values in allowed.items():
        if not any(found.get(key) is v or found.get(key) == v for v in values):
            must = " or ".join(json.dumps(value) for value in values)
            raise _refused(file, f"{part}.{key}", found.get(key), must)


def _check_added(file: Path, added: dict[str, Any]) -> None:
    others = [token for token in added if token != END_OF_TEXT]
    if others:
        raise InputError(
            f"The tokens that '{file}' adds to its vocabulary must be {END_OF_TEXT} "
            f"alone. Received: {', '.join(map(shown, others[:3]))}. A tokenizer here "
            "would split the text of the others."
        )


def _refused(file: Path, name: str, received: Any, must: str) -> InputError:
    return InputError(
        f"`{name}` in '{file}' must be {must}, as in GPT-2's byte-level BPE. Received: "
        f"{shown(received)}."
    )


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Writes the files by which transformers knows a GPT-2 tokenizer.

    Args:
        tokenizer: The tokenizer.
        folder: The folder of the checkpoint.
        context: Tokens that the model sees at once.
    """
    tokenizer.save(folder)
    special = {name: END_OF_TEXT for name in ("bos_token", "eos_token", "unk_token")}
    settings = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": context,
        **special,
    }
    (folder / FILE).write_text(tokenizer.to_json(), "utf-8")
    for name, content in ((SETTINGS, settings), (SPECIAL, special)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
