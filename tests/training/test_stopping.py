"""Signals that ask a training to stop, around its end."""

import signal
from collections.abc import Iterator

import pytest

from spdf_keras.errors import StoppedError
from spdf_keras.training.stopping import stop_requests


@pytest.fixture
def received() -> Iterator[list[int]]:
    """The signals that reach the handlers which were there before."""
    numbers: list[int] = []
    before = {
        number: signal.signal(number, lambda n, _: numbers.append(n))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_that_the_training_did_not_see_acts_after_it(
    received: list[int], number: int
) -> None:
    with stop_requests() as request:
        signal.raise_signal(number)
        assert request.signal == number and received == []
    assert received == [number]


def test_a_request_that_stopped_the_training_does_not_act_again(
    received: list[int],
) -> None:
    with pytest.raises(StoppedError), stop_requests():
        signal.raise_signal(signal.SIGTERM)
        raise StoppedError("stopped", signal.SIGTERM)
    assert received == []


def test_a_second_signal_acts_at_once_and_none_changes_nothing(
    received: list[int],
) -> None:
    with stop_requests():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGINT]
    received.clear()
    with stop_requests():
        pass
    assert received == []
