import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdf_keras.cli import main
from spdf_keras.commands import benchmark_matmul
from spdf_keras.measuring import turns
from spdf_keras.measuring.matmul import measure as measuring
from spdf_keras.measuring.matmul.backend import UnsupportedError
from spdf_keras.measuring.matmul.backends import BACKENDS, DenseTensorFlow
from spdf_keras.measuring.matmul.figure import draw, points
from spdf_keras.measuring.matmul.forecast import Forecast
from spdf_keras.measuring.matmul.measure import measure
from spdf_keras.measuring.matmul.problem import Shape
from spdf_keras.measuring.matmul.rows import (
    FORWARD,
    LAYOUT,
    TRAINING,
    Row,
    break_even,
)
from spdf_keras.measuring.matmul.tables import notes, tables

SHAPE = Shape(64, 32)


class Wrong(DenseTensorFlow):
    name, is_dense = "wrong", False

    def forward(self, x: Any) -> Any:
        right = super().forward(x)
        return lambda: right() * 1.001


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that a call takes by the name of its backend; no call is timed."""
    durations: dict[str, float] = {}

    def seconds(call: Any, repeats: int = 1) -> float:
        names = {kind.__qualname__: kind.name for kind in BACKENDS.values()}
        return durations[names[call.__qualname__.split(".")[0]]]

    monkeypatch.setattr(turns, "seconds", seconds)
    return durations


def test_a_speedup_is_over_the_fastest_dense_backend(clock: dict[str, float]) -> None:
    clock.update({"TensorFlow, dense": 0.3, "XLA, dense": 0.2, "tf.sparse": 0.1})
    names = ["tensorflow", "xla", "tf.sparse"]
    (cell, rows), *rest = measure([SHAPE], [0.75], [4], names, rounds=3)
    assert cell == ("64x32", 0.75, 4, "float32") and not rest
    by_key = {(row.backend, row.operation): row for row in rows}
    assert len(by_key) == len(rows) == 9
    for operation, parts in ((FORWARD, 1), ("gradients", 1), (TRAINING, 2)):
        speedups = [by_key[BACKENDS[n].name, operation].speedup for n in names]
        assert speedups == pytest.approx([2 / 3, 1, 2])
        row = by_key["tf.sparse", operation]
        assert row.seconds == row.seconds_low == row.seconds_high == 0.1 * parts
        assert (row.theoretical, row.rounds) == (4, 3)
    assert (by_key["tf.sparse", FORWARD].relative_error or 1) < 1e-6


def test_what_would_take_too_long_is_left_out(clock: dict[str, float]) -> None:
    clock.update({"TensorFlow, dense": 0.1, "tf.sparse": 5.0})
    names = ["tensorflow", "tf.sparse"]
    cells = dict(measure([SHAPE], [0.5], [2, 4, 1], names, rounds=1, most_seconds=8))
    left_out = {
        (tokens, row.operation): row.note
        for (_, _, tokens, _), rows in cells.items()
        for row in rows
        if row.note
    }
    # 5 s for one token are 10 s for two, which were not measured, and 20 for four.
    assert left_out == {
        (2, FORWARD): "would take about 10 s",
        (2, "gradients"): "would take about 10 s",
        (4, FORWARD): "would take about 20 s",
        (4, "gradients"): "would take about 20 s",
    }


@given(
    st.lists(st.integers(1, 4096), min_size=2, max_size=5, unique=True),
    st.floats(0, 9),
    st.floats(0, 0.1),
)
def test_what_a_call_takes_in_any_case_does_not_grow_with_the_tokens(
    tokens: list[int], once: float, each: float
) -> None:
    *before, last = sorted(tokens)
    seconds = once + each * last
    forecast = Forecast(most_seconds=seconds + 0.01)
    for number in before:
        forecast.add("ours", FORWARD, number, once + each * number)
    if before[1:]:
        forecast.check("ours", FORWARD, last)
        slower = Forecast(most_seconds=0.9 * seconds - 0.01)
        slower._measured = forecast._measured
        if seconds > 0.1:
            with pytest.raises(UnsupportedError, match="would take about"):
                slower.check("ours", FORWARD, last)


def test_products_in_bfloat16_are_compared_with_dense_ones_in_bfloat16() -> None:
    names = ["tensorflow", "tensorflow-float32", "xla", "tflite", "tf.sparse"]
    grid = [SHAPE], [0.5], [3]
    ((cell, rows),) = measure(*grid, names, precision="bfloat16", rounds=1)
    assert cell == ("64x32", 0.5, 3, "bfloat16")
    measured = {row.backend: row for row in rows if row.operation == FORWARD}
    notes = {name: row.note for name, row in measured.items() if row.note}
    assert notes == {
        "TFLite, dense": "has no products in bfloat16",
        "tf.sparse": "adds up in bfloat16, so its sums are no sums of float32",
    }
    # Rounding to bfloat16 shows, so that the products are what they are called.
    assert 1e-5 < (measured["TensorFlow, dense"].relative_error or 0) < 4e-3
    assert (measured["TensorFlow, dense float32"].relative_error or 0) < 1e-6
    dense = ("TensorFlow, dense", "XLA, dense")
    assert max(measured[name].speedup or 0 for name in dense) == 1
    assert {row.precision for row in rows} == {"bfloat16"}


def test_a_wrong_result_gets_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "wrong", Wrong)
    ((_, rows),) = measure([SHAPE], [0.5], [2], ["tensorflow", "wrong"], rounds=1)
    bad = [row for row in rows if row.note]
    assert [(row.operation, row.speedup) for row in bad] == [(FORWARD, None)]
    assert "relative error 1.0e-03" in bad[0].note
    assert notes(rows) == [f"wrong, forward: {bad[0].note} (64x32 at 0.5, 2 tokens)"]


def test_what_does_not_fit_the_memory_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert 0 < (measuring.free_bytes() or 1) < 2**50
    # tf.sparse may take 50 bytes for each of 2,048 kept weights.
    monkeypatch.setattr(measuring, "free_bytes", lambda: 20000)
    ((_, rows),) = measure([SHAPE], [0.0], [1], ["tensorflow", "tf.sparse"], rounds=1)
    sparse_notes = {row.note for row in rows if row.backend == "tf.sparse"}
    assert sparse_notes == {"needs 9.5e-05 GiB of memory, 1.9e-05 are free"}
    assert all(row.speedup for row in rows if row.backend == "TensorFlow, dense")


def test_known_cells_are_left_out() -> None:
    cells = [(0.5, 1), (0.75, 1), (0.75, 2)]
    known = {("64x32", *cell, "float32") for cell in cells}
    grid = [SHAPE], [0.5, 0.75], [1, 2]
    left = measure(*grid, ["tensorflow"], rounds=1, most_seconds=9.0, known=known)
    assert [cell for cell, _ in left] == [("64x32", 0.5, 2, "float32")]


@given(
    st.lists(st.floats(0, 0.99), min_size=1, max_size=9, unique=True),
    st.floats(0.01, 3),
    st.floats(0.1, 9),
)
def test_break_even_is_where_a_line_passes_one(
    sparsities: list[float], start: float, slope: float
) -> None:
    curve = [(s, start + slope * s) for s in sorted(sparsities)]
    crossing = break_even(curve)
    if curve[-1][1] < 1:
        assert crossing is None
    elif curve[0][1] >= 1:
        assert crossing == curve[0][0]
    else:
        assert crossing is not None
        assert np.isclose(start + slope * crossing, 1)


def test_the_last_crossing_counts() -> None:
    assert break_even([(0.0, 2.0), (0.5, 0.5), (0.75, 1.5)]) == 0.625
    assert break_even([]) is None


def test_tables_and_figure_show_what_was_measured(tmp_path: Path) -> None:
    rows = [
        Row("8x8", s, 1, FORWARD, name, 1e-3, 1e-3, 1e-3, up, up, up, 1 / (1 - s))
        for name, ups in (("dense", (1, 1)), ("ours", (0.5, 1.5)), ("slow", (0.1, 0.2)))
        for s, up in zip((0.0, 0.5), ups, strict=True)
    ]
    costs = [Row("8x8", 0.5, n, LAYOUT, "ours", 4e-3) for n in (1, 2)]
    (title, columns, lines), table_of_costs = tables(rows + costs)
    assert table_of_costs == (
        "8x8, once for many products: ms",
        ["backend", "what", "0.5"],
        [["ours", "layout of the weights", "4"]],
    )
    assert title == "8x8, forward: speed-up over the fastest dense one"
    assert columns == ["backend", "tokens", "0", "0.5", "faster from"]
    assert lines == [
        ["dense", "1", "1.00x", "1.00x", "-"],
        ["ours", "1", "0.50x", "1.50x", "25%"],
        ["slow", "1", "0.10x", "0.20x", "never"],
    ]
    assert points(rows, "8x8", 1, FORWARD, "ours") == [(0.0, 0.5), (0.5, 1.5)]
    picture = tmp_path / "figure.png"
    draw(rows, FORWARD, {"processor": "a processor", "cores": 2}, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def command(folder: Path, *more: str) -> int:
    small = ("--shapes", "48x16", "--tokens", "1", "3", "--sparsity", "0.5", "0.75")
    fast = ("--rounds", "1", "--backends", "tensorflow", "tf.sparse")
    return main(["benchmark", "matmul", *small, *fast, "--out", str(folder), *more])


def test_the_command_writes_and_goes_on(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "out"
    add = measuring._Turns.rows
    monkeypatch.setattr(measuring._Turns, "rows", interrupt_at(3, add))
    assert command(folder) == 130
    assert [path.name for path in folder.iterdir()] == ["matmul.json"]
    monkeypatch.setattr(measuring._Turns, "rows", interrupt_at(3, add))
    assert command(folder, "--json") == 0  # two cells were missing
    shown = capsys.readouterr()
    assert "4 of 4: 48x16, 75.0% zeros, 3 tokens" in shown.err
    assert "48x16, forward: speed-up over the fastest dense one" in shown.out
    rows = json.loads(shown.out.splitlines()[-1])
    assert len(rows) == 4 * 6
    with (folder / "matmul.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["backend"] for row in table] == [row["backend"] for row in rows]
    document = json.loads((folder / "matmul.json").read_text())
    assert document["rows"] == rows and document["hardware"]["cores"]
    for name in ("matmul_forward.png", "matmul_training.png"):
        assert (folder / name).stat().st_size > 5000
    monkeypatch.setattr(measuring._Turns, "rows", add)
    assert command(folder, "--precision", "bfloat16", "--backends", "tensorflow") == 0
    assert (folder / "matmul_forward_bfloat16.png").stat().st_size > 5000
    document = json.loads((folder / "matmul.json").read_text())
    assert {row["precision"] for row in document["rows"]} == {"float32", "bfloat16"}
    document["hardware"]["cores"] += 1
    (folder / "matmul.json").write_text(json.dumps(document))
    assert command(folder) == 2
    assert "must be a new folder" in capsys.readouterr().err
    (folder / "matmul.json").write_text("{")
    assert command(folder) == 2
    assert "must be what an earlier run has written" in capsys.readouterr().err


def interrupt_at(number: int, rows: Any) -> Any:
    """A method that is interrupted when it is called for the `number`th time."""
    calls = iter(range(1, number + 1))

    def method(self: Any, rounds: int) -> Any:
        if next(calls) == number:
            raise KeyboardInterrupt
        return rows(self, rounds)

    return method


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--shapes", "768"), "A shape must be IN x OUT"),
        (("--tokens", "0"), "--tokens must be positive. Received: 0."),
        (("--rounds", "-1"), "--rounds must be positive. Received: -1."),
        (("--most-seconds", "0"), "--most-seconds must be positive"),
        (("--sparsity", "1"), "must be in"),
        (("--backends", "tf.sparse"), "--backends must have a dense one"),
    ],
)
def test_bad_arguments_get_one_sentence(
    arguments: tuple[str, ...],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["benchmark", "matmul", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_the_command_knows_all_backends() -> None:
    assert set(benchmark_matmul._BACKENDS) == set(BACKENDS)
