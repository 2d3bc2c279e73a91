"""Tables 4, 5 and 6 of the paper: how they are laid out, and what they print.

Tables 2 and 3 are in `spdf_keras.flops`. Standard deviations are over the paper's
runs, whose number it does not state; `None` where it prints none.

Reference:
    Appendix B of [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464).
"""

from dataclasses import dataclass

from spdf_keras.config import PRESETS, GPTConfig
from spdf_keras.flops import MODELS


@dataclass(frozen=True)
class Printed:
    """A cell: mean and standard deviation."""

    mean: float
    std: float | None = None

    def __str__(self) -> str:
        """As printed.

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
        name: What an evaluation calls the score.
        title: What the table calls it.
        higher_is_better: Which way the arrow points.
        factor: From the official program's unit to the table's.
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
        name: What the paper calls the table; empty for a table that it lacks.
        task: What the paper calls the task.
        scores: The columns; the first is the task's main score.
        printed: The paper's rows by model preset and sparsity.
    """

    name: str
    task: str
    scores: tuple[Score, ...]
    printed: Rows


def _rows(names: tuple[str, ...], lines: str) -> Rows:
    """Reads `model sparsity mean[±std] ...` lines."""
    rows: Rows = {}
    for line in lines.strip().splitlines():
        model, sparsity, *cells = line.split()
        values = [cell.split("±") for cell in cells]
        rows[model, float(sparsity)] = {
            name: Printed(float(mean), float(std[0]) if std else None)
            for name, (mean, *std) in zip(names, values, strict=True)
        }
    return rows


TABLE_4 = _rows(
    ("bleu", "nist", "meteor", "rouge_l", "cider"),
    """
    gpt2_small 0    67.49±0.60 8.59±0.03 46.08±0.22 70.22±0.42 2.38±0.03
    gpt2_small 0.5  67.39±0.38 8.62±0.03 45.89±0.18 70.10±0.26 2.38±0.01
    gpt2_small 0.75 66.50±0.01 8.46±0.13 45.61±0.32 70.02±0.26 2.36±0.02
    gpt3_xl    0    68.10±0.46 8.64±0.06 46.40±0.01 71.03±0.22 2.41±0.02
    gpt3_xl    0.5  67.98±0.63 8.62±0.07 46.40±0.07 71.30±0.20 2.43±0.02
    gpt3_xl    0.75 67.66±0.59 8.59±0.09 46.07±0.26 70.40±0.26 2.42±0.03
    """,
)

# Its caption names NIST, ROUGE-L and CIDEr too, but the table has no such columns.
TABLE_5 = _rows(
    ("bleu", "meteor", "ter"),
    """
    gpt2_small 0    63.42±0.26 0.44 0.34
    gpt2_small 0.5  63.10±0.13 0.44 0.34
    gpt2_small 0.75 62.64±0.22 0.43 0.34
    gpt3_xl    0    63.62±0.23 0.45 0.32
    gpt3_xl    0.5  63.47±0.21 0.45 0.33
    gpt3_xl    0.75 63.06±0.11 0.45 0.33
    """,
)

TABLE_6 = _rows(
    ("bleu", "meteor", "ter"),
    """
    gpt2_small 0    46.30±0.16 0.38 0.51
    gpt2_small 0.5  45.74±0.10 0.37 0.51
    gpt2_small 0.75 44.97±0.11 0.37 0.52
    gpt3_xl    0    47.71±0.11 0.39 0.49
    gpt3_xl    0.5  47.10±0.13 0.39 0.49
    gpt3_xl    0.75 46.96±0.08 0.38 0.50
    """,
)

_TRIPLES = (
    Score("bleu", "BLEU"),
    Score("meteor", "METEOR", decimals=3),
    Score("ter", "TER", higher_is_better=False, decimals=3),
)

# By task. The official E2E program gives fractions, which the paper multiplies.
SCORE_TABLES = {
    "e2e": ScoreTable(
        "Table 4",
        "E2E",
        (
            Score("bleu", "BLEU", factor=100),
            Score("nist", "NIST"),
            Score("meteor", "METEOR", factor=100),
            Score("rouge_l", "ROUGE-L", factor=100),
            Score("cider", "CIDEr"),
        ),
        TABLE_4,
    ),
    "webnlg": ScoreTable("Table 5", "WebNLG", _TRIPLES, TABLE_5),
    "dart": ScoreTable("Table 6", "DART", _TRIPLES, TABLE_6),
    "curation": ScoreTable(
        "",
        "Curation Corpus",
        (Score("perplexity", "Perplexity", higher_is_better=False),),
        {},
    ),
}


def task_order(task: str) -> tuple[int, str]:
    """Sorts tasks as the paper does; others come last."""
    tasks = list(SCORE_TABLES)
    return tasks.index(task) if task in tasks else len(tasks), task


def paper_model(model: GPTConfig) -> str | None:
    """The name of the paper's model with these sizes, or None.

    Example:
        >>> paper_model(GPTConfig(12, 12, 768))
        'gpt2_small'
    """
    for name in MODELS:
        if PRESETS[name].model == model:
            return name
    return None


def model_label(model: GPTConfig) -> str:
    """What the tables call a model: the paper's name, or its size.

    Example:
        >>> model_label(GPTConfig(4, 4, 128, vocabulary_size=2048))
        'GPT, 1.3M'
    """
    name = paper_model(model)
    if name:
        return MODELS[name]
    count = model.num_parameters
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"GPT, {count / size:.1f}{unit}"
    return f"GPT, {count}"
