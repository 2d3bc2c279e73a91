"""The training steps that can be measured, which are selected, and in which groups."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.flops import training_flops

OURS, KERAS_NLP, TORCH = "ours", "keras_nlp", "torch"
SPARSITIES = (0.5, 0.75, 0.9)
_COMPILERS = {
    OURS: ("graph", "xla"),
    KERAS_NLP: ("graph", "xla"),
    TORCH: ("eager", "compiled"),
}
_PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Contender:
    """A program that takes training steps of a GPT as wide as GPT-2 Small.

    Attributes:
        program: `ours`, `keras_nlp` or `torch`.
        precision: `float32` or `bfloat16`, which is mixed precision.
        kind: `dense`; `masked`, which multiplies zeros; or `sparse`, which skips them.
        compiler: `graph` or `xla`; PyTorch is `eager` or `compiled`.
        sparsity: Fraction of zeros in the masked kernels.
        batch: Sequences of a step; each is a micro-batch of its own.
        length: Tokens of a sequence.
        layers: Number of blocks.
    """

    program: str
    precision: str
    kind: str
    compiler: str
    sparsity: float
    batch: int
    length: int
    layers: int = 12

    @property
    def tokens(self) -> str:
        """Sequences and their tokens, such as `8x1024`."""
        return f"{self.batch}x{self.length}"

    @property
    def words(self) -> tuple[str, ...]:
        """The words by which `select` finds the contender."""
        zeros = f"{100 * self.sparsity:g}"
        parts = (self.program, self.precision, self.kind, self.compiler)
        return (*parts, zeros, self.tokens)

    @property
    def name(self) -> str:
        """All words in one line."""
        return ", ".join((*self.words[:4], f"{self.words[4]} %", self.tokens))

    @property
    def sizes(self) -> GPTConfig:
        """The sizes of the model."""
        return GPTConfig(self.layers, 12, 768, max_sequence_length=self.length)

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of `TrainConfig`, for our model."""
        return {
            "precision": "mixed_bfloat16"
            if self.precision == "bfloat16"
            else "float32",
            "compute": "sparse" if self.kind == "sparse" else "dense",
            "jit_compile": self.compiler == "xla",
            "batch_size": self.batch,
            "micro_batches": self.batch,
        }

    @property
    def flops(self) -> float:
        """Operations of a step; zeros count unless they are skipped."""
        skipped = self.sparsity if self.kind == "sparse" else 0.0
        return self.batch * training_flops(self.sizes, self.length, skipped)

    @property
    def theory(self) -> float:
        """Its operations over those of the dense model."""
        return self.flops / self.baseline("float32").flops

    def baseline(self, precision: str) -> "Contender":
        """Our dense model in a precision, with the same tokens."""
        return replace(
            self,
            program=OURS,
            precision=precision,
            kind="dense",
            compiler="graph",
            sparsity=0.0,
        )


def grid(tokens: Sequence[str], layers: int = 12) -> list[Contender]:
    """Lists all contenders.

    Args:
        tokens: Batches and lengths, such as `8x1024`.
        layers: Number of blocks.

    Raises:
        InputError: If a text of `tokens` has another form.

    Example:
        >>> len(grid(["1x1024"]))
        36
    """
    contenders = []
    for text, precision in itertools.product(tokens, _PRECISIONS):
        batch, length = _parse_tokens(text)
        for program, compilers in _COMPILERS.items():
            for compiler in compilers:
                dense = Contender(
                    *(program, precision, "dense", compiler, 0.0),
                    *(batch, length, layers),
                )
                contenders.append(dense)
                kinds = ("masked", "sparse") if program == OURS else ()
                for kind, sparsity in itertools.product(kinds, SPARSITIES):
                    contenders.append(replace(dense, kind=kind, sparsity=sparsity))
    return contenders


def _parse_tokens(text: str) -> tuple[int, int]:
    parts = text.split("x")
    if len(parts) != 2 or not all(p.isascii() and p.isdigit() for p in parts):
        parts = ["0", "0"]
    batch, length = map(int, parts)
    if not batch or not length:
        raise InputError(
            f"--tokens must be BATCHxLENGTH, such as 8x1024. Received: '{text}'."
        )
    return batch, length


def select(contenders: Sequence[Contender], only: Sequence[str]) -> list[Contender]:
    """Returns the contenders that have all words of at least one text of `only`.

    Args:
        contenders: All contenders.
        only: Words with commas between them, such as `ours,bfloat16,75`; all
            contenders if there is none.

    Raises:
        InputError: If no contender has all words of a text.

    Example:
        >>> [c.name for c in select(grid(["1x8"]), ["torch,float32,eager"])]
        ['torch, float32, dense, eager, 0 %, 1x8']
    """
    if not only:
        return list(contenders)
    chosen = set()
    for text in only:
        words = set(text.split(","))
        found = {c for c in contenders if words <= set(c.words)}
        if not found:
            known = " ".join(dict.fromkeys(w for c in contenders for w in c.words))
            raise InputError(
                "--only must have words that one contender has together. Received: "
                f"'{text}'. Words: {known}."
            )
        chosen |= found
    return [contender for contender in contenders if contender in chosen]


class Group(NamedTuple):
    """Contenders that are in memory together, and take turns.

    Attributes:
        baselines: The dense model in float32 and in the precision of the others, once
            if that is float32.
        others: The other contenders.
    """

    baselines: tuple[Contender, ...]
    others: tuple[Contender, ...]

    @property
    def members(self) -> tuple[Contender, ...]:
        """All contenders."""
        return self.baselines + self.others


def groups(contenders: Sequence[Contender], processes: int) -> Iterator[Group]:
    """Puts contenders into groups of equal tokens and precision.

    Args:
        contenders: Those that are measured; a baseline is measured with each group.
        processes: Largest number of contenders in memory, with up to two baselines.

    Yields:
        The groups. Neighbours share as many baselines as possible.
    """
    by_baseline: dict[Contender, list[Contender]] = {}
    for contender in contenders:
        dense = contender.baseline(contender.precision)
        others = by_baseline.setdefault(dense, [])
        if contender != dense:
            others.append(contender)
    for dense, others in by_baseline.items():
        baselines = tuple(dict.fromkeys((dense.baseline("float32"), dense)))
        size = max(processes - len(baselines), 1)
        for first in range(0, max(len(others), 1), size):
            yield Group(baselines, tuple(others[first : first + size]))
