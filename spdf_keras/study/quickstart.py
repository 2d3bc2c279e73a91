"""The whole path at several sparsities, stage by stage, into one folder.

Each finished stage leaves a JSON file, so a run that was stopped goes on with
the stage that it was in.
"""

import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from spdf_keras.config import Config, SparsityConfig, to_toml
from spdf_keras.data.corpus.documents import read_documents
from spdf_keras.data.samples.corpora import Corpora
from spdf_keras.data.shards.prepare import write_shards
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tasks.e2e import find_split, read_e2e
from spdf_keras.data.tasks.registry import get_task
from spdf_keras.data.tasks.task import Example
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.evaluation.checks import check_data
from spdf_keras.evaluation.texts import as_lines, generate_texts, write_lines
from spdf_keras.export import to_saved_model, to_tflite
from spdf_keras.files import replace_file, replacing
from spdf_keras.flops import training_flops
from spdf_keras.metrics.bleu import corpus_bleu
from spdf_keras.training.finetune import finetune
from spdf_keras.training.pretrain import pretrain
from spdf_keras.training.run import Run

Result = dict[str, Any]
Progress = Callable[[str], AbstractContextManager[Callable[[dict[str, Any]], None]]]


class Quickstart:
    """Runs the stages of each sparsity and remembers what is done.

    Args:
        folder: Where everything goes; the caller holds it (see `claim`).
        config: All settings; the sparsity comes with each call.
        corpora: The data.
        say: Gets a sentence per stage.
        progress: Gives a display for a training stage by its label.

    Raises:
        InputError: If the folder holds a quickstart of other settings or data.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        corpora: Corpora,
        say: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self._folder, self._config, self._corpora = folder, config, corpora
        self._say, self._progress = say, progress
        self._train, self._validation = (
            read_e2e(find_split(corpora.task, split))
            for split in ("train", "validation")
        )
        settings = f"# {corpora.title}\n{to_toml(config)}"
        file = folder / "config.toml"
        if not file.is_file():
            replace_file(file, settings)
        elif file.read_text("utf-8") != settings:
            raise InputError(
                f"The folder '{folder}' holds a quickstart with other settings or "
                "data. Give the same ones to go on with it, or another folder."
            )

    def run(self, sparsity: float) -> Result:
        """Runs, or finishes, all stages at one sparsity.

        Returns:
            Everything that the report shows of it.
        """
        folder = self._folder / f"s{sparsity * 100:g}"
        config = dataclasses.replace(
            self._config,
            sparsity=dataclasses.replace(self._config.sparsity, sparsity=sparsity),
        )
        stages: list[tuple[str, Callable[[Path, Config], Result]]] = [
            ("pretrain", self._pretrain),
            ("finetune", self._finetune),
            ("evaluate", self._evaluate),
            ("export", self._export),
        ]
        result: Result = {"sparsity": sparsity, "folder": str(folder), "seconds": {}}
        for name, stage in stages:
            file = folder / f"{name}.json"
            if not file.is_file():
                self._say(f"{sparsity:.0%} sparsity: {name}")
                start = time.perf_counter()
                done = stage(folder, config)
                done["seconds"] = round(time.perf_counter() - start, 1)
                replace_file(file, json.dumps(done))
            done = json.loads(file.read_text("utf-8"))
            result["seconds"][name] = done.pop("seconds")
            result.update(done)
        return result

    def _shards(self) -> Shards:
        folder = self._folder / "shards"
        if not (folder / "index.json").is_file():
            texts = [*read_documents([self._corpora.text]), *_task_text(self._train)]
            tokenizer = Tokenizer.train(texts, self._config.model.vocabulary_size)
            write_shards(
                read_documents([self._corpora.text]),
                tokenizer,
                self._config.model.max_sequence_length,
                folder,
            )
        return Shards.open(folder)

    def _pretrain(self, folder: Path, config: Config) -> Result:
        shards = self._shards()
        splits = {"train": self._train, "validation": self._validation}
        check_data(shards.tokenizer(), splits, config, get_task("e2e"))
        with self._progress("pre-train") as report:
            done = pretrain(config, shards, folder / "pretrain", report)
        length = shards.context_length
        ratio = training_flops(config.model, length, config.sparsity.sparsity)
        ratio /= training_flops(config.model, length)
        return {
            "pretrain_loss": done["loss"],
            "pretrain_validation_loss": done["validation_loss"],
            "pretrain_tokens": done["tokens"],
            "pretrain_flops": done["flops"],
            "flops_ratio": ratio,
        }

    def _finetune(self, folder: Path, config: Config) -> Result:
        base = Run.open(folder / "pretrain")
        with self._progress("fine-tune") as report:
            done = finetune(
                base,
                self._train,
                self._validation,
                config.finetune,
                folder / "finetune",
                report,
            )
        return {
            "finetune_validation_loss": done["validation_loss"],
            "finetune_epochs": done["epochs"],
        }

    def _evaluate(self, folder: Path, config: Config) -> Result:
        run = Run.open(folder / "finetune")
        model, tokenizer = run.load_model(), run.tokenizer()
        contexts = [example.context for example in self._validation]
        outputs = generate_texts(model, tokenizer, contexts, config.decode)
        hypotheses = as_lines(outputs)
        write_lines(folder / "hypotheses.txt", hypotheses)
        references = [example.references for example in self._validation]
        score = corpus_bleu(hypotheses, references)
        return {
            "bleu": score.bleu,
            "signature": score.signature,
            "samples": list(zip(contexts[:3], hypotheses, strict=False)),
        }

    def _export(self, folder: Path, config: Config) -> Result:
        target = folder / "export"
        pretrained = Run.open(folder / "pretrain").load_model()
        finetuned = Run.open(folder / "finetune").load_model()
        cards = {
            "saved_model": to_saved_model(
                finetuned, target / "finetuned", overwrite=True
            ),
            "tflite": to_tflite(finetuned, target / "finetuned.tflite", overwrite=True),
            "tflite_pretrained_sparse": to_tflite(
                pretrained,
                target / "pretrained_sparse.tflite",
                sparse=True,
                overwrite=True,
            ),
        }
        return {f"{name}_bytes": card.size_bytes for name, card in cards.items()}


def _task_text(examples: Sequence[Example]) -> list[str]:
    return [text for e in examples for text in (e.context, *e.references)]


COLUMNS = (
    "Sparsity",
    "Pre-train loss",
    "Pre-train FLOPs",
    "of dense",
    "BLEU",
    "SavedModel",
    "TFLite",
    "TFLite, sparse",
)


def result_row(result: Result) -> list[str]:
    """One line of the table, in the order of `COLUMNS`."""
    sizes = ("saved_model_bytes", "tflite_bytes", "tflite_pretrained_sparse_bytes")
    return [
        f"{result['sparsity']:.0%}",
        f"{result['pretrain_validation_loss'] or result['pretrain_loss']:.3f}",
        f"{result['pretrain_flops']:.3g}",
        f"{result['flops_ratio']:.3f}x",
        f"{result['bleu']:.2f}",
        *(f"{result[key] / 1e6:.2f} MB" for key in sizes),
    ]


def write_report(
    folder: Path, config: Config, corpora: Corpora, results: Sequence[Result]
) -> Path:
    """Writes `report.md` and `loss.png`: table, curves, samples, conditions."""
    _plot_losses(folder / "loss.png", results)
    held_out = find_split(corpora.task, "validation").name
    packages = ("tensorflow", "tf_keras", "tensorflow-model-optimization", "sacrebleu")
    lines = [
        f"# Sparse pre-training, dense fine-tuning: {corpora.title}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| --- |" + " ---: |" * (len(COLUMNS) - 1),
        *("| " + " | ".join(result_row(result)) + " |" for result in results),
        "",
        "Loss is that of the pre-training validation split, in nats per token. FLOPs "
        "count the masked weights as skipped. BLEU is of the densely fine-tuned model "
        f"on {held_out}, decoded greedily: `{results[0]['signature']}`. "
        "The first two files hold the fine-tuned model, which is dense; the last one "
        "the pre-trained model, whose zeros it does not store.",
        "",
        "![Loss of pre-training and fine-tuning](loss.png)",
        "",
        "## Samples",
        "",
    ]
    for result in results:
        for context, text in result["samples"]:
            lines += [f"- {result['sparsity']:.0%}: `{context}`", f"  - {text}"]
    seconds = ", ".join(
        f"{r['sparsity']:.0%}: "
        + " ".join(f"{stage} {value:g}" for stage, value in r["seconds"].items())
        for r in results
    )
    lines += [
        "",
        "## Conditions",
        "",
        f"- Command: `{' '.join(['spdf-keras', *sys.argv[1:]])}`",
        f"- Seconds per stage: {seconds}",
        f"- {os.cpu_count()} cores, {platform.machine()}, Python "
        + ", ".join(
            [platform.python_version(), *(f"{p} {version(p)}" for p in packages)]
        ),
        "",
        "```toml",
        to_toml(dataclasses.replace(config, sparsity=SparsityConfig())).strip(),
        "```",
        "",
    ]
    path = folder / "report.md"
    replace_file(path, "\n".join(lines))
    return path


def _plot_losses(path: Path, results: Sequence[Result]) -> None:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, stage, title in zip(
        axes,
        ("pretrain", "finetune"),
        ("Pre-training", "Dense fine-tuning"),
        strict=True,
    ):
        for color, result in enumerate(results):
            records = list(Run(Path(result["folder"]) / stage).metrics())
            label = f"{result['sparsity']:.0%} sparsity"
            steps = [r["step"] for r in records if "loss" in r]
            losses = [r["loss"] for r in records if "loss" in r]
            axis.plot(steps, losses, f"C{color}", alpha=0.25, linewidth=0.7)
            axis.plot(steps, _smooth(losses), f"C{color}", label=label)
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


def _smooth(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """An exponential moving average without its bias towards zero."""
    average, norm, smoothed = 0.0, 0.0, []
    for value in values:
        average = weight * average + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        smoothed.append(average / norm)
    return smoothed
