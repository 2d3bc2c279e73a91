"""Order, choice and resuming of a study, with fake trainings."""

import dataclasses
import gc
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.config import Config, StudyConfig, config_from_tables, load_config
from spdf_keras.data.tasks.registry import get_task
from spdf_keras.data.tasks.task import Example
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.evaluation.checks import check_data
from spdf_keras.folders import LOCK
from spdf_keras.locks import lock
from spdf_keras.model.sparsity_plan import SparsityPlan
from spdf_keras.study import cell_stages, stages
from spdf_keras.study import study as module
from spdf_keras.study.plan import Cell, Trial, arms, cells, grid, num_stages, searches
from spdf_keras.study.study import Study
from spdf_keras.training.run import Run

SETTINGS: dict[str, list[Any]] = {
    "sparsities": [0.0, 0.75],
    "seeds": [4, 7],
    "batch_sizes": [8],
    "learning_rates": [1e-3, 1e-4],
}


@pytest.fixture(scope="module", autouse=True)
def _collections_skip_the_imports() -> Iterator[None]:
    """A study collects garbage before each stage: here some 800 stages in all."""
    gc.collect()
    gc.freeze()
    yield


class FakeTraining:
    """Writes what the real functions write, and counts the calls.

    Args:
        bleu: The validation score of a learning rate.
        stop_at: Number of the call that is interrupted half-way.
        score: Another score with the same values.
    """

    def __init__(
        self, bleu: dict[float, float], stop_at: int = 0, score: str = ""
    ) -> None:
        self.calls: list[str] = []
        self.pretrained: list[Config] = []
        self.tuned: dict[str, list[Any]] = defaultdict(list)
        self._bleu, self._stop_at, self._score = bleu, stop_at, score

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "FakeTraining":
        monkeypatch.setattr(stages, "pretrain", self.pretrain)
        monkeypatch.setattr(stages, "finetune", self.finetune)
        monkeypatch.setattr(cell_stages, "evaluate_run", self.evaluate_run)
        return self

    def _call(self, label: str) -> None:
        self.calls.append(label)
        if len(self.calls) == self._stop_at:
            raise KeyboardInterrupt

    def pretrain(self, config: Config, shards: Any, folder: Path, report: Any) -> None:
        assert config.train.seed == config.sparsity.seed
        self.pretrained.append(config)
        checkpoint = folder / "checkpoints" / "step-00000001"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "state.json").touch()
        (folder / "config.toml").write_text("")
        self._call(f"pretrain s{config.sparsity.sparsity} seed{config.train.seed}")
        Run(folder).finish({})

    def finetune(
        self,
        base: Run,
        train: Any,
        held_out: Any,
        settings: Any,
        folder: Path,
        report: Any,
        **options: Any,
    ) -> None:
        assert options.keys() == {"cut_context", "decode", "task", "tell"}
        assert base.result() is not None
        checkpoint = folder / "checkpoints" / "step-00000001"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "state.json").touch()
        (folder / "config.toml").write_text(
            f"[finetune]\nlearning_rate = {settings.learning_rate}\n"
            f"keep_masks = {str(settings.keep_masks).lower()}\n"
        )
        masks = "kept" if settings.keep_masks else "stripped"
        where = "/".join(base.folder.parts[-3:-1])
        self.tuned[f"{where} {masks} {settings.learning_rate:g}"].append(settings)
        task = options["task"] if self._score else ""
        self._call(f"finetune {where} {masks} {settings.learning_rate:g}{task}")
        Run(folder).finish({})

    def evaluate_run(
        self, run: Run, task: Any, split: str, examples: Any, config: Any = None
    ) -> None:
        self._call(f"{split} {'/'.join(run.folder.parts[-5:])}")
        assert run.checkpoints()
        rate = run.config().finetune.learning_rate
        record = {"scores": {"bleu": self._bleu[rate], self._score: self._bleu[rate]}}
        file = run.evaluation_file(task.name, split)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(record))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "wikitext2").mkdir(parents=True)
    (folder / "wikitext2" / "train.txt").write_text("A harbour.\n\nA park.\n" * 50)
    for name in ("trainset.csv", "devset.csv", "testset_w_refs.csv"):
        text = "sells tea" if "test" in name else "is a cafe"
        rows = "".join(f'"name[Cafe {n}]",Cafe {n} {text}.\n' for n in range(9))
        (folder / name).write_text("mr,ref\n" + rows)
    return folder


def make(
    tmp_path: Path,
    data: Path,
    said: list[str],
    lines: Any = (),
    renew: Any = lambda: None,
    **changes: Any,
) -> Study:
    model = {"num_heads": 2, "hidden_dim": 16, "vocabulary_size": 300}
    tables = {
        "model": {**model, "max_sequence_length": 64},
        "study": {**SETTINGS, **changes},
    }
    config = config_from_tables(tables, lines)
    progress = lambda label: nullcontext(lambda record: None)  # noqa: E731
    folder = tmp_path / "study"
    return Study(folder, config, data, said.append, progress, renew=renew)


def test_every_stage_runs_once_and_none_again(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTraining({1e-3: 0.4, 1e-4: 0.6}).install(monkeypatch)
    said: list[str] = []
    make(tmp_path, data, said).run()
    stages = [line for line in said if line.startswith("[")]
    # 4 pre-trainings; 2 trials and a test for each of 4 stripped and 2 kept.
    assert len(stages) == 4 + 6 * 3
    study = StudyConfig(**_tuples())
    assert sum(num_stages(study, cell) for cell in cells(study)) == 6 * 3
    assert stages[0] == "[1 of 22] 0% sparsity, seed 4: pre-train"
    assert stages[-1] == "[22 of 22] 75% sparsity, seed 7: e2e, test, masks kept"
    assert len(set(fake.calls)) == len(fake.calls) == 4 + 6 * (2 * 2 + 1)
    again: list[str] = []
    make(tmp_path, data, again).run()
    assert again == [] and len(fake.calls) == 34


def _tuples() -> dict[str, Any]:
    return {key: tuple(value) for key, value in SETTINGS.items()}


def test_the_best_trial_of_each_search_is_tested_and_keeps_its_weights(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTraining({1e-3: 0.4, 1e-4: 0.6}).install(monkeypatch)
    make(tmp_path, data, []).run()
    tested = [call for call in fake.calls if call.startswith("test")]
    assert len(tested) == 6 and all(call.endswith("b8_lr0.0001") for call in tested)
    folder = tmp_path / "study" / "s75" / "seed7" / "e2e" / "kept"
    search = json.loads((folder / "search.json").read_text())
    assert search["best"] == {"batch_size": 8, "learning_rate": 1e-4}
    assert [t["score"] for t in search["trials"]] == [0.4, 0.6]
    assert (folder / "b8_lr0.0001" / "checkpoints").is_dir()
    assert not (folder / "b8_lr0.001" / "checkpoints").exists()
    assert (folder / "b8_lr0.001" / "result.json").is_file()


def test_seeds_that_do_not_search_take_what_the_first_found(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTraining({1e-3: 0.7, 1e-4: 0.6}).install(monkeypatch)
    make(tmp_path, data, [], search_seeds=1, sparse_finetuning=False).run()
    second = [c for c in fake.calls if c.startswith("finetune") and "seed7" in c]
    assert second == [
        "finetune s0/seed7 stripped 0.001",
        "finetune s75/seed7 stripped 0.001",
    ]
    assert not any("kept" in call for call in fake.calls)


@pytest.mark.parametrize(
    "stop_at",
    [
        *range(1, 35, 6),
        *(pytest.param(call, marks=pytest.mark.slow) for call in range(4, 35, 6)),
    ],
)
def test_a_stopped_study_goes_on_to_the_same_end(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    bleu = {1e-3: 0.4, 1e-4: 0.6}
    stopped = FakeTraining(bleu, stop_at).install(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, data, []).run()
    resumed = FakeTraining(bleu).install(monkeypatch)
    make(tmp_path, data, []).run()
    # Only the stage that was cut is repeated.
    assert stopped.calls[-1] == resumed.calls[0]
    calls = stopped.calls[:-1] + resumed.calls
    assert len(calls) == len(set(calls)) == 34


def test_a_folder_of_other_settings_or_of_something_else_is_refused(
    tmp_path: Path, data: Path
) -> None:
    make(tmp_path, data, [])
    with pytest.raises(InputError, match="holds a study with other settings"):
        make(tmp_path, data, [], seeds=[1])
    (tmp_path / "study" / ".spdf_keras.json").unlink()  # the mark of a study
    with pytest.raises(InputError, match="is in use: choose another. It holds 'confi"):
        make(tmp_path, data, [])


def test_a_missing_corpus_is_refused_before_anything_is_written(
    tmp_path: Path, data: Path
) -> None:
    with pytest.raises(InputError, match=r"There is no 'pile.txt' in .*study.corpus"):
        make(tmp_path, data, [], corpus=["pile.txt"])
    assert not (tmp_path / "study").exists()


LONG = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=200))


@pytest.mark.parametrize(
    ("file", "row", "lines", "sentence"),
    [
        (
            "trainset.csv",
            f'"name[Cafe 3]",{LONG}',
            [],
            r"Example 4 of the train split has \d+ tokens with its reference 2, more "
            r"than the 64 that fit.*'name : Cafe 3",
        ),
        ("devset.csv", f'"name[New]",{LONG}', [], "Example 10 of the validation split"),
        (
            "testset_w_refs.csv",
            f'"name[{LONG}]",short',
            [],
            r"In the test split, example 10 has \d+ tokens, and the model sees 64 .*"
            "'name : vtkgnkuhmp",
        ),
        (
            "trainset.csv",
            '"name[A]",A cafe that is long enough.',
            ["finetune.sequence_length=9"],
            "of the train split .* more than the 9 that fit",
        ),
    ],
)
def test_a_text_that_is_too_long_is_refused_before_the_first_step(
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    row: str,
    lines: list[str],
    sentence: str,
) -> None:
    fake = FakeTraining({1e-3: 0.4, 1e-4: 0.6}).install(monkeypatch)
    with (data / file).open("a") as rows:
        rows.write(row + "\n")
    with pytest.raises(InputError, match=sentence):
        make(tmp_path, data, [], lines).run()
    assert fake.calls == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "finetune.micro_batches=4",
            "`micro_batches` must be a divisor of batch_size=6",
        ),
        ("study.search_beams=301", "`num_beams` must be at most the vocabulary of 300"),
        ("decode.num_beams=999", "`num_beams` must be at most the vocabulary of 300"),
        ("study.learning_rates=[1e-4, 1.0000001e-4]", "two for 'b8_lr0.0001'"),
        ("study.sparsities=[0.75, 0.75000001]", "two for 's75/seed4'"),
    ],
)
def test_settings_that_a_late_stage_would_refuse_are_refused_first(
    tmp_path: Path, data: Path, line: str, sentence: str
) -> None:
    lines = ["finetune.batch_size=4", "study.batch_sizes=[8, 6]", line]
    with pytest.raises(InputError, match=sentence):
        make(tmp_path, data, [], lines)
    assert not (tmp_path / "study").exists()


def test_a_context_that_is_cut_is_not_too_long(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeTraining({1e-3: 0.4, 1e-4: 0.6}).install(monkeypatch)
    study = make(tmp_path, data, [], ["decode.max_new_tokens=60"])
    examples = {"test": [Example("a long context " * 20, ("A cafe.",))]}
    tokenizer = Tokenizer.train(["a long context"], 300)
    check_data(tokenizer, examples, study._config, get_task("curation"))
    with pytest.raises(InputError, match="In the test split, example 1 has"):
        check_data(tokenizer, examples, study._config, get_task("e2e"))
    study = make(tmp_path / "other", data, [], ["decode.max_new_tokens=64"])
    with pytest.raises(InputError, match="`decode.max_new_tokens` must leave room"):
        check_data(tokenizer, examples, study._config, get_task("curation"))


def test_inputs_are_taken_evenly(tmp_path: Path, data: Path) -> None:
    study = make(tmp_path, data, [], train_inputs=3, validation_inputs=99)
    names = [example.context for example in study._targets[0].examples["train"]]
    assert names == ["name : Cafe 0", "name : Cafe 3", "name : Cafe 6"]
    assert len(study._targets[0].examples["validation"]) == 9


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("seeds=[]", "`seeds` must be one or more values, each once"),
        ("seeds=[1, 1]", r"each once. Received: seeds=\(1, 1\)"),
        ("seeds=3", "`study.seeds` must be a list of int. Received: 3"),
        ("seeds=[1.5]", "`study.seeds` must be int. Received: 1.5"),
        ("sparsities=[1.0]", r"`sparsity` must be in \[0, 1\)"),
        ("learning_rates=[0.0]", "`learning_rates` must be positive"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(setting: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        config_from_tables({}, [f"study.{setting}"])


def test_the_defaults_are_the_grid_of_the_paper() -> None:
    study = StudyConfig()
    assert study.sparsities == (0.0, 0.5, 0.75) and len(list(cells(study))) == 9
    assert {t.batch_size for t in grid(study)} == {8, 16, 32, 64}
    assert {t.learning_rate for t in grid(study)} == {1e-4, 5e-5, 2.5e-5}
    assert Trial(8, 2.5e-5).name == "b8_lr2.5e-05"
    dense, half, _ = arms(study)
    assert dense.modes == ("stripped",) and half.modes == ("stripped", "kept")
    assert all(searches(study, Cell(half, seed)) for seed in study.seeds)


@pytest.mark.parametrize("name", ["tiny", "small", "large", "small_operations"])
def test_the_studies_of_the_evidence_differ_in_what_they_compare_alone(
    name: str,
) -> None:
    configs = Path(__file__).parents[2] / "configs"
    config = load_config(configs / f"evidence_{name}.toml")
    base = load_config(configs / "evidence_small.toml")
    own, whole = config.train, base.train
    # The smallest has the fewest tokens, and smaller batches for enough steps.
    changes = ("learning_rate", "batch_size", "validate_every")
    alike = {key: getattr(whole, key) for key in changes[: 3 if name == "tiny" else 1]}
    assert dataclasses.replace(own, **alike) == whole
    assert own.total_steps(config.model, base.study.sequence_length) > 1000
    assert config.finetune == base.finetune and config.decode == base.decode
    # The peak of both learning rates falls with the width.
    width = config.model.hidden_dim
    assert own.learning_rate * width == pytest.approx(4e-3 * 64)
    assert config.study.learning_rates == (own.learning_rate,)
    sizes = dataclasses.replace(base.model, num_heads=width // 32, hidden_dim=width)
    assert config.model == dataclasses.replace(sizes, intermediate_dim=4 * width)
    names = [arm.name for arm in arms(config.study)]
    assert {"s50", "s75"} <= set(names) and len(config.study.seeds) >= 3


def test_a_study_has_several_tasks_with_settings_of_their_own(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "validation", "test"):
        rows = "".join(f"A long {split} article {n},It is {n}.\n" for n in range(4))
        (data / f"{split}.csv").write_text("article,summary\n" + rows)
    tasks = ["e2e", "curation: finetune.epochs=9 decode.max_new_tokens=8"]
    said: list[str] = []
    fake = FakeTraining({1e-3: 0.4, 1e-4: 0.6}, score="perplexity")
    fake.install(monkeypatch)
    make(tmp_path, data, said, tasks=tasks).run()
    # One task is finished for every pre-training before the next begins.
    names = ["e2e" in line for line in said if "fine-tune" in line]
    assert names == [True] * 12 + [False] * 12
    tested = [call for call in fake.calls if call.startswith("test")]
    assert [call.endswith("b8_lr0.0001") for call in tested] == [True] * 6 + [False] * 6
    curation = fake.tuned["s75/seed7 stripped 0.001"]
    assert [settings.epochs for settings in curation] == [5, 9]
    assert [call.count("pretrain") for call in fake.calls].count(1) == 4


def test_variants_are_pre_trained_with_settings_of_their_own(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTraining({1e-3: 0.4, 1e-4: 0.6}).install(monkeypatch)
    rigl = "rigl: sparsity.sparsity=0.75 sparsity.method=rigl train.tokens=9000"
    wide = "wide: model.hidden_dim=32 sparsity.sparsity=0.5"
    make(tmp_path, data, [], sparsities=[0.0], variants=[rigl, wide]).run()
    configs = {config.sparsity.method: config for config in fake.pretrained}
    assert configs["rigl"].train.tokens == 9000 and len(fake.pretrained) == 6
    assert {config.model.hidden_dim for config in fake.pretrained} == {16, 32}
    assert (tmp_path / "study" / "rigl" / "seed7" / "e2e" / "stripped").is_dir()
    assert not (tmp_path / "study" / "rigl" / "seed7" / "e2e" / "kept").exists()


@pytest.mark.parametrize("sparsity", [0.5, 0.75])
def test_equal_operations_give_a_sparse_model_more_tokens(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, sparsity: float
) -> None:
    fake = FakeTraining({1e-3: 0.4, 1e-4: 0.6}).install(monkeypatch)
    gmp = f"gmp: sparsity.method=gmp sparsity.sparsity={sparsity} sparsity.interval=10"
    make(
        tmp_path,
        data,
        [],
        ["train.tokens=2000000", "train.batch_size=4"],
        sparsities=[0.0, sparsity],
        variants=[gmp],
        equal_operations=True,
    ).run()
    totals = []
    for config in fake.pretrained:
        steps = config.train.total_steps(config.model)
        # The density of each step, summed in a loop, and not the plan's mean.
        plan = SparsityPlan(config.model, config.sparsity, steps)
        densities = [1 - plan.at(step) for step in range(1, steps + 1)]
        masked, other = 12 * 12 * 16 * 16, 16 * 300 + 12 * 2 * 64 * 16
        totals.append(sum(masked * density + other for density in densities))
    dense, static, changing = (config.train.tokens for config in fake.pretrained[:3])
    assert 2_000_000 <= dense < 2_000_256 < changing < static
    # These sums leave the softmax out, which the operations of the paper have.
    assert max(totals) / min(totals) < 1.03


@pytest.mark.parametrize(
    ("setting", "entry", "sentence"),
    [
        ("variants", "s75: model.hidden_dim=8", "must begin with a name of letters"),
        ("variants", "../up: model.hidden_dim=8", "must begin with a name of letters"),
        ("variants", "a: finetune.epochs=3", "must give settings of `.model.`, `.spa"),
        ("variants", "a: train.seed=3", "neither seed nor preset. Received: train.se"),
        ("variants", "a: model.hidden=3", "Unknown setting `model.hidden`"),
        ("variants", "a: model.hidden_dim='8", "must close its quotes"),
        ("variants", "a: sparsity.sparsity=2", r"`sparsity` must be in \[0, 1\)"),
        ("tasks", "e2e: train.tokens=3", "must give settings of `.finetune.` and"),
        ("tasks", "e3e", "Unknown task 'e3e'"),
        ("tasks", "dart", "No DART train data in"),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_first(
    tmp_path: Path, data: Path, setting: str, entry: str, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        make(tmp_path, data, [], **{setting: [entry]})
    assert not (tmp_path / "study").exists()


def test_a_second_process_waits_for_what_the_first_holds(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTraining({1e-3: 0.4, 1e-4: 0.6}).install(monkeypatch)
    said: list[str] = []
    study = make(tmp_path, data, said)
    place = tmp_path / "study" / "s0" / "seed4"
    place.mkdir(parents=True)
    with ExitStack() as other:
        other.enter_context(lock(place / LOCK, "The folder"))
        before: list[str] = []

        def leave(seconds: float) -> None:
            before.extend(fake.calls)
            other.close()

        monkeypatch.setattr(module.time, "sleep", leave)
        study.run()
    assert "waiting for another process: 0% sparsity, seed 4" in said
    assert len(set(fake.calls)) == len(fake.calls) == 34
    # All but the first pre-training was done while that was held.
    assert not any("s0/seed4" in call or "s0.0 seed4" in call for call in before)
    assert len(before) == 34 - 6


def test_texts_of_a_test_split_are_not_pre_trained_on(
    tmp_path: Path, data: Path
) -> None:
    with (data / "trainset.csv").open("a") as rows:
        rows.write('"name[Cafe 3]",Cafe 3 sells tea.\n')
    documents = list(make(tmp_path, data, [])._documents())
    assert "Cafe 3 is a cafe." in documents
    assert not any("sells tea" in document for document in documents)


def test_a_study_without_tasks_only_pre_trains_and_grows(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTraining({1e-3: 0.4, 1e-4: 0.6}).install(monkeypatch)
    lines = (f"The park number {n * 7919} of the town." for n in range(200))
    (data / "wikitext2" / "train.txt").write_text("\n\n".join(lines))
    said: list[str] = []
    make(tmp_path, data, said, tasks=[], seeds=[4]).run()
    assert fake.calls == ["pretrain s0.0 seed4", "pretrain s0.75 seed4"]
    assert "[2 of 2] 75% sparsity, seed 4: pre-train" in said
    with pytest.raises(InputError, match="holds a study with other settings"):
        make(tmp_path, data, [], seeds=[4])  # a task has texts for the corpus
    grown = {"seeds": [4, 7], "notes": ["New."], "sparsities": [0.0, 0.75, 0.5]}
    make(tmp_path, data, [], tasks=[], **grown).run()
    assert len(fake.calls) == len(set(fake.calls)) == 6
    assert load_config(tmp_path / "study" / "config.toml").study.notes == ("New.",)
    for other in ({"seeds": [7, 4]}, {"sparsities": [0.5]}, {"batch_sizes": [3]}):
        with pytest.raises(InputError, match="holds a study with other settings"):
            make(tmp_path, data, [], tasks=[], **{**grown, **other})


def test_a_part_of_a_study_is_done_by_its_first_seeds(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTraining({1e-3: 0.4, 1e-4: 0.6}).install(monkeypatch)
    make(tmp_path, data, [], seeds=[4, 7])
    settings = (tmp_path / "study" / "config.toml").read_text()
    make(tmp_path, data, [], seeds=[4]).run()
    assert len(fake.calls) == 17
    assert all("seed4" in call for call in fake.calls)
    assert (tmp_path / "study" / "config.toml").read_text() == settings
    make(tmp_path, data, [], seeds=[4, 7]).run()
    assert len(fake.calls) == len(set(fake.calls)) == 34


def test_a_process_that_starts_anew_after_each_part_ends_the_study(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTraining({1e-3: 0.4, 1e-4: 0.6}).install(monkeypatch)

    class RenewedError(Exception):
        pass

    def renew() -> None:
        raise RenewedError

    starts = 1
    while True:
        try:
            make(tmp_path, data, [], renew=renew).run()
            break
        except RenewedError:
            starts += 1
    assert starts == 4 and len(fake.calls) == len(set(fake.calls)) == 34
