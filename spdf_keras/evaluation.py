"""Decodes a task's inputs with a model and scores the outputs as its papers do."""

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spdf_keras.config import Config, DecodeConfig
from spdf_keras.data.tasks.examples import EncodedPairs, encode_context
from spdf_keras.data.tasks.task import PERPLEXITY, Example, Task
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.files import replace_file
from spdf_keras.metrics.protocols import Scores, score
from spdf_keras.provenance import provenance

if TYPE_CHECKING:
    from spdf_keras.model.gpt import GPT
    from spdf_keras.training.run import Run

# The LoRA recipe also ends an output at an empty line.
_PARAGRAPH = "\n\n"

# Inputs with their outputs that a run's record shows.
_SAMPLES = 8
_PERPLEXITY_BATCH = 16
_LARGEST_EXPONENT = 700.0  # floats end soon after


@dataclass(frozen=True)
class Evaluation:
    """Outputs of a model for a task, and their scores.

    Attributes:
        hypotheses: One text per example that was decoded, in order.
        scores: In the units of the official program.
        cut_contexts: Contexts that lost their end to make room.
    """

    hypotheses: list[str]
    scores: Scores
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
    ends = end_token_ids(tokenizer) if separator else [tokenizer.end_token_id]
    outputs = model.generate(
        prompts, end_token_ids=ends, report=report, **vars(settings)
    )
    texts = [tokenizer.decode(token_ids) for token_ids in outputs]
    if separator:
        texts = [text.split(_PARAGRAPH)[0] for text in texts]
    return [text.strip() for text in texts]


def check_contexts(
    tokenizer: Tokenizer,
    contexts: Sequence[str],
    length: int,
    what: str = "Example",
    separator: bool = True,
) -> None:
    """Refuses a context that leaves no room for a token, by its number and beginning.

    Args:
        tokenizer: Encodes them.
        contexts: See `generate_texts`; none of them is cut.
        length: Tokens that the model sees at once.
        what: Names a context, before its number; the first is 1.
        separator: Whether each is closed by one token more.
    """
    for number, token_ids in enumerate(tokenizer.encode_batch(contexts), 1):
        size = len(token_ids) + separator
        if size >= length:
            raise InputError(
                f"{what} {number} has {size} tokens, and the model sees {length} at "
                "once, one of which it must add. Shorten it, or take a model with a "
                f"longer context: '{contexts[number - 1][:60]}...'."
            )


def check_data(
    tokenizer: Tokenizer,
    splits: Mapping[str, Sequence[Example]],
    config: Config,
    task: Task,
) -> None:
    """Refuses what fine-tuning or decoding would refuse later, by number and split.

    Args:
        tokenizer: Of the model that will be trained.
        splits: The examples of `train`, `validation` and `test`, those that there are.
        config: `model`, `finetune` and `decode` are used.
        task: Says how it is scored and whether long contexts are cut.

    Raises:
        InputError: If an example is too long, or the settings do not fit the model.
    """
    from spdf_keras.model.decoding.generator import check_beams

    check_beams(config.decode, config.model.vocabulary_size)
    by_perplexity = task.protocol == PERPLEXITY
    longest = min(config.finetune.sequence_length, config.model.max_sequence_length)
    if task.cut_context:
        context_room(config)
    for split, examples in splits.items():
        if split != "test" or by_perplexity:
            name = f"{split} split"
            EncodedPairs.encode(examples, tokenizer, longest, task.cut_context, name)
        if split != "train" and not task.cut_context:
            contexts = [e.context for e in examples]
            what = f"In the {split} split, example"
            check_contexts(tokenizer, contexts, config.model.max_sequence_length, what)


def perplexity(
    model: "GPT",
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    max_length: int,
    cut_context: bool = False,
) -> float:
    """The exponential of the mean loss per target token, end token included.

    The model is compiled anew, without the label smoothing of its training. Of a model
    that has diverged it is infinite, or not a number.

    Args:
        model: A GPT.
        tokenizer: Its tokenizer; values of different tokenizers do not compare.
        examples: Each reference is one target.
        max_length: Longest pair in tokens.
        cut_context: Whether a longer pair loses the end of its context.

    Reference:
        Appendix A.3 of [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464).
    """
    from spdf_keras.model.fitting.loss import NextTokenCrossentropy

    pairs = EncodedPairs.encode(examples, tokenizer, max_length, cut_context)
    model.compile(loss=NextTokenCrossentropy())
    batches = pairs.batches(_PERPLEXITY_BATCH)
    loss = float(model.evaluate(batches, verbose=0, return_dict=True)["loss"])
    return math.exp(loss) if not loss > _LARGEST_EXPONENT else math.inf


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
        examples: Of the task.
        config: `model`, `finetune` and `decode` are used.
        task: Says how it is scored and whether long contexts are cut.
        report: Gets the number of contexts done, after each batch.
    """
    room = context_room(config) if task.cut_context else None
    protocol = task.protocol
    contexts = [example.context for example in examples]
    if protocol == PERPLEXITY:
        contexts = contexts[:_SAMPLES]
    if room is None:
        check_contexts(tokenizer, contexts, config.model.max_sequence_length)
    hypotheses = as_lines(
        generate_texts(
            model, tokenizer, contexts, config.decode, report, max_context=room
        )
    )
    if protocol == PERPLEXITY:
        longest = min(config.finetune.sequence_length, config.model.max_sequence_length)
        value = perplexity(model, tokenizer, examples, longest, task.cut_context)
        scores = Scores(protocol, len(examples), {"perplexity": value})
        if not math.isfinite(value):
            reason = f"Perplexity has no value: it is {value}; the model has diverged."
            scores.values["perplexity"] = None
            scores.errors["perplexity"] = reason
    else:
        scores = score_task(task, hypotheses, examples)
    cut = 0
    if room is not None:
        cut = sum(len(encode_context(tokenizer, c)) > room for c in contexts)
    return Evaluation(hypotheses, scores, cut)


def score_task(
    task: Task, hypotheses: Sequence[str], examples: Sequence[Example]
) -> Scores:
    """Scores outputs as the LoRA recipe's evaluation of the task does.

    WebNLG's examples are also scored in their parts, `seen` and `unseen`.
    """
    references = [list(example.references) for example in examples]
    protocol, texts = task.protocol, list(hypotheses)
    if protocol == "generation-eval":
        from spdf_keras.metrics.protocols import prepare_lora

        texts, references = prepare_lora(texts, references)
    known = [e.seen for e in examples]
    parts = None
    if None not in known:
        parts = ["seen" if seen else "unseen" for seen in known]
    return score(protocol, texts, references, parts)


def evaluate_run(
    run: "Run",
    task: Task,
    split: str,
    examples: Sequence[Example],
    config: Config | None = None,
    report: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Evaluates a run and records it in `evaluation/` of its folder.

    Args:
        run: A fine-tuned run.
        task: The task.
        split: Name of the split, for the record.
        examples: The split's examples.
        config: Other settings than the run's own.
        report: Gets the number of contexts done, after each batch.

    Returns:
        The record, which is also in `evaluation/<task>_<split>.json`, beside the
        outputs in `.txt`.
    """
    from spdf_keras.training.checkpoint import checkpoint_step

    start = time.perf_counter()
    config = config or run.config()
    origin = provenance()
    checkpoint, finished = run.checkpoint(), run.result() is not None
    found = evaluate(run.load_model(), run.tokenizer(), examples, config, task, report)
    samples = [
        {
            "context": example.context,
            "hypothesis": text,
            "references": list(example.references),
        }
        for example, text in zip(examples[:_SAMPLES], found.hypotheses, strict=False)
    ]
    record = {
        "task": task.name,
        "split": split,
        "protocol": found.scores.protocol,
        "inputs": len(examples),
        "decode": asdict(config.decode),
        "scores": found.scores.values,
        "errors": found.scores.errors,
        "parts": {name: part.values for name, part in found.scores.parts.items()},
        "cut_contexts": found.cut_contexts,
        "step": checkpoint_step(checkpoint),
        "finished": finished,
        "samples": samples,
        "seconds": round(time.perf_counter() - start, 1),
        **origin,
    }
    file = run.evaluation_file(task.name, split)
    file.parent.mkdir(exist_ok=True)
    write_lines(file.with_suffix(".txt"), found.hypotheses)
    replace_file(file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def as_lines(texts: Sequence[str]) -> list[str]:
    """The texts as a file has them, one per line: breaks inside become blanks.

    Scores are those of these texts, so that the file has the same scores.
    """
    return [re.sub(r"[\r\n]+", " ", text).removeprefix("\ufeff") for text in texts]


def write_lines(path: str | Path, texts: Sequence[str]) -> None:
    """Writes one text per line, whole or not at all; see `as_lines`."""
    replace_file(Path(path), "".join(text + "\n" for text in as_lines(texts)))
