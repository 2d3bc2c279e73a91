"""Scores a file of outputs as the official programs do; no model is needed.

References are one file with blank-line-separated blocks, a block per output, or
several files with a line per output each, in which an empty line is a missing
reference. Every line of the outputs counts, even an empty one. Tables (.csv, .tsv) are
read by their header, as e2e-metrics does: `MR,output`, and `MR,ref` with the references
of one input in rows that follow each other.

With --data in place of --references, the references are those of the task's own files.
Outputs that `evaluate --out` wrote get the same numbers again, also of the seen and
unseen parts of WebNLG.

Scores are in the units of the official programs, which are named below the table
with their conditions: BLEU is a fraction for E2E and percent elsewhere.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spdf_keras.commands.arguments import add_json, add_task_name
from spdf_keras.data.tasks.registry import get_task
from spdf_keras.data.tasks.task import Task
from spdf_keras.metrics.protocols import PROTOCOLS, Scores, score

HELP = "score a file of outputs"

_TITLES = {
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "nist_perl": "NIST (Perl)",
    "bleu_pymteval": "BLEU (pymteval)",
    "ter_tercom": "TER (tercom)",
    "ter_pyter": "TER (pyter)",
}
# Scoring more outputs than this takes long enough for a message.
_MANY = 300


def add_arguments(parser: ArgumentParser) -> None:
    add_task_name(parser)
    parser.add_argument(
        "--hypotheses",
        required=True,
        metavar="FILE",
        help="file with one output per line",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--references",
        nargs="+",
        metavar="FILE",
        help="file with a block per output, or several files with a line per output",
    )
    source.add_argument(
        "--data",
        metavar="DIR",
        help="folder with the task's files, in place of --references",
    )
    parser.add_argument(
        "--split",
        choices=["validation", "test"],
        help="split of --data (default: validation)",
    )
    parser.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        help="official evaluation to follow; generation-eval is that of LoRA and of "
        "WebNLG 2020 (default: the task's own)",
    )
    parser.add_argument(
        "--parts",
        metavar="FILE",
        help="file that names the part of each output, such as seen or unseen, in a "
        "line or in a table's column `part`; each part is scored too",
    )
    parser.add_argument(
        "--segments",
        metavar="FILE",
        help="file for the scores of each output, separated by tabs",
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import print_json, print_table
    from spdf_keras.errors import InputError

    task = get_task(args.task)
    if task.file_protocol is None:
        raise InputError(
            f"The score of {args.task} is perplexity, which needs the model: "
            "spdf-keras evaluate"
        )
    if args.data:
        scores, references = _score_as_evaluate(args, task)
    else:
        scores, references = _score_files(args, args.protocol or task.file_protocol)
    if args.segments:
        write_segments(args.segments, scores)
    print_table(
        f"{args.task}: {scores.items} outputs",
        ["Part", "Items", *(_TITLES.get(name, name.upper()) for name in scores.values)],
        [
            [part, str(found.items), *map(_cell, found.values.values())]
            for part, found in {"all": scores, **scores.parts}.items()
        ],
    )
    protocol = scores.protocol
    print(f"{protocol}: {PROTOCOLS[protocol].conditions}; {_numbers(references)}.")
    if args.data and protocol == "generation-eval":
        print("Texts are prepared as for `evaluate`: lower-case, split at punctuation.")
    for sentence in _sentences(scores):
        print(sentence)
    if args.json:
        parts_found = {part: _document(found) for part, found in scores.parts.items()}
        start = {"task": args.task, "protocol": protocol}
        print_json({**start, **_document(scores), "parts": parts_found})


def _score_files(
    args: Namespace, protocol: str
) -> tuple[Scores, Sequence[Sequence[str]]]:
    """The scores of files, and the references of each output."""
    from spdf_keras.data.tasks.parts import read_parts
    from spdf_keras.data.tasks.references import (
        check_order,
        read_hypotheses,
        read_references,
    )
    from spdf_keras.errors import InputError

    if args.split:
        raise InputError("`--split` is that of `--data`. Leave it out.")
    hypotheses = read_hypotheses(args.hypotheses)
    references = read_references(args.references, len(hypotheses))
    check_order(args.hypotheses, args.references)
    parts = read_parts(args.parts, len(hypotheses)) if args.parts else None
    _say_if_long(hypotheses, protocol)
    return score(protocol, hypotheses, references, parts), references


def _score_as_evaluate(
    args: Namespace, task: Task
) -> tuple[Scores, Sequence[Sequence[str]]]:
    """The scores of outputs by the task's own files, and the references of each."""
    from spdf_keras.data.tasks.references import read_hypotheses
    from spdf_keras.errors import InputError
    from spdf_keras.evaluation.scores import score_task

    for name in ("protocol", "parts"):
        if getattr(args, name):
            raise InputError(
                f"`--{name}` goes with `--references`: with `--data`, it is that of "
                "`spdf-keras evaluate`. Leave it out."
            )
    split = args.split or "validation"
    examples = task.read(args.data, split)
    hypotheses = read_hypotheses(args.hypotheses)
    if len(hypotheses) != len(examples):
        raise InputError(
            f"'{args.hypotheses}' must have an output for each input of the {split} "
            f"split. Received: {len(hypotheses)} outputs for {len(examples)} inputs of "
            f"'{args.data}'."
        )
    _say_if_long(hypotheses, task.protocol)
    scores = score_task(task, hypotheses, examples)
    return scores, [example.references for example in examples]


def _say_if_long(hypotheses: Sequence[str], protocol: str) -> None:
    from spdf_keras.console import say

    if len(hypotheses) > _MANY:
        say(f"scoring {len(hypotheses)} outputs as {protocol} does")


def write_segments(path: str | Path, scores: Scores) -> None:
    """Writes the scores of each item, a column per score and a line of their names."""
    from spdf_keras.files import replace_file

    rows = [list(scores.segments)]
    for values in zip(*scores.segments.values(), strict=True):
        rows.append(["" if value is None else repr(value) for value in values])
    replace_file(Path(path), "".join("\t".join(row) + "\n" for row in rows))


def _cell(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def _numbers(references: Sequence[Sequence[str]]) -> str:
    counts = [len(texts) for texts in references]
    fewest, most = min(counts), max(counts)
    if fewest == most:
        return f"{most} reference{'s' * (most > 1)} per output"
    return f"{fewest} to {most} references per output"


def _sentences(scores: Scores) -> list[str]:
    """Why scores have no value, and in which part if not in all."""
    sentences = [*scores.errors.values()]
    for part, some in scores.parts.items():
        new = (text for text in some.errors.values() if text not in sentences)
        sentences += [f"{part}: {text}" for text in new]
    return sentences


def _document(scores: Scores) -> dict[str, Any]:
    return {"items": scores.items, **scores.values, "errors": scores.errors}
