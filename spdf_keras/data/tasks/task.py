"""Fine-tuning tasks and the examples that they give.

It loads neither TensorFlow nor NumPy, so that the command line starts at once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spdf_keras.data.public.public_file import Collection
from spdf_keras.data.tasks.score_table import ScoreTable
from spdf_keras.errors import InputError

# The protocol of a task that is judged by the model's loss and not by its outputs.
PERPLEXITY = "perplexity"


@dataclass(frozen=True)
class Example:
    """One input of a task with all its references.

    Attributes:
        context: The linearised input.
        references: The texts that people wrote for it.
        category: The subject of the input, if the task names one.
        seen: Whether the category is one of the training set's (`cate` in the
            LoRA recipe); None where the task has no such parts.
    """

    context: str
    references: tuple[str, ...]
    category: str = ""
    seen: bool | None = None


class Examples(list[Example]):
    """A split's examples, and counts of what its files hold besides.

    Attributes:
        left_out: Number of texts, inputs or rows by the reason why they were
            left out; empty where everything was used.
    """

    def __init__(
        self, examples: Iterable[Example], left_out: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(examples)
        self.left_out = {key: n for key, n in (left_out or {}).items() if n}


@dataclass(frozen=True)
class Counts:
    """Size of a split.

    Attributes:
        inputs: Distinct inputs; each is decoded once.
        pairs: Pairs of input and reference; each is one training sequence.
        left_out: See `Examples`.
    """

    inputs: int
    pairs: int
    left_out: dict[str, int]


@dataclass(frozen=True)
class Task:
    """A fine-tuning corpus, and all that commands and reports ask of it.

    Attributes:
        name: Its name on the command line and in records.
        read: Reads a split (`train`, `validation`, `test`) out of a folder.
        linearise: Turns what a person types as an input into a context.
        table: The table of its scores, and the rows that the paper prints.
        public: Its public files.
        protocol: How `evaluate` scores it, as the paper does: a name of
            `metrics.protocols.PROTOCOLS`, or `PERPLEXITY`.
        file_protocol: How `score` scores files where no protocol is named, as the
            authors of the task do; None where outputs alone have no score.
        cut_context: Whether a context that is too long loses its end; False
            refuses it.
    """

    name: str
    read: Callable[[str | Path, str], Examples]
    linearise: Callable[[str], str]
    table: ScoreTable
    public: Collection
    protocol: str = PERPLEXITY
    file_protocol: str | None = None
    cut_context: bool = False

    @property
    def decoding_settings(self) -> list[str]:
        """The settings that decoding its inputs reads: tables and single ones."""
        # A long context is cut to what fine-tuning has seen.
        return ["decode", *(["finetune.sequence_length"] if self.cut_context else [])]


def counts(examples: Sequence[Example]) -> Counts:
    """Counts inputs, pairs and what was left out.

    Example:
        >>> counts([Example("a", ("b", "c")), Example("d", ("e",))])
        Counts(inputs=2, pairs=3, left_out={})
    """
    pairs = sum(len(example.references) for example in examples)
    left_out = examples.left_out if isinstance(examples, Examples) else {}
    return Counts(len(examples), pairs, dict(left_out))


def describe(examples: Sequence[Example]) -> str:
    """The counts as a phrase.

    Example:
        >>> describe(Examples([Example("a", ("b", "c"))], {"empty texts": 2}))
        '1 inputs, 2 pairs, left out: 2 empty texts'
    """
    size = counts(examples)
    left_out = ", ".join(f"{n} {key}" for key, n in size.left_out.items())
    pairs = f"{size.inputs} inputs, {size.pairs} pairs"
    return f"{pairs}, left out: {left_out}" if left_out else pairs


def gather(
    rows: Iterable[Example], left_out: Mapping[str, int], source: str
) -> Examples:
    """Joins the rows of each context, as the recipe decodes each context once.

    Contexts keep the order in which they first appear, references that of the
    rows. Category and `seen` are those of a context's first row (the training
    set of WebNLG has a few inputs under two categories).

    Args:
        rows: The content of a file, an entry or a pair at a time.
        left_out: Counts of what the reader leaves out; they may grow while the rows
            are read. Inputs without a text are added.
        source: Names the file or folder in the error.

    Raises:
        InputError: If nothing is left.
    """
    first: dict[str, Example] = {}
    texts: dict[str, list[str]] = {}
    for row in rows:
        first.setdefault(row.context, row)
        texts.setdefault(row.context, []).extend(row.references)
    examples = [
        replace(example, references=tuple(texts[context]))
        for context, example in first.items()
        if texts[context]
    ]
    reasons = {**left_out, "inputs without a text": len(first) - len(examples)}
    gathered = Examples(examples, reasons)
    if not gathered:
        why = "".join(f"; left out: {n} {key}" for key, n in gathered.left_out.items())
        raise InputError(f"'{source}' has no examples{why}.")
    return gathered
