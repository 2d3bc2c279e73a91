"""Pre-trainings of equal operations, models of several sizes, and notes of a study."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from spdf_keras.cli import main
from spdf_keras.config import Config, GPTConfig, SparsityConfig, StudyConfig, to_toml
from spdf_keras.report.content.difference_tables import loss_comparisons
from spdf_keras.report.runs.collect import collect
from spdf_keras.report.runs.equal_operations import equal_operations
from spdf_keras.report.runs.groups import evaluation_groups, pretraining_groups
from spdf_keras.report.runs.pairs import pairs
from spdf_keras.report.write import write_report

from .conftest import CONFIG, FakeRuns

LONG = dataclasses.replace(
    CONFIG, train=dataclasses.replace(CONFIG.train, tokens=2 * CONFIG.train.tokens)
)
SET = dataclasses.replace(LONG, sparsity=SparsityConfig(method="set"))
WIDE = dataclasses.replace(
    CONFIG, model=GPTConfig(2, 2, 32, vocabulary_size=64, max_sequence_length=32)
)
RIGL = dataclasses.replace(LONG, sparsity=SparsityConfig(method="rigl"))
# Name, sparsity, settings, operations.
Way = tuple[str, float, Config, float]
WAYS: list[Way] = [
    ("s0", 0.0, CONFIG, 1e12),
    ("s75", 0.75, CONFIG, 5e11),
    ("longer", 0.75, LONG, 1.01e12),
    ("set", 0.75, SET, 1.01e12),
]


def ways(
    runs: FakeRuns, seeds: int = 2, pretrained: bool = True, others: Sequence[Way] = ()
) -> None:
    for seed in range(seeds):
        for name, sparsity, config, flops in [*WAYS, *others]:
            place = f"{name}/seed{seed}"
            if pretrained:
                runs.pretrained(f"{place}/pretrain", sparsity, seed, config)
            base = {
                "folder": "pretrain",
                "sparsity": sparsity,
                "method": config.sparsity.method,
                "seed": seed,
                "mask_seed": seed,
                "flops": flops,
                "tokens": config.train.tokens,
            }
            plain = dataclasses.replace(config, sparsity=SparsityConfig())
            folder = runs.finetuned(
                f"{place}/e2e", sparsity, seed, "e2e", config=plain, base=base
            )
            bleu = 0.6 + 0.01 * seed + 0.1 * (name == "set") - 0.1 * (name == "s75")
            runs.evaluated(folder, scores={"bleu": bleu})


def test_ways_of_equal_operations_stand_together(runs: FakeRuns) -> None:
    ways(runs)
    evaluations = evaluation_groups(collect([runs.root]))
    (cluster,) = equal_operations([], evaluations)
    assert sorted(way.group.variant for way in cluster) == [
        "",
        "set, tokens=10.2k",
        "static, tokens=10.2k",
    ]
    assert len(cluster) == 3 and all(set(way.evaluations) == {"e2e"} for way in cluster)


def test_a_method_is_compared_with_static_masks_of_its_recipe(runs: FakeRuns) -> None:
    ways(runs)
    groups = pretraining_groups(collect([runs.root]))
    found = {
        (g.settings["sparsity.method"], o.settings["sparsity.method"], o.sparsity)
        for g, o in pairs(groups)
        if g.settings["train.tokens"] == LONG.train.tokens
    }
    assert found == {
        ("set", "static", 0.75),
        ("set", "static", 0.0),
        ("static", "static", 0.0),
    }
    losses = loss_comparisons(groups)
    assert len(losses) == 4 and all(len(one.differences) == 1 for one in losses)


def test_a_fine_tuning_starts_from_the_pre_training_beside_it(runs: FakeRuns) -> None:
    for method in ("erk", "uniform"):
        masks = SparsityConfig(distribution=method)
        config = dataclasses.replace(CONFIG, sparsity=masks)
        runs.pretrained(f"{method}/seed0/pretrain", 0.75, 0, config)
        runs.evaluated(runs.finetuned(f"{method}/seed0/e2e", 0.75, 0, "e2e"))
    groups = evaluation_groups(collect([runs.root]))
    assert sorted(group.variant for group in groups) == ["", "distribution=erk"]


def test_a_report_has_a_table_of_equal_operations(
    runs: FakeRuns, tmp_path: Path, blank_pictures: None
) -> None:
    # The fixture's pre-trainings do not take the operations that their bases name.
    ways(runs, pretrained=False, others=[("rigl", 0.75, RIGL, 1.01e12)])
    # One way alone has this task, so there is nothing to compare.
    runs.evaluated(runs.root / "s0/seed0/e2e", "dart", scores={"bleu": 0.5})
    report = write_report([runs.root], tmp_path / "report")
    text = report.markdown.read_text("utf-8")
    part = text.partition("## Equal operations")[2].partition("\n## ")[0]
    assert "per exaFLOP" in part and "Differences at equal operations" in part
    assert "DART" not in part and "## Table 6: DART" in text
    rows = [r.split(" | ") for r in part.splitlines() if r.startswith("| 75%")]
    compared = [
        tuple(cell.partition("; ")[2].partition(",")[0] for cell in cells[:2])
        for cells in rows
        if "GPT" in cells[1]
    ]
    # With the dense one, with static masks, and with the best ones, those of `set`.
    assert sorted(compared) == [
        *(("rigl", ""), ("rigl", "set"), ("rigl", "static")),
        *(("set", ""), ("set", "static"), ("static", "")),
    ]
    # A row of the score is followed by one of the loss of fine-tuning.
    assert sum("| E2E Fine-tuning loss ↓ |" in r for r in part.splitlines()) == 7
    assert "2.000 ± 0.000 (2)" in part


def test_equal_operations_of_pre_trainings_alone(
    runs: FakeRuns, tmp_path: Path, blank_pictures: None
) -> None:
    steps = LONG.train.total_steps(LONG.model)
    for name, config in (("static", LONG), ("set", SET)):
        runs.pretrained(f"{name}/pretrain", 0.75, 0, config, steps)
    report = write_report([runs.root], tmp_path / "report")
    text = report.markdown.read_text("utf-8")
    part = text.partition("## Equal operations")[2].partition("\n## ")[0]
    assert "| 75% | 10.2k |" in part
    assert "fine-tun" not in part and "per exaFLOP" not in part


def test_sizes_stand_in_one_table(
    runs: FakeRuns, tmp_path: Path, blank_pictures: None
) -> None:
    for seed in range(3):
        for size, config in (("small", CONFIG), ("wide", WIDE)):
            for sparsity in (0.0, 0.75):
                name = f"{size}-{sparsity}-{seed}"
                folder = runs.finetuned(name, sparsity, seed, "e2e", config=config)
                loss = 0.2 if size == "small" else 0.1
                bleu = 0.7 + 0.01 * seed - loss * (sparsity > 0)
                runs.evaluated(folder, scores={"bleu": bleu})
    report = write_report([runs.root], tmp_path / "report")
    text = report.markdown.read_text("utf-8").replace("\\", "")
    part = text.partition("## Sizes")[2].partition("\n## ")[0]
    assert "75% less dense" in part
    small, wide, *losses = (r for r in part.splitlines() if r.startswith("| GPT"))
    assert "-20.00 *" in small and "-10.00 *" in wide
    changes = [r for r in part.splitlines() if r.startswith("| largest less smallest")]
    assert "| +10.00 *" in changes[0] and "| +0.000<br>" in changes[1]
    # These runs have equal losses of fine-tuning.
    assert len(losses) == 2 and all("+0.000" in line for line in losses)
    for name in ("bleu", "tuned"):
        assert (tmp_path / "report" / f"sizes-e2e-test-{name}.png").is_file()


def test_sizes_compare_losses_of_pre_training(
    runs: FakeRuns, tmp_path: Path, blank_pictures: None
) -> None:
    for seed in range(2):
        for size, config in (("small", CONFIG), ("wide", WIDE)):
            for sparsity in (0.0, 0.75):
                runs.pretrained(f"{size}-{sparsity}-{seed}", sparsity, seed, config)
    report = write_report([runs.root], tmp_path / "report")
    text = report.markdown.read_text("utf-8")
    part = text.partition("## Sizes")[2].partition("\n## ")[0]
    assert "**Pre-training: validation loss by size**" in part
    small, wide, change = (
        r for r in part.splitlines() if r.startswith(("| GPT", "| la"))
    )
    assert small.count(" | ") == wide.count(" | ") == change.count(" | ") == 4
    picture = "sizes-pretraining-validation_loss.png"
    assert (tmp_path / "report" / picture).is_file()


def test_a_row_of_sizes_has_one_recipe(
    runs: FakeRuns, tmp_path: Path, blank_pictures: None
) -> None:
    for seed in range(2):
        for name, config in (("small", CONFIG), ("long", LONG), ("wide", WIDE)):
            for sparsity in (0.0, 0.75):
                steps = 80 if config is LONG else 40
                place = f"{name}-{sparsity}-{seed}"
                folder = runs.pretrained(place, sparsity, seed, config, steps)
                if config is LONG and sparsity:
                    runs.log(folder, step=steps, validation_loss=9.0)
    report = write_report([runs.root], tmp_path / "report")
    text = report.markdown.read_text("utf-8")
    part = text.partition("## Sizes")[2].partition("\n## ")[0]
    lines = [r for r in part.splitlines() if r.startswith("| GPT")]
    # One recipe of two stands for a size, with the differences of that recipe.
    small, wide = lines
    assert "| 10.2k |" in small and "| +5.050 " in small
    assert "| 5.12k |" in wide and "| +0.750 " in wide


def test_notes_of_a_study_stand_where_they_belong(
    runs: FakeRuns, tmp_path: Path, blank_pictures: None
) -> None:
    for sparsity in (0.0, 0.75):
        runs.evaluated(runs.finetuned(f"s{sparsity}/e2e", sparsity, 0, "e2e"))
    notes = ("e2e: half of it is read.", "Two cores were used.")
    settings = Config(study=StudyConfig(notes=notes))
    (runs.root / "config.toml").write_text(to_toml(settings))
    mark = {"written_by": "spdf_keras", "kind": "study"}
    (runs.root / ".spdf_keras.json").write_text(json.dumps(mark))
    report = write_report([runs.root / "s0.0", runs.root / "s0.75"], tmp_path / "out")
    text = report.markdown.read_text("utf-8").replace("\\", "")
    summary, rest = text.split("## Table 3", 1)
    assert "- Two cores were used." in summary
    assert (
        "BLEU ↑ (test) [1] |" in summary and "- [1] E2E: half of it is read." in summary
    )
    table = rest.partition("## Table 4")[2].partition("\n## ")[0]
    assert "Note: half of it is read." in table


def test_intervals_of_all_scores_need_data(tmp_path: Path) -> None:
    out = str(tmp_path / "report")
    assert main(["report", str(tmp_path), "--out", out, "--all-scores"]) == 2


def test_operations_of_a_fine_tuning_are_those_that_its_steps_recorded(
    runs: FakeRuns,
) -> None:
    plain = runs.finetuned("plain", 0.0, 0, "e2e")
    padded = runs.finetuned("padded", 0.0, 1, "e2e")
    for step, exaflops in ((11, 1e-6), (12, 3e-6)):
        runs.log(padded, step=step, loss=1.0, seconds=0.5, exaflops=exaflops)
    found = {run.name.rpartition("/")[2]: run for run in collect([plain, padded])}
    # Without records, each sequence counts as the longest one.
    assert found["plain"].all_flops == 1e12 + found["plain"].total_flops
    assert found["padded"].all_flops == 1e12 + 3e12
    assert found["padded"].seconds == pytest.approx(found["plain"].seconds + 1.0)
