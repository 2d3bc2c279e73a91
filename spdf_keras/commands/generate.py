"""Continues texts with a run's model.

Greedily, by beam search or at random, as the [decode] settings of the run say; change
them with `--set decode.num_beams=10` or `--set decode.sample=true`.

With `--task`, each text is an input of the task, and a fine-tuned run gives its
output. For e2e that is `name[Aromi], area[riverside]`, for webnlg and dart
`subject | relation | object` with ` || ` between triples, for curation an article.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json, add_overrides, read_config
from spdf_keras.data.tasks.registry import TASKS

HELP = "continue texts with a run's model"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", action="append", help="a text; may be repeated")
    source.add_argument("--input", metavar="FILE", help="a file with a text per line")
    parser.add_argument(
        "--task", choices=list(TASKS), help="texts are inputs of this task"
    )
    add_overrides(parser)
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import load_tensorflow, print_json
    from spdf_keras.data.corpus import open_text
    from spdf_keras.data.tasks.registry import get_task
    from spdf_keras.errors import InputError
    from spdf_keras.training.run import Run

    texts = args.prompt or open_text(args.input).splitlines()
    if not texts or not all(text.strip() for text in texts):
        raise InputError("Every prompt must be a line of text. Received: an empty one.")
    source = Run.open(args.run_folder)
    task = get_task(args.task) if args.task else None
    reads = task.decoding_settings if task else ["decode"]
    config = read_config(args, reads, base=source.config())
    contexts = [task.linearise(text) for text in texts] if task else texts
    load_tensorflow()
    from spdf_keras.evaluation import context_room, generate_texts

    tokenizer = source.tokenizer()
    outputs = generate_texts(
        source.load_model(),
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
