"""Strips the masks of a pre-trained run and fine-tunes it densely on a task.

With --keep-masks it trains only the weights that the masks keep, which is the baseline
of dense fine-tuning.

Started again with the same settings, data and folder, it continues after the newest
checkpoint, to the same bytes as if it had never stopped. SIGTERM and Ctrl-C stop it
after a step, with a checkpoint. Several machines share a fine-tuning as they share a
pre-training: see `spdf-keras pretrain --help`.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import (
    add_devices,
    add_json,
    add_overrides,
    add_resume,
    add_task,
    check_resume,
    open_run,
    read_config,
    start_devices,
)

HELP = "fine-tune a run densely on a task"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("base", metavar="RUN", help="folder of the pre-trained run")
    add_task(parser)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="TOML file with [finetune] and [decode] settings; RUN gives the others",
    )
    parser.add_argument(
        "--out", required=True, metavar="RUN", help="folder of the new run"
    )
    parser.add_argument(
        "--keep-masks", action="store_true", help="keep the masks, and train sparsely"
    )
    add_resume(parser)
    add_devices(parser)
    add_overrides(parser)
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import print_json, print_table, say, step_progress
    from spdf_keras.data.tasks.registry import get_task
    from spdf_keras.data.tasks.task import describe

    base = open_run(args.base)
    check_resume(args)
    if args.keep_masks:
        args.overrides = [*args.overrides, "finetune.keep_masks=true"]
    config = read_config(args, ["finetune", "decode"], args.config, base.config())
    task = get_task(args.task)
    train, validation = (task.read(args.data, s) for s in ("train", "validation"))
    say(f"train: {describe(train)}; validation: {describe(validation)}")
    cluster = start_devices(args)
    from spdf_keras.training.finetune import finetune

    with step_progress("fine-tune") as report:
        result = finetune(
            base,
            train,
            validation,
            config.finetune,
            args.out,
            report=report,
            cut_context=task.cut_context,
            task=task.name,
            decode=config.decode,
            cluster=cluster,
            tell=say,
        )
    if result["cut_contexts"]:
        say(f"{result['cut_contexts']} contexts lost their end to fit")
    print_table(
        args.out,
        ["Task", "Epochs", "Best epoch", "Steps", "Validation loss"],
        [
            [
                args.task,
                *(str(result[key]) for key in ("epochs", "best_epoch", "steps")),
                f"{result['validation_loss']:.4f}",
            ]
        ],
    )
    if args.json:
        print_json(result)
