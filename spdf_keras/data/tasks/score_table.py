"""The table of a task's scores: its columns, and the rows that the paper prints.

Standard deviations are over the paper's runs, whose number it does not state; `None`
where it prints none.

Reference:
    Appendix B of [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464).
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Printed:
    """A cell: mean and standard deviation."""

    mean: float
    std: float | None = None

    def __str__(self) -> str:
        """The cell as the paper prints it.

        Example:
            >>> print(Printed(67.49, 0.6), "|", Printed(0.44))
            67.49 ± 0.60 | 0.44
        """
        spread = "" if self.std is None else f" ± {self.std:.2f}"
        return f"{self.mean:.2f}{spread}"


@dataclass(frozen=True)
class Score:
    """A column of a score table.

    Attributes:
        name: The name of the score in an evaluation.
        title: The name of the score in the table.
        higher_is_better: Which way the arrow points.
        factor: Converts from the official program's unit to the table's.
        decimals: How many are shown. METEOR and TER of WebNLG and DART show one
            more than the paper, which hides their spread.
    """

    name: str
    title: str
    higher_is_better: bool = True
    factor: float = 1.0
    decimals: int = 2

    @property
    def heading(self) -> str:
        """The title with its arrow."""
        return f"{self.title} {'↑' if self.higher_is_better else '↓'}"


Cells = dict[str, Printed]
Rows = dict[tuple[str, float], Cells]


@dataclass(frozen=True)
class ScoreTable:
    """How the results on a task are shown.

    Attributes:
        name: The paper's name of the table; empty for a table that the paper lacks.
        task: The paper's name of the task.
        scores: The columns; the first is the task's main score.
        printed: The paper's rows by model preset and sparsity.
    """

    name: str
    task: str
    scores: tuple[Score, ...]
    printed: Rows = field(default_factory=dict)


def printed_rows(names: tuple[str, ...], lines: str) -> Rows:
    """Reads `model sparsity mean[±std] ...` lines.

    Example:
        >>> printed_rows(("bleu",), "gpt2_small 0.5 67.39±0.38")
        {('gpt2_small', 0.5): {'bleu': Printed(mean=67.39, std=0.38)}}
    """
    rows: Rows = {}
    for line in lines.strip().splitlines():
        model, sparsity, *cells = line.split()
        values = [cell.split("±") for cell in cells]
        rows[model, float(sparsity)] = {
            name: Printed(float(mean), float(std[0]) if std else None)
            for name, (mean, *std) in zip(names, values, strict=True)
        }
    return rows
