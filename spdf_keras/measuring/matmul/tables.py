"""Tables of speed-ups, and notes on what was not measured."""

from collections.abc import Iterator, Sequence

from spdf_keras.measuring.matmul.figure import points
from spdf_keras.measuring.matmul.rows import (
    FORWARD,
    LAYOUT,
    STRUCTURE,
    TRAINING,
    Row,
    break_even,
)

Table = tuple[str, list[str], list[list[str]]]


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Speed-ups by sparsity, by shape and operation, and what is done once.

    Args:
        rows: The measurements, of one precision.

    Yields:
        Title, columns and rows, for `print_table`.
    """
    for shape in dict.fromkeys(row.shape for row in rows):
        of_shape = [row for row in rows if row.shape == shape]
        for operation in (FORWARD, TRAINING):
            part = [row for row in of_shape if row.operation == operation]
            if any(row.speedup for row in part):
                title = f"{shape}, {operation}: speed-up over the fastest dense one"
                yield _table(title, part)
        costs = [row for row in of_shape if row.operation in (STRUCTURE, LAYOUT)]
        if costs:
            yield _table_of_costs(f"{shape}, once for many products: ms", costs)


def _table_of_costs(title: str, rows: list[Row]) -> Table:
    sparsities = sorted({row.sparsity for row in rows})
    # Measured once for all numbers of tokens, and recorded with each.
    seconds = {(row.backend, row.operation, row.sparsity): row.seconds for row in rows}
    lines = []
    for backend, cost in dict.fromkeys((row.backend, row.operation) for row in rows):
        values = [seconds.get((backend, cost, sparsity)) for sparsity in sparsities]
        cells = ["-" if value is None else f"{1e3 * value:.3g}" for value in values]
        lines.append([backend, cost, *cells])
    return title, ["backend", "what", *(f"{s:.4g}" for s in sparsities)], lines


def _table(title: str, rows: list[Row]) -> Table:
    sparsities = sorted({row.sparsity for row in rows})
    lines = []
    for tokens in sorted({row.tokens for row in rows}):
        for backend in dict.fromkeys(row.backend for row in rows):
            by_sparsity = {
                row.sparsity: row
                for row in rows
                if (row.tokens, row.backend) == (tokens, backend)
            }
            if not by_sparsity:
                continue
            first = next(iter(by_sparsity.values()))
            curve = points(rows, first.shape, tokens, first.operation, backend)
            lines.append(
                [
                    backend,
                    str(tokens),
                    *(_cell(by_sparsity.get(sparsity)) for sparsity in sparsities),
                    _faster_from(curve),
                ]
            )
    columns = ["backend", "tokens", *(f"{s:.4g}" for s in sparsities), "faster from"]
    return title, columns, lines


def _faster_from(curve: Sequence[tuple[float, float]]) -> str:
    if curve and all(speedup == 1 for _, speedup in curve):
        return "-"  # the others are compared with this one
    passed = break_even(curve)
    return "never" if passed is None else f"{passed:.0%}"


def _cell(row: Row | None) -> str:
    return f"{row.speedup:.2f}x" if row and row.speedup else "-"


def notes(rows: Sequence[Row]) -> list[str]:
    """Says why some backends have no number, a line for each reason."""
    places_by_reason: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row.note:
            key = row.backend, row.operation, row.note
            where = f"{row.shape} at {row.sparsity:.4g}, {row.tokens} tokens"
            places_by_reason.setdefault(key, []).append(where)
    return [
        f"{backend}, {operation}: {note} ({places[0]}"
        + (f" and {len(places) - 1} more)" if places[1:] else ")")
        for (backend, operation, note), places in places_by_reason.items()
    ]
