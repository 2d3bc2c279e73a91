"""Stops a training at the end of a step, when the system or the user asks for it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Holds the signal that asks a training to stop.

    Attributes:
        signal: Number of the signal; 0 as long as none has come.
    """

    signal = 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns the first SIGTERM or SIGINT into a request; a second one acts at once.

    A request that comes too late, so that the training has ended without a look at it,
    acts after the block: what follows, such as the next stage of a study, is not begun.

    Only the main thread receives signals, so another thread changes no handler.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def handle(number: int, frame: Any) -> None:
        request.signal = number
        restore()

    def restore() -> None:
        for number, handler in before.items():
            # None is a handler that was not set from Python.
            signal.signal(number, handler or signal.SIG_DFL)

    for number in _SIGNALS:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        restore()
    if request.signal:
        signal.raise_signal(request.signal)
