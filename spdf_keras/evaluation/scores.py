"""The scores of a model on a task."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spdf_keras.config import Config
from spdf_keras.data.tasks.examples import EncodedPairs, encode_context
from spdf_keras.data.tasks.task import PERPLEXITY, Example, Task
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.evaluation.checks import check_contexts, context_room
from spdf_keras.evaluation.texts import as_lines, generate_texts
from spdf_keras.metrics.protocols import Scores, item_sums, prepare_lora, score

if TYPE_CHECKING:
    from spdf_keras.metrics.sums import Sums
    from spdf_keras.model.gpt import GPT

# Inputs of which a record shows the outputs. A task with perplexity decodes no others.
NUM_SAMPLES = 8
_PERPLEXITY_BATCH = 16
_LARGEST_EXPONENT = 700.0  # floats end soon after


@dataclass(frozen=True)
class Evaluation:
    """Outputs of a model for a task, and their scores.

    Attributes:
        hypotheses: One text per decoded example, in order.
        scores: They are in the units of the official program.
        cut_contexts: Contexts that lost their end to make room for what was scored.
    """

    hypotheses: list[str]
    scores: Scores
    cut_contexts: int = 0


def evaluate(
    model: "GPT",
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    config: Config,
    task: Task,
    report: Callable[[int], None] | None = None,
) -> Evaluation:
    """Decodes every example once and scores it against all its references.

    The Curation Corpus is scored by perplexity; only a few samples are decoded.

    Args:
        model: A GPT.
        tokenizer: Its tokenizer.
        examples: Examples of the task.
        config: `model`, `finetune` and `decode` are used.
        task: It decides the score and whether long contexts are cut.
        report: Gets the number of contexts done, after each batch.
    """
    room = context_room(config) if task.cut_context else None
    protocol = task.protocol
    contexts = [example.context for example in examples]
    if protocol == PERPLEXITY:
        contexts = contexts[:NUM_SAMPLES]
    if room is None:
        check_contexts(tokenizer, contexts, config.model.max_sequence_length)
    hypotheses = as_lines(
        generate_texts(
            model, tokenizer, contexts, config.decode, report, max_context=room
        )
    )
    if protocol == PERPLEXITY:
        longest = min(config.finetune.sequence_length, config.model.max_sequence_length)
        pairs = EncodedPairs.encode(examples, tokenizer, longest, task.cut_context)
        scores = _perplexity_scores(_perplexity(model, pairs), len(examples))
        return Evaluation(hypotheses, scores, pairs.num_cut)
    scores, cut = score_task(task, hypotheses, examples), 0
    if room is not None:
        cut = sum(len(encode_context(tokenizer, c)) > room for c in contexts)
    return Evaluation(hypotheses, scores, cut)


def perplexity(
    model: "GPT",
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    max_length: int,
    cut_context: bool = False,
) -> float:
    """The exponential of the mean loss per target token, end token included.

    The model is compiled anew, without the label smoothing of its training. If the
    model has diverged, the value is infinite or not a number.

    Args:
        model: A GPT.
        tokenizer: Its tokenizer; values of different tokenizers do not compare.
        examples: Each reference is one target.
        max_length: Longest pair in tokens.
        cut_context: Whether a longer pair loses the end of its context.

    Reference:
        Appendix A.3 of [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464).
    """
    pairs = EncodedPairs.encode(examples, tokenizer, max_length, cut_context)
    return _perplexity(model, pairs)


def _perplexity(model: "GPT", pairs: EncodedPairs) -> float:
    from spdf_keras.model.fitting.loss import NextTokenCrossentropy

    model.compile(loss=NextTokenCrossentropy())
    batches = pairs.batches(_PERPLEXITY_BATCH)
    loss = float(model.evaluate(batches, verbose=0, return_dict=True)["loss"])
    return math.exp(loss) if not loss > _LARGEST_EXPONENT else math.inf


def _perplexity_scores(value: float, items: int) -> Scores:
    if math.isfinite(value):
        return Scores(PERPLEXITY, items, {PERPLEXITY: value})
    reason = f"Perplexity has no value: it is {value}; the model has diverged."
    return Scores(PERPLEXITY, items, {PERPLEXITY: None}, {PERPLEXITY: reason})


def score_task(
    task: Task, hypotheses: Sequence[str], examples: Sequence[Example]
) -> Scores:
    """Scores outputs by the protocol of a task, as the LoRA recipe does.

    Examples with `seen` set, as those of WebNLG, are also scored in the parts `seen`
    and `unseen`.
    """
    protocol = task.protocol
    texts, references = _prepared(protocol, hypotheses, examples)
    seen_flags = [example.seen for example in examples]
    parts = None
    if None not in seen_flags:
        parts = ["seen" if seen else "unseen" for seen in seen_flags]
    return score(protocol, texts, references, parts)


def task_sums(
    task: Task,
    hypotheses: Sequence[str],
    examples: Sequence[Example],
    names: Sequence[str],
) -> "dict[str, Sums]":
    """Counts each output for scores of resampled inputs, by the protocol of a task.

    Args:
        task: A task with outputs.
        hypotheses: One text per example.
        examples: Examples of the task.
        names: Scores of the protocol; those that no sums of items give are left out.
    """
    texts, references = _prepared(task.protocol, hypotheses, examples)
    return item_sums(task.protocol, texts, references, names)


def _prepared(
    protocol: str, hypotheses: Sequence[str], examples: Sequence[Example]
) -> tuple[list[str], list[list[str]]]:
    references = [list(example.references) for example in examples]
    if protocol == "generation-eval":
        return prepare_lora(hypotheses, references)
    return [*hypotheses], references
