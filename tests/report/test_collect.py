import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.report.runs.collect import collect
from spdf_keras.report.runs.fields import hide_paths

from .conftest import CONFIG, FakeRuns


def test_runs_are_found_below_a_folder_and_met_twice_count_once(runs: FakeRuns) -> None:
    run = runs.pretrained("a/deep/run")
    runs.finetuned("b", 0.75)
    (runs.root / "a" / "deep" / "notes.txt").write_text("no run")
    (runs.root / "loop").symlink_to(runs.root, target_is_directory=True)
    found = collect([runs.root, run, runs.root / "a" / ".." / "a"])
    assert [record.number for record in found] == [1, 2]
    assert [record.kind for record in found] == ["pretrain", "finetune"]


def test_the_order_of_runs_is_not_that_of_the_arguments(runs: FakeRuns) -> None:
    folders = [runs.pretrained(f"r{n}", 0.25 * n) for n in (2, 0, 1)]
    there, back = collect(folders), collect(folders[::-1])
    assert there == back
    assert [record.origin.sparsity for record in there] == [0.0, 0.25, 0.5]


def test_a_folder_is_named_as_given_and_never_from_the_root(
    runs: FakeRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.pretrained("study/a")
    assert collect([runs.root])[0].name == "runs/study/a"
    monkeypatch.chdir(runs.root / "study")
    assert [collect([given])[0].name for given in (".", "../study", "a")] == [
        *("a", "../study/a", "a"),
    ]


def test_a_pretraining_knows_its_tokens_and_flops(runs: FakeRuns) -> None:
    (run,) = collect([runs.pretrained("a", 0.5, seed=3)])
    assert run.seed == (3, 3) and run.steps == 40
    assert run.sequences == 160 and run.origin.tokens == 160 * 32
    assert run.origin.flops == 160 * run.training_flops
    assert run.origin.validation_loss == run.validation.last == pytest.approx(4.7)


def test_a_context_that_was_shorter_shows_in_the_number_of_steps(
    runs: FakeRuns,
) -> None:
    twice = runs.pretrained("a", steps=80)
    assert collect([twice])[0].length == 16
    result = {"steps": 10, "tokens": 10 * 4 * 8}
    recorded = runs.pretrained("b", steps=10, result=result)
    assert collect([recorded])[0].length == 8 and collect([recorded])[0].finished


def test_a_finetuning_has_the_sparsity_of_its_base(runs: FakeRuns) -> None:
    for masks in ("stripped", "kept"):
        runs.finetuned(masks, 0.75, seed=2, masks=masks)
    kept, stripped = sorted(collect([runs.root]), key=lambda run: run.masks)
    assert kept.origin == stripped.origin and kept.seed == (2, 2)
    assert kept.origin.sparsity == 0.75 and kept.masks == "kept"
    assert kept.total_flops < stripped.total_flops
    assert stripped.checkpoint is not None and len(stripped.training.steps) == 20


def test_a_finetuning_has_seen_the_sequences_that_it_recorded(runs: FakeRuns) -> None:
    (unfinished,) = collect([runs.finetuned("a")])
    assert unfinished.sequences == 20 * 8 and not unfinished.finished
    (finished,) = collect([runs.finetuned("b", result={"sequences": 151})])
    assert finished.sequences == 151 and finished.finished
    assert finished.total_flops == 151 * finished.training_flops


def test_a_finetuning_names_its_base_where_it_is_among_the_runs(runs: FakeRuns) -> None:
    bare = {"sparsity": 0.5, "seed": 1, "mask_seed": 1, "folder": "pretrain"}
    tuned = runs.finetuned("b", 0.5, seed=1, base=bare)
    assert collect([tuned])[0].base == "pretrain"
    for seed in (0, 1):
        runs.pretrained(f"a{seed}", 0.5, seed)
    base, run = collect([runs.root])[1:]
    assert run.base == "run 2" and run.origin == base.origin
    assert run.origin.flops == base.total_flops
    runs.pretrained("copy", 0.5, seed=1)
    assert collect([runs.root])[-1].base == "pretrain"


def test_an_old_run_without_provenance_is_told_by_its_epochs(runs: FakeRuns) -> None:
    runs.pretrained("a", 0.75, provenance=False)
    runs.finetuned("b", 0.75, provenance=False)
    pretrained, finetuned = collect([runs.root])
    assert pretrained.origin.sparsity == 0.75 and pretrained.conditions.command == ""
    assert finetuned.kind == "finetune" and finetuned.origin.sparsity is None


def test_a_run_without_anything_done_is_a_run(runs: FakeRuns) -> None:
    (run,) = collect([runs.pretrained("a", steps=0, validation=False)])
    assert run.steps == 0 and run.checkpoint is None and run.validation.last is None


def test_a_score_that_failed_is_none_and_says_why(runs: FakeRuns) -> None:
    folder = runs.finetuned("a")
    runs.evaluated(folder, scores={"bleu": 0.1, "nist": None}, errors={"nist": "No."})
    (evaluation,) = collect([folder])[0].evaluations
    assert evaluation.scores == {"bleu": 0.1, "nist": None}
    assert evaluation.errors == {"nist": "No."}


def test_missing_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder '.*nowhere'\. Name a run"):
        collect([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"No run in '.*' or below: .* pretrain`"):
        collect([tmp_path])
    with pytest.raises(InputError, match="must name at least one run"):
        collect([])


def test_a_damaged_config_is_refused(runs: FakeRuns) -> None:
    folder = runs.pretrained("a")
    (folder / "config.toml").write_text("[sparsity]\nsparsity = 2.0\n")
    with pytest.raises(InputError, match=r"run '.*a' cannot be read: .*\[0, 1\).*Mend"):
        collect([folder])


def test_a_damaged_line_of_metrics_is_refused_and_a_cut_one_is_not(
    runs: FakeRuns,
) -> None:
    folder = runs.pretrained("a")
    file = folder / "metrics.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"step": 41, "lo')
    assert collect([folder])[0].steps == 40
    file.write_text('{"loss": 1.0}\n' + whole)
    with pytest.raises(
        InputError, match=r"Line 1 of '.*metrics.jsonl' is not a record"
    ):
        collect([folder])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"task": "e2e"', "Expecting"),
        ("[]", "it is no JSON object"),
        ('{"task": "e2e", "split": 3}', "`split` must be a text. Received: 3"),
        ('{"task": "e2e", "split": "test"}', "`scores` must be an object"),
        (
            '{"task": "e2e", "split": "test", "scores": {}, "samples": [1]}',
            "`samples` must be a list of objects",
        ),
    ],
)
def test_an_unreadable_evaluation_names_file_and_reason(
    runs: FakeRuns, text: str, reason: str
) -> None:
    folder = runs.finetuned("a")
    runs.evaluated(folder).write_text(text)
    with pytest.raises(InputError) as error:
        collect([folder])
    assert "e2e_test.json' cannot be read" in str(error.value)
    assert reason in str(error.value) and "remove it" in str(error.value)


def test_a_hidden_file_beside_an_evaluation_is_none(runs: FakeRuns) -> None:
    folder = runs.finetuned("a")
    file = runs.evaluated(folder)
    file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7Mac OS X")
    assert len(collect([folder])[0].evaluations) == 1


def test_bytes_that_are_no_text_are_refused(runs: FakeRuns) -> None:
    folder = runs.finetuned("a")
    runs.evaluated(folder).write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"e2e_test\.json' cannot be read: .*utf-8"):
        collect([folder])


def test_absolute_paths_in_commands_are_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = f"spdf-keras pretrain a.toml --data {tmp_path}/d --out=/x/y --set a.b=1"
    assert hide_paths(command) == (
        "spdf-keras pretrain a.toml --data d --out=.../y --set a.b=1"
    )
    for as_written in ("a 'b  c' --set x=\"y\"", "and/or ./a ../b"):
        assert hide_paths(as_written) == as_written
    assert hide_paths("open ' quote /secret/place") == "open ' quote .../place"


def test_runs_of_another_size_come_after_smaller_ones(runs: FakeRuns) -> None:
    wide = dataclasses.replace(CONFIG, model=GPTConfig(1, 2, 32, 0, 64, 32))
    runs.pretrained("a", config=wide)
    runs.pretrained("b", 0.75)
    assert [run.name for run in collect([runs.root])] == ["runs/b", "runs/a"]


def test_a_moved_run_reads_the_same(runs: FakeRuns, tmp_path: Path) -> None:
    folder = runs.pretrained("a", 0.5)
    (before,) = collect([folder])
    shutil.move(folder, tmp_path / "moved")
    (after,) = collect([tmp_path / "moved"])
    assert after.name == "moved" and after.training == before.training


def test_provenance_of_a_wrong_type_is_refused(runs: FakeRuns) -> None:
    folder = runs.pretrained("a")
    wrong: dict[str, Any] = {"kind": "pretrain", "command": ["spdf-keras"]}
    (folder / "provenance.json").write_text(json.dumps(wrong))
    with pytest.raises(
        InputError, match=r"provenance\.json' .*`command` must be a text"
    ):
        collect([folder])
