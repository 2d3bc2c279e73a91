"""How long products take, from the time of those with fewer tokens."""

from spdf_keras.measuring.matmul.backend import UnsupportedError


class Forecast:
    """Predicts how long calls take from those with fewer tokens.

    A call takes a time that does not depend on the tokens, and a time for each token.
    Two numbers of tokens tell them apart; one number gives the most that it may take.

    Args:
        most_seconds: Longest call that is allowed.
    """

    def __init__(self, most_seconds: float) -> None:
        self._most = most_seconds
        self._measured: dict[tuple[str, str], list[tuple[int, float]]] = {}

    def check(self, backend: str, operation: str, tokens: int) -> None:
        """Refuses a call that would take too long.

        Raises:
            UnsupportedError: With the seconds that it would take.
        """
        seconds = self._predict(self._measured.get((backend, operation), []), tokens)
        if seconds > self._most:
            raise UnsupportedError(f"would take about {seconds:.0f} s")

    @staticmethod
    def _predict(measured: list[tuple[int, float]], tokens: int) -> float:
        if not measured:
            return 0.0
        (before, less), (last, seconds) = [(0, 0.0), *measured][-2:]
        each = max(seconds - less, 0.0) / (last - before)
        return seconds + each * (tokens - last)

    def add(self, backend: str, operation: str, tokens: int, seconds: float) -> None:
        """Remembers what a call took; numbers of tokens must rise."""
        self._measured.setdefault((backend, operation), []).append((tokens, seconds))
