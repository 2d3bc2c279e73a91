"""Writes the reference pages from the code: no option or setting is typed twice.

Each function returns the Markdown of one page. Nothing here needs TensorFlow or
MkDocs; `hooks.py` hands the pages to MkDocs.
"""

import argparse
import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from spdf_keras import config
from spdf_keras.cli import COMMANDS, build_parser

# Public Python names by page: what a user imports. Each has a docstring, which a test
# and `mkdocs build --strict` check.
PYTHON = {
    "models": (
        "Models",
        "Build, train, strip, save and load a GPT. The first names below are those "
        "of `import spdf_keras`.",
        (
            "spdf_keras.build_gpt",
            "spdf_keras.GPT",
            "spdf_keras.strip",
            "spdf_keras.load_model",
            "spdf_keras.GPTConfig",
            "spdf_keras.TrainConfig",
            "spdf_keras.SparsityConfig",
            "spdf_keras.PRESETS",
            "spdf_keras.SparsityMethod",
            "spdf_keras.register_method",
            "spdf_keras.sparsity.masks.random_mask",
            "spdf_keras.sparsity.audit.audit_masks",
            "spdf_keras.sparsity.audit.MaskAudit",
            "spdf_keras.sparsity.wrapper.PruneFixedRandom",
            "spdf_keras.adapters.attach.adapt",
            "spdf_keras.adapters.adapter.Adapter",
            "spdf_keras.adapters.merge.merge",
            "spdf_keras.adapters.peft.load_adapter",
            "spdf_keras.config.LoRAConfig",
            "spdf_keras.optimization.adamw.AdamW",
            "spdf_keras.optimization.schedule.WarmupDecay",
        ),
    ),
    "data": (
        "Data",
        "From text to token shards, and the fine-tuning tasks.",
        (
            "spdf_keras.data.public.fetch.fetch",
            "spdf_keras.data.shards.prepare.prepare",
            "spdf_keras.data.shards.reader.Shards",
            "spdf_keras.data.tokenizers.bpe.Tokenizer",
            "spdf_keras.data.tokenizers.in_graph.GraphTokenizer",
            "spdf_keras.data.tasks.registry.get_task",
            "spdf_keras.data.tasks.task.Task",
            "spdf_keras.data.tasks.task.Example",
        ),
    ),
    "training": (
        "Training",
        "What the commands `pretrain`, `finetune` and `study` call.",
        (
            "spdf_keras.training.pretrain.pretrain",
            "spdf_keras.training.finetune.finetune",
            "spdf_keras.training.run.Run",
            "spdf_keras.training.cluster.start_cluster",
            "spdf_keras.study.study.Study",
            "spdf_keras.study.quickstart.Quickstart",
        ),
    ),
    "evaluation": (
        "Evaluation",
        "Decode, score, count operations and report.",
        (
            "spdf_keras.evaluation.scores.evaluate",
            "spdf_keras.evaluation.scores.Evaluation",
            "spdf_keras.evaluation.texts.generate_texts",
            "spdf_keras.evaluation.scores.perplexity",
            "spdf_keras.evaluation.perplexity.perplexities",
            "spdf_keras.evaluation.perplexity.TextLikelihood",
            "spdf_keras.model.likelihood.Likelihood",
            "spdf_keras.evaluation.harness.harness_model",
            "spdf_keras.metrics.protocols.score",
            "spdf_keras.metrics.protocols.Scores",
            "spdf_keras.flops.forward_flops",
            "spdf_keras.flops.decode_flops",
            "spdf_keras.flops.training_flops",
            "spdf_keras.report.write.write_report",
        ),
    ),
    "export": (
        "Export",
        "The names of `spdf_keras.export`, and the classes of the stand-alone runners "
        "in `export/runners/`.",
        (
            "spdf_keras.export.to_saved_model",
            "spdf_keras.export.to_text_model",
            "spdf_keras.export.to_tflite",
            "spdf_keras.export.to_litertlm",
            "spdf_keras.export.to_xla",
            "spdf_keras.export.to_peft",
            "spdf_keras.export.ExportCard",
            "spdf_keras.export.ExportError",
            "spdf_keras.export.compare_artefacts",
            "spdf_keras.export.library_path",
            "spdf_keras.export.runners.run_saved_model.SavedModel",
            "spdf_keras.export.runners.run_tflite.TFLiteModel",
            "spdf_keras.export.runners.run_xla.XLAModel",
        ),
    ),
    "interchange": (
        "Interchange",
        "Models of Hugging Face's layout and of KerasNLP, in and out.",
        (
            "spdf_keras.from_huggingface",
            "spdf_keras.from_keras_nlp",
            "spdf_keras.to_keras_nlp",
            "spdf_keras.export.to_huggingface",
            "spdf_keras.export.to_keras_nlp_preset",
            "spdf_keras.interchange.convert.convert",
            "spdf_keras.interchange.convert.open_source",
            "spdf_keras.interchange.foreign.ForeignModel",
            "spdf_keras.interchange.huggingface.tokenizer.read_tokenizer",
            "spdf_keras.interchange.keras_nlp.tokenizer.from_keras_nlp_tokenizer",
            "spdf_keras.interchange.keras_nlp.tokenizer.to_keras_nlp_tokenizer",
        ),
    ),
    "config": (
        "Config files",
        "Read and write settings from Python. [Settings](../settings.md) describes "
        "each one.",
        (
            "spdf_keras.config.load_config",
            "spdf_keras.config.config_from_tables",
            "spdf_keras.config.to_toml",
            "spdf_keras.config.get_preset",
            "spdf_keras.config.Preset",
            "spdf_keras.config.Config",
            "spdf_keras.errors.InputError",
            "spdf_keras.errors.TrainingError",
            "spdf_keras.errors.StoppedError",
        ),
    ),
}

# What mkdocstrings shows of a name, where its choice does not fit.
OPTIONS = {
    "spdf_keras.GPT": "inherited_members: [compile, load_weights, set_weights]",
    "spdf_keras.PRESETS": "show_attribute_values: false",
}


def pages() -> dict[str, str]:
    """Returns every generated page: Markdown by its place in `docs/`."""
    written = {
        "reference/commands.md": commands(),
        "reference/settings.md": settings(),
        "reference/presets.md": presets(),
    }
    for name in PYTHON:
        written[f"reference/python/{name}.md"] = python(name)
    return written


def python(name: str) -> str:
    """Returns a page of Python names, whose docstrings mkdocstrings fills in."""
    title, about, names = PYTHON[name]
    parts = [f"# {title}", about]
    for identifier in names:
        parts.append(f"::: {identifier}")
        if identifier in OPTIONS:
            parts[-1] += f"\n    options:\n      {OPTIONS[identifier]}"
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """Returns the page of commands, read from their argument parsers."""
    parsers = subparsers()
    parts = [
        "# Commands",
        "`spdf-keras COMMAND --help` gives the same descriptions. Every command takes "
        "`--json`: the last line of its output is then one JSON document.",
    ]
    for name in COMMANDS:
        parts += [f"## {name}", (parsers[name].description or "").strip()]
        parts += [f"```text\n{usage(name, parsers[name])}\n```"]
        parts += [f"`{flags}`\n:   {text}" for flags, text in options(parsers[name])]
    return "\n\n".join(parts) + "\n"


def subparsers() -> dict[str, argparse.ArgumentParser]:
    """Returns the parser of each command."""
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("`build_parser` has no commands")


def usage(name: str, parser: argparse.ArgumentParser) -> str:
    """Returns the usage of a command, in lines that fit a narrow page."""
    formatter = argparse.HelpFormatter(name, width=44, max_help_position=16)
    groups = parser._mutually_exclusive_groups
    formatter.add_usage(None, parser._actions, groups, prefix="")
    return formatter.format_help().strip()


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Yields how each argument of a command is written, and its help."""
    formatter = argparse.HelpFormatter(parser.prog)
    for action in parser._actions:
        if "--help" not in action.option_strings:
            shown = formatter._format_action_invocation(action)
            yield shown, formatter._expand_help(action) if action.help else ""


def settings() -> str:
    """Returns the page of settings, read from the dataclasses of `config`."""
    parts = [
        "# Settings",
        "A config file is TOML with the tables below. On the command line, "
        "`--set SECTION.SETTING=VALUE` changes one setting, for example "
        "`--set train.learning_rate=3e-4`. A command refuses a `--set` that it does "
        "not read. [Presets](presets.md) give the sizes of `[model]` and the "
        "pre-training settings that fit them.",
    ]
    for section in dataclasses.fields(config.Config):
        kind: Any = section.type
        parts += [f"## [{section.name}]", summary(kind)]
        described = attributes(kind)
        if section.name == "model":
            parts.append(
                "`preset`\n:   *str*. Name of a [preset](presets.md) that the other "
                "settings of this table change."
            )
        for setting in dataclasses.fields(kind):
            kind_ = str(setting.type).removeprefix("<class '").removesuffix("'>")
            parts.append(
                f"`{setting.name}`\n:   *{kind_}*, default "
                f"`{value(setting.default)}`. {described[setting.name]}"
            )
    return "\n\n".join(parts) + "\n"


def value(default: Any) -> str:
    """Returns a default as a config file has it."""
    if isinstance(default, tuple):
        return "[" + ", ".join(value(item) for item in default) + "]"
    if isinstance(default, int) and default >= 1_000_000:
        return f"{default:_}"
    return json.dumps(default)


def summary(kind: type) -> str:
    """Returns a class' docstring above its `Attributes:`."""
    return inspect.cleandoc(kind.__doc__ or "").split("\nAttributes:")[0].strip()


def attributes(kind: type) -> dict[str, str]:
    """Returns what `Attributes:` say of each field, base classes' included."""
    described: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")[2]
        entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", text, re.M)
        described |= {name: " ".join(words.split()) for name, words in entries}
    return described


def presets() -> str:
    """Returns the page of presets."""
    head = (
        "| preset | parameters | layers x width | heads | context | vocabulary |\n"
        "| --- | ---: | --- | ---: | ---: | ---: |\n"
    )
    trained = (
        "| preset | batch | peak learning rate | tokens | warm-up tokens |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
    )
    for name, preset in config.PRESETS.items():
        model, train = preset.model, preset.train
        tokens = train.tokens or 20 * model.num_parameters
        warmup = min(train.warmup_tokens, int(train.warmup_fraction * tokens))
        head += (
            f"| `{name}` | {model.num_parameters / 1e6:,.1f}M | {model.num_layers} x "
            f"{model.hidden_dim:,} | {model.num_heads} | {model.max_sequence_length:,} "
            f"| {model.vocabulary_size:,} |\n"
        )
        trained += (
            f"| `{name}` | {train.batch_size} | {train.learning_rate:g} | "
            f"{tokens / 1e6:,.0f}M | {warmup / 1e6:,.1f}M |\n"
        )
    return f"""# Presets

`build_gpt("gpt_nano")` builds a preset. `preset = "gpt_nano"` in `[model]` takes one in
a config file. `spdf-keras export gpt_nano` exports its initial weights. `gpt2_small`
and `gpt3_xl` have the sizes and the pre-training of Table 1 of
[Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464). `gpt_nano` and `gpt_mini`
are for laptops and tests.

## Sizes

{head}
## Pre-training

{trained}
All other settings have the defaults of [`[train]`](settings.md#train).
"""
