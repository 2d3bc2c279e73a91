"""The page that a quickstart ends in: table, loss curves, samples, conditions."""

import dataclasses
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from spdf_keras.config import Config, to_toml
from spdf_keras.data.samples.corpora import Corpora
from spdf_keras.data.tasks.e2e import find_split, read_e2e
from spdf_keras.data.tasks.task import Example
from spdf_keras.files import replace_file, replacing
from spdf_keras.report.content.loss_figures import smoothed
from spdf_keras.report.runs.records import Curve
from spdf_keras.study.quickstart import Result
from spdf_keras.training.run import Run

COLUMNS = (
    "Sparsity",
    "Pre-train loss",
    "Pre-train FLOPs",
    "of dense",
    "Pre-train time",
    "BLEU",
    "SavedModel",
    "TFLite",
    "TFLite, sparse",
)


def result_row(result: Result) -> list[str]:
    """A row of the table, in the order of `COLUMNS`."""
    sizes = ("saved_model_bytes", "tflite_bytes", "tflite_pretrained_sparse_bytes")
    return [
        f"{result['sparsity']:.0%}",
        f"{result['pretrain_validation_loss'] or result['pretrain_loss']:.3f}",
        f"{result['pretrain_flops']:.3g}",
        f"{result['flops_ratio']:.3f}x",
        f"{result['pretrain_seconds']:.0f} s",
        f"{result['bleu']:.2f}",
        *(f"{result[key] / 1e6:.2f} MB" if key in result else "-" for key in sizes),
    ]


def write_report(
    folder: Path, config: Config, corpora: Corpora, results: Sequence[Result]
) -> Path:
    """Writes `report.md`, and `loss.png` beside it."""
    _plot_losses(folder / "loss.png", results)
    held_out = find_split(corpora.task, "validation")
    examples = read_e2e(held_out)
    # The table has the sparsities; the seed of the masks is a setting of all of them.
    masks = dataclasses.replace(config.sparsity, sparsity=0.0)
    packages = ("tensorflow", "tf_keras", "tensorflow-model-optimization", "sacrebleu")
    lines = [
        f"# Sparse pre-training, dense fine-tuning: {corpora.title}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| --- |" + " ---: |" * (len(COLUMNS) - 1),
        *("| " + " | ".join(result_row(result)) + " |" for result in results),
        "",
        "The loss is that of the pre-training validation split, in nats per token. "
        "FLOPs count the masked weights as skipped. The time is that of the steps of "
        "pre-training. BLEU is that of the densely fine-tuned model on the "
        f"{len(examples)} inputs of {held_out.name}, decoded greedily: "
        f"`{results[0]['signature']}`. The first two files hold the fine-tuned model, "
        "which is dense. The last file holds the sparse pre-trained model without its "
        "zeros.",
        "",
        "![Loss of pre-training and fine-tuning](loss.png)",
        "",
        "## Samples",
        "",
    ]
    lines += _samples(results, examples)
    lines += [
        "",
        "## Conditions",
        "",
        f"- Command: `{' '.join(['spdf-keras', *sys.argv[1:]])}`",
        f"- {os.cpu_count()} cores, {platform.machine()}, Python "
        + ", ".join(
            [platform.python_version(), *(f"{p} {version(p)}" for p in packages)]
        ),
        "",
        "Seconds of each stage:",
        "",
        *_seconds(results),
        "",
        "```toml",
        to_toml(dataclasses.replace(config, sparsity=masks)).strip(),
        "```",
        "",
    ]
    path = folder / "report.md"
    replace_file(path, "\n".join(lines))
    return path


def _samples(results: Sequence[Result], examples: Sequence[Example]) -> list[str]:
    """The first inputs, each with a reference and the text of every model."""
    lines = []
    for number, (context, _) in enumerate(results[0]["samples"]):
        lines.append(f"- `{context}`")
        lines.append(f"    - Reference: {examples[number].references[0]}")
        for result in results:
            _, text = result["samples"][number]
            lines.append(f"    - {result['sparsity']:.0%}: {text}")
    return lines


def _seconds(results: Sequence[Result]) -> list[str]:
    stages = [*results[0]["seconds"], "total"]
    lines = [
        "| Sparsity | " + " | ".join(stages) + " |",
        "| --- |" + " ---: |" * len(stages),
    ]
    for result in results:
        seconds = [*result["seconds"].values()]
        cells = [f"{value:.1f}" for value in [*seconds, sum(seconds)]]
        lines.append(f"| {result['sparsity']:.0%} | " + " | ".join(cells) + " |")
    return lines


def _plot_losses(path: Path, results: Sequence[Result]) -> None:
    import matplotlib.figure

    # One above the other, so that the text can be read on a narrow screen, too.
    figure = matplotlib.figure.Figure(figsize=(6.4, 6.8), layout="constrained")
    axes = figure.subplots(2, 1)
    for axis, stage, title in zip(
        axes,
        ("pretrain", "finetune"),
        ("Pre-training", "Dense fine-tuning"),
        strict=True,
    ):
        for color, result in enumerate(results):
            records = list(Run(Path(result["folder"]) / stage).metrics())
            label = f"{result['sparsity']:.0%} sparsity"
            steps = tuple(r["step"] for r in records if "loss" in r)
            losses = tuple(r["loss"] for r in records if "loss" in r)
            average = smoothed(Curve(steps, losses), weight=0.9)
            axis.plot(steps, losses, f"C{color}", alpha=0.25, linewidth=0.7)
            axis.plot(steps, average.losses, f"C{color}", label=label)
            held_out = [r for r in records if "validation_loss" in r]
            axis.plot(
                [r["step"] for r in held_out],
                [r["validation_loss"] for r in held_out],
                f"C{color}o--",
                markersize=3,
                linewidth=0.8,
                label=f"{label}, validation",
            )
        axis.set(title=title, xlabel="step", ylabel="loss, nats per token")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=130)
