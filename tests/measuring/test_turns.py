from functools import partial

import pytest

from spdf_keras.measuring import turns
from spdf_keras.measuring.turns import Spread, ratios, take_turns, time_in_turns


def test_contenders_alternate_and_warm_up_rounds_are_left_out() -> None:
    order: list[str] = []

    def contender(name: str) -> int:
        order.append(name)
        return len(order)

    reports: list[tuple[int, int]] = []
    results = take_turns(
        {name: partial(contender, name) for name in "ab"},
        rounds=2,
        warm_up=1,
        report=lambda *turn: reports.append(turn),
    )
    assert order == ["a", "b"] * 3
    assert results == {"a": [3, 5], "b": [4, 6]}
    assert reports == [(1, 2), (2, 2)]


def test_seconds_are_those_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(turns.time, "perf_counter", lambda: clock[0])

    def wait(duration: float) -> None:
        clock[0] += duration

    calls = {"short": lambda: wait(1.0), "long": lambda: wait(4.0)}
    assert time_in_turns(calls, 2) == {"short": [1.0, 1.0], "long": [4.0, 4.0]}
    assert turns.seconds(lambda: wait(0.5), repeats=4) == 0.5
    assert clock == [3 * 5.0 + 2.0]


def test_a_ratio_is_that_of_one_round() -> None:
    slower_machine = 10
    values, others = [2.0, 2.0 * slower_machine], [1.0, 1.0 * slower_machine]
    assert ratios(values, others) == Spread(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


def test_a_spread_is_median_and_quartiles() -> None:
    # By hand: five values, so that quartiles are the second and the fourth.
    spread = Spread.of([5.0, 1.0, 4.0, 2.0, 3.0])
    assert spread == Spread(median=3.0, low=2.0, high=4.0)
    assert spread.show(0.1) == "0.3 (0.2-0.4)"
    assert spread.show(form=".2f", unit="x") == "3.00x (2.00-4.00)"
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
