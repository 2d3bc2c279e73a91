"""Decodes a task's inputs with a model and scores the outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spdf_keras.config import Config, DecodeConfig
from spdf_keras.data.tasks.examples import encode_context
from spdf_keras.data.tasks.task import Example
from spdf_keras.data.tokenizer import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.files import replace_file
from spdf_keras.metrics.bleu import Bleu, corpus_bleu

if TYPE_CHECKING:
    from spdf_keras.model.gpt import GPT


@dataclass(frozen=True)
class Evaluation:
    """Outputs of a model for a task, and their score.

    Attributes:
        hypotheses: One text per example, in order.
        score: Corpus BLEU.
        cut_contexts: Contexts that lost their end to make room.
    """

    hypotheses: list[str]
    score: Bleu
    cut_contexts: int = 0


def context_room(config: Config) -> int:
    """Tokens of a context that leave room for the output in a fine-tuned sequence.

    Raises:
        InputError: If no token of the context would be left.
    """
    length = min(config.finetune.sequence_length, config.model.max_sequence_length)
    room = length - config.decode.max_new_tokens
    if room < 2:  # one of the context, and the separator
        raise InputError(
            "`decode.max_new_tokens` must leave room for a context in the sequence "
            f"of {length} tokens. Received: max_new_tokens="
            f"{config.decode.max_new_tokens}."
        )
    return room


def generate_texts(
    model: "GPT",
    tokenizer: Tokenizer,
    contexts: Sequence[str],
    settings: DecodeConfig,
    report: Callable[[int], None] | None = None,
    separator: bool = True,
    max_context: int | None = None,
) -> list[str]:
    """Continues each context greedily up to the end-of-text token.

    Args:
        model: A GPT.
        tokenizer: Its tokenizer.
        contexts: Linearised inputs of a task, or any text.
        settings: The `[decode]` settings.
        report: Gets the number of contexts done, after each batch.
        separator: Close each context as the fine-tuning tasks do; False
            continues it as plain text.
        max_context: Tokens, with the separator, to which a longer context is cut.

    Returns:
        The texts, stripped of outer blanks.
    """
    encode = tokenizer.encode
    if separator:
        encode = partial(encode_context, tokenizer, max_length=max_context)
    prompts = [encode(context) for context in contexts]
    outputs: list[list[int]] = []
    # A few batches at a time: `generate` sorts by length inside a call.
    together = 8 * settings.batch_size
    for start in range(0, len(prompts), together):
        outputs += model.generate(
            prompts[start : start + together],
            settings.max_new_tokens,
            [tokenizer.end_token_id],
            settings.batch_size,
        )
        if report:
            report(len(outputs))
    return [tokenizer.decode(token_ids).strip() for token_ids in outputs]


def evaluate(
    model: "GPT",
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    settings: DecodeConfig,
    report: Callable[[int], None] | None = None,
    max_context: int | None = None,
) -> Evaluation:
    """Decodes every example once and scores it against all its references.

    `max_context` is that of `generate_texts`.
    """
    contexts = [example.context for example in examples]
    hypotheses = generate_texts(
        model, tokenizer, contexts, settings, report, max_context=max_context
    )
    references = [example.references for example in examples]
    cut = 0
    if max_context is not None:
        cut = sum(len(encode_context(tokenizer, c)) > max_context for c in contexts)
    return Evaluation(hypotheses, corpus_bleu(hypotheses, references), cut)


def write_lines(path: str | Path, texts: Sequence[str]) -> None:
    """Writes one text per line, whole or not at all; breaks inside become blanks."""
    replace_file(Path(path), "".join(" ".join(t.split()) + "\n" for t in texts))
