"""From contexts to texts: decoding, and where an output ends."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spdf_keras.config import DecodeConfig
from spdf_keras.data.tasks.examples import encode_context
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.files import replace_file

if TYPE_CHECKING:
    from spdf_keras.model.gpt import GPT

# The LoRA recipe also ends an output at an empty line.
_PARAGRAPH = "\n\n"


def end_token_ids(tokenizer: Tokenizer) -> list[int]:
    """Tokens that end an output: the end of text, and an empty line if it is one."""
    ids = [tokenizer.end_token_id]
    paragraph = tokenizer.encode(_PARAGRAPH)
    return [*ids, *paragraph] if len(paragraph) == 1 else ids


def generate_texts(
    model: "GPT",
    tokenizer: Tokenizer,
    contexts: Sequence[str],
    settings: DecodeConfig,
    report: Callable[[int], None] | None = None,
    separator: bool = True,
    max_context: int | None = None,
) -> list[str]:
    """Continues each context up to the end-of-text token or an empty line.

    Args:
        model: A GPT.
        tokenizer: Its tokenizer.
        contexts: Linearised inputs of a task, or any text.
        settings: The `[decode]` settings.
        report: Gets the number of contexts done, after each batch.
        separator: Whether each context is closed as in fine-tuning; False continues
            it as plain text.
        max_context: Tokens, with the separator, to which a longer context is cut.

    Returns:
        The texts, stripped of outer blanks.
    """
    encode = tokenizer.encode
    if separator:
        encode = partial(encode_context, tokenizer, max_length=max_context)
    prompts = [encode(context) for context in contexts]
    ends = end_token_ids(tokenizer) if separator else [tokenizer.end_token_id]
    outputs = model.generate(
        prompts, end_token_ids=ends, report=report, **vars(settings)
    )
    texts = [tokenizer.decode(token_ids) for token_ids in outputs]
    if separator:
        texts = [text.split(_PARAGRAPH)[0] for text in texts]
    return [text.strip() for text in texts]


def as_lines(texts: Sequence[str]) -> list[str]:
    """The texts as lines of a file: line breaks inside become blanks.

    Outputs are scored in this form, so that the file has the same scores.
    """
    return [re.sub(r"[\r\n]+", " ", text).removeprefix("\ufeff") for text in texts]


def write_lines(path: str | Path, texts: Sequence[str]) -> None:
    """Writes one text per line in an atomic write; see `as_lines`."""
    replace_file(Path(path), "".join(text + "\n" for text in as_lines(texts)))
