"""Where reading goes on in a corpus, and what was left out up to there."""

from typing import Any


class Position:
    """The next document of a corpus, and counts of what came before it.

    What is left out counts once the position has moved past it: a reader that starts
    again at the position meets it again.

    Args:
        mark: An earlier result of `mark`; empty for the start of the corpus.

    Attributes:
        place: The number of the next document's file, its offset there, and the
            lines before it.
        empty_documents: Documents without text.
    """

    def __init__(self, mark: dict[str, Any]) -> None:
        file, offset, lines = mark.get("place", (0, 0, 0))
        self.place: tuple[int, int, int] = (file, offset, lines)
        self.empty_documents: int = mark.get("empty_documents", 0)
        self._skipped: dict[str, dict[str, Any]] = {
            kind: dict(counted) for kind, counted in mark.get("skipped", {}).items()
        }
        self._ahead: list[tuple[str, str, str]] = []

    def mark(self) -> dict[str, Any]:
        """The position as JSON, with the counts."""
        return {
            "place": list(self.place),
            "empty_documents": self.empty_documents,
            "skipped": {kind: dict(counted) for kind, counted in self._skipped.items()},
        }

    def leave_out(self, kind: str, first: str, unit: str) -> None:
        """Notes something after the position that is left out.

        Args:
            kind: The reason, under which it is counted.
            first: File, line and reason, which are kept of the first of a kind.
            unit: `lines` or `files`.
        """
        self._ahead.append((kind, first, unit))

    def advance(self, file: int, offset: int = 0, lines: int = 0) -> None:
        """Moves on, and counts what was left out on the way."""
        self.place = (file, offset, lines)
        for kind, first, unit in self._ahead:
            new = {"count": 0, "unit": unit, "first": first}
            self._skipped.setdefault(kind, new)["count"] += 1
        self._ahead.clear()
