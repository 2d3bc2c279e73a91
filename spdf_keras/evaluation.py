"""Decodes a task's inputs with a model and scores the outputs."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spdf_keras.config import DecodeConfig
from spdf_keras.data.tasks.examples import Example, encode_context
from spdf_keras.data.tokenizer import Tokenizer
from spdf_keras.metrics.bleu import Bleu, corpus_bleu

if TYPE_CHECKING:
    from spdf_keras.model.gpt import GPT


@dataclass(frozen=True)
class Evaluation:
    """Outputs of a model for a task, and their score.

    Attributes:
        hypotheses: One text per example, in order.
        score: Corpus BLEU.
    """

    hypotheses: list[str]
    score: Bleu


def generate_texts(
    model: "GPT",
    tokenizer: Tokenizer,
    contexts: Sequence[str],
    settings: DecodeConfig,
    report: Callable[[int], None] | None = None,
    separator: bool = True,
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

    Returns:
        The texts, stripped of outer blanks.
    """
    encode = partial(encode_context, tokenizer) if separator else tokenizer.encode
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
) -> Evaluation:
    """Decodes every example once and scores it against all its references."""
    contexts = [example.context for example in examples]
    hypotheses = generate_texts(model, tokenizer, contexts, settings, report)
    references = [example.references for example in examples]
    return Evaluation(hypotheses, corpus_bleu(hypotheses, references))


def write_lines(path: str | Path, texts: Sequence[str]) -> None:
    """Writes one text per line, whole or not at all; breaks inside become blanks."""
    path = Path(path)
    temporary = path.with_name(path.name + ".unfinished")
    temporary.write_text("".join(" ".join(t.split()) + "\n" for t in texts), "utf-8")
    os.replace(temporary, path)
