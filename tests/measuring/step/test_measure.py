import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.errors import InputError
from spdf_keras.measuring.step import measure as measuring
from spdf_keras.measuring.step.contenders import Contender, grid, groups, select
from spdf_keras.measuring.step.measure import Record, forecast, measure
from spdf_keras.measuring.step.store import Store
from spdf_keras.measuring.step.table import markdown, write_into
from spdf_keras.measuring.step.worker import Worker, WorkerError

ABOUT: dict[str, Any] = {
    "hardware": {"processor": "a processor", "cores": 2},
    "versions": {"spdf_keras": "1"},
    "started": "2026-01-02T03:04:05+00:00",
}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_PAUSE_SECONDS", 0)


class Machine:
    """Processes that take no time, and say how much they took."""

    def __init__(self, fails: str = "none") -> None:
        self.running: set[Contender] = set()
        self.started: list[Contender] = []
        self.most = 0
        self._fails = fails

    def start(self, contender: Contender) -> Any:
        machine, fails = self, self._fails
        machine.running.add(contender)
        machine.started.append(contender)
        machine.most = max(machine.most, len(machine.running))

        class Steps:
            def __init__(self) -> None:
                self._taken = 0

            def versions(self) -> dict[str, str]:
                return {contender.program: "1.0"}

            def step(self) -> dict[str, float]:
                if fails in contender.words:
                    raise WorkerError("it fails")
                self._taken += 1
                # The first step, which compiles, takes longer.
                seconds = contender.theory * (1 if self._taken > 1 else 100)
                in_bfloat16 = contender.precision == "bfloat16"
                return {"seconds": seconds * (0.5 if in_bfloat16 else 1), "loss": 3.0}

            def peak(self) -> float:
                return 2 * contender.flops

            def close(self) -> None:
                machine.running.remove(contender)

        return Steps()


def test_ratios_are_those_to_both_dense_models() -> None:
    chosen = select(grid(["1x16"]), ["ours,graph", "torch,eager"])
    machine = Machine()
    records = [
        record
        for group in measure(groups(chosen, 5), machine.start, 2)
        for record in group
    ]
    assert not machine.running and machine.most <= 5
    assert set(machine.started) == {record.contender for record in records}
    assert len(set(machine.started)) == len(machine.started), "one start for each"
    for record in records:
        contender, scale = record.contender, 1.0
        if contender.precision == "bfloat16":
            scale = 0.5
        assert record.seconds == pytest.approx([contender.theory * scale] * 2)
        assert record.of_float32 == record.seconds
        assert record.of_dense == pytest.approx([contender.theory] * 2)
        assert (record.losses, record.note) == ([3.0, 3.0], "")


def test_what_fails_gets_a_note_and_the_others_are_measured() -> None:
    chosen = select(grid(["1x16"]), ["torch,float32"])
    machine = Machine(fails="compiled")
    (records,) = measure(groups(chosen, 4), machine.start, 1)
    notes = {record.contender.compiler: record.note for record in records}
    assert notes["compiled"] == "it fails" and notes["eager"] == notes["graph"] == ""
    assert not machine.running
    # Without its baseline, a group has no ratios.
    with pytest.raises(WorkerError, match="it fails"):
        list(measure(groups(chosen, 4), Machine(fails="graph").start, 1))


def test_a_forecast_grows_with_rounds_and_counts_a_start_once() -> None:
    plan = list(groups(select(grid(["1x1024"]), ["torch", "ours,graph"]), 4))
    peaks = {"float32": 1e11, "bfloat16": 4e11}
    few, many = (forecast(plan, rounds, peaks) for rounds in (1, 9))
    assert len(few) == len(plan) and all(a < b for a, b in zip(few, many, strict=True))
    again = forecast([plan[0], plan[0]], 1, peaks)
    assert again[1] < again[0]


def test_a_file_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "steps.jsonl"
    chosen = select(grid(["1x16"]), ["ours,float32,graph", "torch,float32"])
    plan = groups(chosen, 3)
    store = Store(path)
    assert store.left(chosen, 2) == chosen
    first, second, *_ = measure(plan, Machine(fails="compiled").start, 2)
    store.add(first, ABOUT)
    store.add(second, ABOUT)
    again = Store(path)
    assert again.records == store.records == first + second
    again.check_machine(ABOUT)
    with pytest.raises(InputError, match="records of this machine"):
        again.check_machine({**ABOUT, "hardware": {"cores": 3}})
    done = {record.contender for record in first + second}
    assert set(again.left(chosen, 2)) == set(chosen) - done
    assert set(again.left(chosen, 99)) == {
        c for c in chosen if not any(r.note for r in again.records if r.contender == c)
    }
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(InputError, match=r"Line \d+ of .* must be a record"):
        Store(path)


def test_a_table_has_all_rounds_and_what_is_missing(tmp_path: Path) -> None:
    contenders = grid(["8x1024"])
    (dense,) = select(contenders, ["ours,float32,graph,dense"])
    (sparse,) = select(contenders, ["ours,bfloat16,graph,sparse,75"])
    (failed,) = select(contenders, ["torch,float32,compiled"])
    versions = {"TensorFlow": "2"}
    records = [
        Record(dense, [4.0], [1.0], [1.0], [3.0], [dense.flops / 2], versions),
        Record(dense, [6.0], [1.0], [1.0], [3.0], [dense.flops / 2], versions),
        Record(sparse, [1.0, 3.0], [0.2, 0.4], [0.5, 0.7], [3.0], [sparse.flops]),
        Record(failed, note="it fails"),
    ]
    text = markdown(records, ABOUT)
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        "| this package | float32 | dense | graph | 5 s (4.5-5.5) | 1,638 | 1 | 1 | "
        "1.00 | 40% |",
        "| this package | bfloat16 | 75%, zeros skipped | graph | 2 s (1.5-2.5) | "
        f"4,096 | 0.30 (0.25-0.35) | 0.60 (0.55-0.65) | {sparse.theory:.2f} | 50% |",
    ]
    assert "8 x 1,024 tokens, in micro-batches of 1, 12 blocks:" in text
    assert "- Not measured: torch, float32, dense, compiled, 0 %, 8x1024. it" in text
    assert "1 to 2 rounds in turns" in text and "a processor, 2 cores" in text
    page = tmp_path / "page.md"
    page.write_text("before\n")
    with pytest.raises(InputError, match="The page must have the lines"):
        write_into(page, text)
    marks = "<!-- table of steps -->", "<!-- end of the table of steps -->"
    page.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
    for _ in range(2):
        write_into(page, text)
    expected = f"before\n{marks[0]}\n\n{text}\n{marks[1]}\nafter\n"
    assert page.read_text() == expected


PROGRAM = """
import json, sys
print("a library's greeting")
print(json.dumps({"ready": {"library": "1"}}), flush=True)
for line in sys.stdin:
    if line == "peak\\n":
        print(json.dumps({"error": "no peak here"}), flush=True)
    elif len(sys.argv) > 1:
        sys.exit("out of luck")
    else:
        print(json.dumps({"seconds": 0.5, "loss": 2.0}), flush=True)
"""


def test_a_worker_answers_and_says_why_it_has_ended(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    worker = Worker([sys.executable, str(program)])
    try:
        assert worker.step() == {"seconds": 0.5, "loss": 2.0}
        assert worker.versions() == {"library": "1"}
        with pytest.raises(WorkerError, match="no peak here"):
            worker.peak()
    finally:
        worker.close()
    worker = Worker([sys.executable, str(program), "exit"])
    try:
        for _ in range(2):
            with pytest.raises(WorkerError, match=r"'program.py' .* 1: out of luck"):
                worker.step()
    finally:
        worker.close()


@pytest.mark.slow
@pytest.mark.parametrize("words", ["sparse,graph,75,ours", "keras_nlp,graph"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_programs_of_the_benchmark_take_steps(words: str, precision: str) -> None:
    contender = select(grid(["2x16"], 1), [f"{words},{precision}"])[0]
    program = Path(__file__).parents[3] / "benchmarks" / "peers" / "gpt_tensorflow.py"
    sizes = {**vars(contender.sizes), "vocabulary_size": 50}
    settings = {
        **{"program": contender.program, "precision": precision},
        **{"sparsity": contender.sparsity, "sizes": sizes},
        "train": contender.settings,
        "tokens": [[1, 2] * 8 + [3]] * contender.batch,
    }
    worker = Worker([sys.executable, str(program), json.dumps(settings)])
    try:
        losses = [worker.step()["loss"] for _ in range(3)]
        # A model that knows nothing yet; the rate warms up, so it learns little.
        assert losses[0] == pytest.approx(math.log(50), abs=1.5)
        assert losses[2] < losses[0] + 0.01
        assert worker.peak() > 1e6
    finally:
        worker.close()
