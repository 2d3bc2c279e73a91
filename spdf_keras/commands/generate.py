"""Continues texts with a run's model.

Decoding is greedy, by beam search or at random, as the [decode] settings of the run
say; change them with `--set decode.num_beams=10` or `--set decode.sample=true`.

With `--task`, each text is an input of the task, and a fine-tuned run gives its
output. An input of e2e is `name[Aromi], area[riverside]`, one of webnlg or dart is
`subject | relation | object` with ` || ` between triples, one of curation an article.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spdf_keras.commands.arguments import (
    add_json,
    add_overrides,
    open_run,
    read_config,
)
from spdf_keras.data.tasks.registry import TASKS

if TYPE_CHECKING:
    from spdf_keras.data.tasks.task import Task

HELP = "continue texts with a run's model"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="folder of the run")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--prompt", action="append", help="text to continue; may be repeated"
    )
    source.add_argument("--input", metavar="FILE", help="file with one text per line")
    parser.add_argument(
        "--task", choices=list(TASKS), help="task whose inputs the texts are"
    )
    parser.add_argument(
        "--adapter",
        metavar="DIR",
        help="folder of a PEFT adapter to put beside the weights of RUN",
    )
    add_overrides(parser)
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.adapters.peft import load_adapter
    from spdf_keras.console import load_tensorflow, print_json
    from spdf_keras.data.tasks.references import read_prompts
    from spdf_keras.data.tasks.registry import get_task

    if args.prompt is None:
        texts, what = read_prompts(args.input), f"'{args.input}', line"
    else:
        texts, what = args.prompt, "Prompt"
        _check_prompts(texts)
    source = open_run(args.run_folder)
    adapter = None
    if args.adapter is not None:
        source.require_no_adapter()
        adapter = load_adapter(args.adapter)
    task = get_task(args.task) if args.task else None
    reads = task.decoding_settings if task else ["decode"]
    config = read_config(args, reads, base=source.config())
    contexts = _linearised(task, texts, what) if task else texts
    load_tensorflow()
    from spdf_keras.adapters.attach import adapt
    from spdf_keras.evaluation.checks import check_contexts, context_room
    from spdf_keras.evaluation.texts import generate_texts

    tokenizer = source.tokenizer()
    if not (task and task.cut_context):
        length = config.model.max_sequence_length
        check_contexts(tokenizer, contexts, length, what, separator=bool(task))
    model = source.load_model()
    if adapter is not None:
        model = adapt(model, adapter)
    outputs = generate_texts(
        model,
        tokenizer,
        contexts,
        config.decode,
        separator=bool(task),
        max_context=context_room(config) if task and task.cut_context else None,
    )
    for text in outputs:
        print(text)
    if args.json:
        print_json(
            [{"prompt": p, "output": o} for p, o in zip(texts, outputs, strict=True)]
        )


def _check_prompts(texts: Sequence[str]) -> None:
    from spdf_keras.errors import InputError

    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise InputError(
                f"Prompt {number}: every prompt must be a line of text. Received: an "
                "empty one."
            )
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(
                f"Prompt {number}: every prompt must be UTF-8. Received: {text[:60]!r}."
            )


def _linearised(task: "Task", texts: Sequence[str], what: str) -> list[str]:
    from spdf_keras.errors import InputError

    contexts = []
    for number, text in enumerate(texts, 1):
        try:
            contexts.append(task.linearise(text))
        except InputError as error:
            raise InputError(f"{what} {number}: {error}") from error
    return contexts
