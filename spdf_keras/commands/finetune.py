"""Strips the masks of a pre-trained run and fine-tunes it densely on a task.

With --keep-masks it trains only the weights that the masks keep, which is the baseline
of dense fine-tuning. With --lora it trains an adapter of rank 4 beside query and value,
unless finetune.lora_rank and finetune.lora_targets say otherwise; the weights of RUN
are frozen, zeros included.

Started again with the same settings, data and folder, it continues after the newest
checkpoint, to the same bytes as if it had never stopped. SIGTERM and Ctrl-C stop it
after a step, with a checkpoint. Several machines share a fine-tuning as they share a
pre-training: see `spdf-keras pretrain --help`.
"""

import dataclasses
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

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
from spdf_keras.errors import InputError

if TYPE_CHECKING:
    from spdf_keras.adapters.adapter import Adapter
    from spdf_keras.config import Config

HELP = "fine-tune a run densely on a task"

# The rank of the LoRA recipe for GPT-2 on E2E.
_RANK = 4


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
    parser.add_argument(
        "--lora", action="store_true", help="train a LoRA adapter, and no weights"
    )
    parser.add_argument(
        "--adapter",
        metavar="DIR",
        help="folder of a PEFT adapter to start from, with --lora",
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
    adapter = _read_adapter(args)
    defaults = _with_lora(base.config(), adapter) if args.lora else base.config()
    config = read_config(args, ["finetune", "decode"], args.config, defaults)
    if args.lora and not config.finetune.lora_rank:
        raise InputError(
            "`finetune.lora_rank` must be at least 1 with --lora. Received: "
            "lora_rank=0. Leave --lora out to train the weights themselves."
        )
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
            adapter=adapter,
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


def _read_adapter(args: Namespace) -> "Adapter | None":
    if args.adapter is None:
        return None
    if not args.lora:
        raise InputError(
            "`--adapter` needs `--lora`, without which no adapter is trained. Add it, "
            "or leave `--adapter` out."
        )
    from spdf_keras.adapters.peft import load_adapter

    return load_adapter(args.adapter)


def _with_lora(config: "Config", adapter: "Adapter | None") -> "Config":
    """Returns settings with an adapter, which a file and `--set` may change."""
    finetune = config.finetune
    if adapter is not None:
        lora = adapter.lora
        finetune = dataclasses.replace(
            finetune,
            lora_rank=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            lora_targets=lora.targets,
        )
    elif not finetune.lora_rank:
        finetune = dataclasses.replace(finetune, lora_rank=_RANK)
    return dataclasses.replace(config, finetune=finetune)
