import dataclasses

from spdf_keras.config import PRESETS, Config, TrainConfig
from spdf_keras.data.tasks.registry import TASKS
from spdf_keras.report.content.cells import beside
from spdf_keras.report.content.flops_tables import finetuning_table, pretraining_table
from spdf_keras.report.content.labels import model_labels
from spdf_keras.report.content.samples import sample_tables
from spdf_keras.report.content.score_tables import results_table, summary_table
from spdf_keras.report.page.document import Table
from spdf_keras.report.runs.collect import collect
from spdf_keras.report.runs.groups import (
    evaluation_groups,
    finetuning_groups,
    pretraining_groups,
)

from .conftest import FakeRuns

TABLE_4, TABLE_5, TABLE_6 = (
    TASKS[name].table.printed for name in ("e2e", "webnlg", "dart")
)
SMALL = Config(model=PRESETS["gpt2_small"].model, train=TrainConfig())


def column(table: Table, title: str) -> list[str]:
    index = table.columns.index(title)
    return [row.cells[index] for row in table.rows]


def is_square(table: Table) -> bool:
    return all(len(row.cells) == len(table.columns) for row in table.rows)


def test_the_printed_values_are_those_of_the_paper() -> None:
    assert str(TABLE_4["gpt2_small", 0.0]["bleu"]) == "67.49 ± 0.60"
    assert str(TABLE_4["gpt2_small", 0.75]["nist"]) == "8.46 ± 0.13"
    assert str(TABLE_4["gpt3_xl", 0.5]["rouge_l"]) == "71.30 ± 0.20"
    assert str(TABLE_4["gpt3_xl", 0.75]["cider"]) == "2.42 ± 0.03"
    assert str(TABLE_5["gpt2_small", 0.5]["bleu"]) == "63.10 ± 0.13"
    assert str(TABLE_5["gpt3_xl", 0.0]["ter"]) == "0.32"
    assert str(TABLE_6["gpt3_xl", 0.75]["bleu"]) == "46.96 ± 0.08"
    assert str(TABLE_6["gpt2_small", 0.0]["meteor"]) == "0.38"
    for layout in (TASKS[task].table for task in ("e2e", "webnlg", "dart")):
        assert len(layout.printed) == 6
        for cells in layout.printed.values():
            assert list(cells) == [score.name for score in layout.scores]


def test_a_cell_is_in_the_unit_of_the_paper(runs: FakeRuns) -> None:
    for seed in (0, 1):
        scores = {"bleu": 0.67 + 0.01 * seed, "nist": 8.5, "meteor": 0.4608}
        scores |= {"rouge_l": 0.7022, "cider": 2.38 - 0.02 * seed}
        runs.evaluated(runs.finetuned(f"s{seed}", 0.5, seed), scores=scores)
    found = collect([runs.root])
    table = results_table(evaluation_groups(found), model_labels(found))
    assert is_square(table)
    assert table.columns[3:8] == (
        "BLEU ↑",
        "NIST ↑",
        "METEOR ↑",
        "ROUGE-L ↑",
        "CIDEr ↑",
    )
    assert table.rows[0].cells == (
        *("GPT, 8.1k", "50%", "dense", "67.50 ± 0.71 (2)", "8.50 ± 0.00 (2)"),
        *("46.08 ± 0.00 (2)", "70.22 ± 0.00 (2)", "2.37 ± 0.01 (2)", "1, 2"),
    )


def test_a_small_model_stands_beside_gpt2_small_which_is_called_another(
    runs: FakeRuns,
) -> None:
    runs.evaluated(runs.finetuned("a", 0.75))
    found = collect([runs.root])
    table = results_table(evaluation_groups(found), model_labels(found))
    assert column(table, "Model") == [
        "GPT, 8.1k",
        *["GPT-2 Small, printed (another model)"] * 3,
    ]
    assert [row.quoted for row in table.rows] == [False, True, True, True]
    assert column(table, "BLEU ↑")[1:] == [
        *("67.49 ± 0.60", "67.39 ± 0.38", "66.50 ± 0.01"),
    ]


def test_without_runs_only_rows_that_are_always_shown_are_left() -> None:
    assert beside([], TABLE_4, always=()) == []
    assert beside([], TABLE_4, always=("gpt3_xl",)) == list(TABLE_4)[3:]


def test_gpt2_small_of_our_own_is_named_and_interleaved(runs: FakeRuns) -> None:
    for sparsity in (0.0, 0.75):
        # It has no checkpoint, which would be large, because masks do not matter here.
        folder = runs.settings(f"s{sparsity}", SMALL)
        runs.provenance(
            folder, kind="finetune", task="e2e", base={"sparsity": sparsity, "seed": 0}
        )
        runs.evaluated(folder)
    found = collect([runs.root])
    table = results_table(evaluation_groups(found), model_labels(found))
    ours, printed = "GPT-2 Small", "GPT-2 Small, printed"
    assert column(table, "Model") == [ours, printed, ours, printed, printed]
    assert column(table, "Pre-train sparsity") == ["0%", "0%", "75%", "75%", "50%"]


def test_webnlg_has_a_row_for_each_part(runs: FakeRuns) -> None:
    parts = {"unseen": {"bleu": 30.0}, "seen": {"bleu": 60.0, "meteor": 0.43}}
    folder = runs.finetuned("a", task="webnlg")
    runs.evaluated(folder, "webnlg", parts=parts, scores={"bleu": 47.5, "ter": 0.4})
    found = collect([runs.root])
    table = results_table(evaluation_groups(found), model_labels(found))
    assert is_square(table)
    assert column(table, "Part") == ["seen", "unseen", "all", *["not stated"] * 3]
    assert column(table, "BLEU ↑")[:3] == [
        f"{score} ± - (1)" for score in ("60.00", "30.00", "47.50")
    ]
    assert column(table, "METEOR ↑")[:3] == ["0.430 ± - (1)", "-", "-"]
    assert column(table, "TER ↓")[:3] == ["-", "-", "0.400 ± - (1)"]


def test_a_task_that_the_paper_lacks_shows_its_scores(runs: FakeRuns) -> None:
    folder = runs.finetuned("a", task="own")
    runs.evaluated(folder, "own", scores={"accuracy": 0.5})
    found = collect([runs.root])
    table = results_table(evaluation_groups(found), model_labels(found))
    assert column(table, "accuracy ↑") == ["0.50 ± - (1)"]


def test_table_2_has_our_flops_and_the_printed_rows(runs: FakeRuns) -> None:
    for seed in range(2):
        runs.pretrained(f"s{seed}", 0.75, seed)
    found = collect([runs.root])
    table = pretraining_table(pretraining_groups(found), model_labels(found))
    assert is_square(table) and len(table.rows) == 7
    # 2*T*12*L*d^2*(1-s) + 4*L*T^2*d + 3*L*h*T^2 + 2*T*d*V, three times, in numbers:
    forward = 2 * 32 * 12 * 2 * 16**2 / 4 + 4 * 2 * 32**2 * 16
    forward += 3 * 2 * 2 * 32**2 + 2 * 32 * 16 * 64
    total = 3 * forward * 160
    exponent = f"{total:.2e}".replace("e+0", "e")
    assert column(table, "Total FLOPs")[0] == exponent
    assert column(table, "Validation loss ↓")[0] == "4.700 ± 0.071 (2)"
    assert column(table, "exaFLOPs")[1:] == [
        *("2.43", "1.79", "1.46", "236.10", "141.87", "94.76")
    ]
    assert column(table, "FLOPs over dense")[1:4] == ["1x", "0.737x", "0.601x"]


def test_table_3_has_both_readings_of_flops_per_sequence(runs: FakeRuns) -> None:
    runs.finetuned("a", 0.5)
    found = collect([runs.root])
    table = finetuning_table(finetuning_groups(found), model_labels(found))
    assert is_square(table) and column(table, "Dataset") == ["E2E"] * 3
    assert column(table, "Tokens") == ["32", "512", "512"]
    assert column(table, "Sequences") == ["160", "1.26e5", "1.26e5"]
    forward, training = (
        column(table, f"{reading} FLOPs / sequence")[1]
        for reading in ("Forward", "Training")
    )
    assert (forward, training) == ("1.36e11", "4.08e11")
    share = found[0].total_flops / 0.75e12
    assert column(table, "Of pre-training")[0] == f"{share:.2%}"
    assert column(table, "FLOPs as batched") == ["-"] * 3


def test_recorded_flops_of_padded_batches_are_set_against_pre_training(
    runs: FakeRuns,
) -> None:
    folder = runs.finetuned("a", 0.5)
    runs.log(folder, step=11, loss=1.0, seconds=0.5, exaflops=3e-9)
    found = collect([runs.root])
    table = finetuning_table(finetuning_groups(found), model_labels(found))
    assert column(table, "FLOPs as batched")[0] == "3.00e9"
    assert column(table, "Of pre-training")[0] == f"{3e9 / 0.75e12:.2%}"


def test_the_summary_compares_with_the_dense_model(runs: FakeRuns) -> None:
    for sparsity in (0.0, 0.5):
        folder = runs.finetuned(f"s{sparsity}", sparsity)
        for split in ("test", "validation"):
            runs.evaluated(folder, split=split)
    runs.pretrained("alone", 0.9)
    found = collect([runs.root])
    table = summary_table(
        pretraining_groups(found), evaluation_groups(found), model_labels(found)
    )
    assert is_square(table) and column(table, "Pre-train sparsity") == [
        *("0%", "50%", "90%")
    ]
    assert column(table, "of dense")[:2] == ["1.000x", "0.750x"]
    assert column(table, "E2E BLEU ↑ (test)") == ["67.00 ± - (1)"] * 2 + ["-"]


def test_a_run_whose_sparsity_is_not_known_keeps_a_row(runs: FakeRuns) -> None:
    runs.evaluated(runs.finetuned("a", provenance=False))
    found = collect([runs.root])
    table = results_table(evaluation_groups(found), model_labels(found))
    assert column(table, "Pre-train sparsity")[0] == "not recorded"


def test_context_length_of_the_model_bounds_a_finetuning(runs: FakeRuns) -> None:
    long = dataclasses.replace(SMALL, sparsity=SMALL.sparsity)
    folder = runs.settings("a", long)
    runs.provenance(folder, kind="finetune", task="e2e")
    assert collect([folder])[0].length == 512


def test_a_long_context_of_a_sample_is_shortened(runs: FakeRuns) -> None:
    article = "a word and another one " * 100
    sample = {"context": article, "hypothesis": "A sum.", "references": ["The sum."]}
    runs.evaluated(runs.finetuned("a", 0.5), "curation", samples=[sample])
    found = collect([runs.root])
    (table,) = sample_tables(evaluation_groups(found), model_labels(found))
    assert isinstance(table, Table) and len(table.caption) < 700
    assert table.caption.endswith(f"... ({len(article):,} characters)")
    assert "a word and another one a word" in table.caption
