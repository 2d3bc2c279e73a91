"""The table of a step in Markdown."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spdf_keras.errors import InputError
from spdf_keras.files import replace_file
from spdf_keras.measuring.step.contenders import (
    KERAS_NLP,
    OURS,
    TORCH,
    Contender,
    grid,
)
from spdf_keras.measuring.step.measure import Record
from spdf_keras.measuring.turns import Spread

_BEGIN, _END = "<!-- table of steps -->", "<!-- end of the table of steps -->"
_PROGRAMS = {OURS: "this package", KERAS_NLP: "KerasNLP", TORCH: "PyTorch"}
_KINDS = {"dense": "dense", "masked": "zeros multiplied", "sparse": "zeros skipped"}
_COLUMNS = (
    *("program", "precision", "zeros", "compiler", "step", "tokens/s"),
    *("over dense float32", "over dense of its precision", "theory", "of the peak"),
)


def markdown(records: Sequence[Record], about: dict[str, Any]) -> str:
    """Writes a table for each number of tokens, what is missing, and the conditions.

    Args:
        records: The records of a file; rounds of several records are put together.
        about: What `provenance` gave.
    """
    by_contender: dict[Contender, list[Record]] = {}
    for record in records:
        by_contender.setdefault(record.contender, []).append(record)
    lines = []
    for tokens, layers in dict.fromkeys((c.tokens, c.layers) for c in by_contender):
        order = [c for c in grid([tokens], layers) if c in by_contender]
        measured = [c for c in order if any(r.seconds for r in by_contender[c])]
        if measured:
            batch, length = measured[0].batch, measured[0].length
            micro = ", in micro-batches of 1" if batch > 1 else ""
            lines += [f"{batch} x {length:,} tokens{micro}, {layers} blocks:", ""]
            lines += [_row(_COLUMNS), _row(["---"] * 4 + ["---:"] * 6)]
            lines += [_row(_cells(c, by_contender[c])) for c in measured]
            lines.append("")
        lines += _notes(order, by_contender)
    return "\n".join([*lines, *_conditions(records, about)]) + "\n"


def _cells(contender: Contender, records: Sequence[Record]) -> Iterator[str]:
    seconds, of_float32, of_dense, peaks = (
        [value for record in records for value in getattr(record, name)]
        for name in ("seconds", "of_float32", "of_dense", "peaks")
    )
    median = Spread.of(seconds).median
    kind = _KINDS[contender.kind]
    yield _PROGRAMS[contender.program]
    yield contender.precision
    yield f"{contender.sparsity:.0%}, {kind}" if contender.sparsity else kind
    yield contender.compiler
    yield Spread.of(seconds).show(form=".3g", unit=" s")
    yield f"{contender.batch * contender.length / median:,.0f}"
    for name, ratios in (("float32", of_float32), (contender.precision, of_dense)):
        is_one = contender == contender.baseline(name)
        yield "1" if is_one else Spread.of(ratios).show(form=".2f")
    yield f"{contender.theory:.2f}"
    peak = np.median(peaks) if peaks else np.nan
    yield f"{contender.flops / median / peak:.0%}" if peaks else ""


def _notes(
    order: Sequence[Contender], by_contender: dict[Contender, list[Record]]
) -> list[str]:
    names: dict[str, list[str]] = {}
    for contender in order:
        for note in {record.note for record in by_contender[contender] if record.note}:
            names.setdefault(note, []).append(contender.name)
    lines = [f"- Not measured: {'; '.join(who)}. {why}" for why, who in names.items()]
    return [*lines, ""] if lines else []


def _conditions(records: Sequence[Record], about: dict[str, Any]) -> list[str]:
    hardware = about["hardware"]
    versions: dict[str, str] = {}
    for record in records:
        versions |= record.versions
    programs = ", ".join(f"{name} {number}" for name, number in versions.items())
    counts = {len(record.seconds) for record in records if record.seconds}
    rounds = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{max(counts)}"
    return [
        f"Medians of {rounds} rounds in turns, quartiles in brackets, on "
        f"{about['started'][:10]}: {hardware['processor']}, {hardware['cores']} cores; "
        f"{programs}."
    ]


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def write_into(page: Path, text: str) -> None:
    """Puts a table between the two comments of a page that enclose it.

    Raises:
        InputError: If the page has no such comments.
    """
    content = page.read_text("utf-8")
    before, begin, rest = content.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise InputError(
            f"The page must have the lines '{_BEGIN}' and '{_END}', between which the "
            f"table goes. Received: '{page}'."
        )
    replace_file(page, f"{before}{begin}\n\n{text}\n{end}{after}")
