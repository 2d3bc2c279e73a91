"""The scores that protocols are made of, for any items of a case and for each item.

Counts are made once for all items; a part of a case, such as WebNLG's seen categories,
adds up those of its items. Scores are imported on first use, so that the command line
starts at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING

from spdf_keras.metrics.checks import UndefinedScoreError

if TYPE_CHECKING:
    from spdf_keras.metrics.bleu import Counts
    from spdf_keras.metrics.sums import Sums

Values = list[float | None]
# Returns the score of some items together; raises `UndefinedScoreError`.
Of = Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class Measured:
    """One score of a case.

    Attributes:
        of: Returns the score of some items, given by their numbers.
        segments: The value of each item, if the score has such values.
        sums: Numbers of each item that give the score of any items, if there are such
            numbers. NIST and CIDEr weigh n-grams by all items, so they have none.
    """

    of: Of
    segments: Values | None = None
    sums: "Sums | None" = None


@dataclass(frozen=True)
class Case:
    """The texts of a case, and their tokens.

    Attributes:
        hypotheses: One text per item.
        references: The references of each item, without the missing ones.
        count: The largest number of references of an item, missing ones included.
    """

    hypotheses: list[str]
    references: list[list[str]]
    count: int

    def padded(self, count: int = 0) -> list[list[str]]:
        """Returns at least `count` references per item, missing ones as empty texts."""
        count = max(count, self.count)
        return [texts + [""] * (count - len(texts)) for texts in self.references]

    @cached_property
    def ptb(self) -> tuple[list[str], list[list[str]]]:
        """The texts as the COCO caption evaluation tokenises them.

        As there, all references are tokenised together, and so are all hypotheses:
        a line's last period can depend on the next line.
        """
        from spdf_keras.metrics.tokenizers.ptb import ptb_tokenize_lines

        flat = iter(ptb_tokenize_lines(list(chain.from_iterable(self.references))))
        references = [list(islice(flat, len(texts))) for texts in self.references]
        return ptb_tokenize_lines(self.hypotheses), references

    @cached_property
    def words(self) -> tuple[list[str], list[list[str]]]:
        """The texts in NLTK's words, with empty texts for missing references."""
        from spdf_keras.metrics.tokenizers.treebank import word_tokenize

        tokenize = cache(word_tokenize)
        references = [[*map(tokenize, texts)] for texts in self.padded()]
        return [*map(tokenize, self.hypotheses)], references

    @cached_property
    def tercom(self) -> Measured:
        """TER of tercom."""
        import numpy as np

        from spdf_keras.metrics.sums import Sums
        from spdf_keras.metrics.tercom import Ter, ter, ter_items

        items = ter_items(self.hypotheses, self.references)
        numbers = np.array([[item.edits, item.words] for item in items], float)
        return Measured(
            lambda rows: ter([items[row] for row in rows]),
            [item.edits / item.words if item.words else None for item in items],
            Sums(numbers, lambda sums: ter([Ter(int(sums[0]), sums[1])])),
        )

    @cached_property
    def pyter(self) -> Measured:
        """TER of pyter, of the texts in NLTK's words."""
        from spdf_keras.metrics.pyter import pyter_items

        return _mean(pyter_items(*self.words))


def mteval_bleu(case: Case) -> Measured:
    """BLEU of e2e-metrics' Perl script."""
    from spdf_keras.metrics import bleu

    counts = bleu.mteval_counts(case.hypotheses, case.references)
    return _bleu(counts, bleu.mteval_bleu)


def pymteval_bleu(case: Case) -> Measured:
    """BLEU of e2e-metrics' Python version."""
    from spdf_keras.metrics import bleu

    counts = bleu.pymteval_counts(case.hypotheses, case.references)
    return _bleu(counts, bleu.pymteval_bleu)


def multi_bleu(options: str) -> Callable[[Case], Measured]:
    """BLEU of the scripts of Moses; `options` is a key of `MULTI_BLEU`."""

    def measure(case: Case) -> Measured:
        from spdf_keras.metrics import bleu

        tokenize = bleu.MULTI_BLEU[options]
        counts = bleu.multi_bleu_counts(case.hypotheses, case.padded(), tokenize)
        return _bleu(counts, bleu.multi_bleu)

    return measure


def _bleu(counts: "Sequence[Counts]", value: "Callable[[Counts], float]") -> Measured:
    import numpy as np

    from spdf_keras.metrics.bleu import Counts
    from spdf_keras.metrics.sums import Sums

    def score(sums: Sequence[float]) -> float:
        whole = [*map(int, sums)]
        hits, lengths, totals = (tuple(whole[i : i + 4]) for i in (0, 4, 8))
        return value(Counts(hits, lengths, totals, whole[12]))

    rows = [[*c.hits, *c.lengths, *c.totals, c.reference_length] for c in counts]
    sums = Sums(np.array(rows, float), score)
    return Measured(sums.of, sums=sums)


def nist(case: Case) -> Measured:
    """NIST of e2e-metrics' Python version."""
    from spdf_keras.metrics.nist import nist

    return Measured(lambda rows: nist(*_pick(rows, case.hypotheses, case.references)))


def nist_perl(case: Case) -> Measured:
    """NIST of e2e-metrics' Perl script."""
    from spdf_keras.metrics.nist import nist_perl

    return Measured(
        lambda rows: nist_perl(*_pick(rows, case.hypotheses, case.references))
    )


def ptb_meteor(case: Case) -> Measured:
    """METEOR of the COCO caption evaluation."""
    hypotheses, references = case.ptb
    # The evaluation removes its own separator from hypotheses before METEOR runs.
    cleaned = [text.replace("|||", "").replace("  ", " ") for text in hypotheses]
    return _meteor(cleaned, references)


def padded_meteor(count: int) -> Callable[[Case], Measured]:
    """METEOR of the untokenised texts, with at least `count` references per item."""
    return lambda case: _meteor(case.hypotheses, case.padded(count))


def word_meteor(case: Case) -> Measured:
    """METEOR of the texts in NLTK's words."""
    return _meteor(*case.words)


def _meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Measured:
    import numpy as np

    from spdf_keras.metrics.meteor import corpus_meteor, score_of_sums
    from spdf_keras.metrics.sums import Sums

    whole = corpus_meteor(hypotheses, references)
    sums = Sums(np.array(whole.counts, float), score_of_sums)
    return Measured(sums.of, [*whole.segments], sums)


def rouge_l(case: Case) -> Measured:
    """ROUGE-L of the COCO caption evaluation."""
    from spdf_keras.metrics.rouge_l import rouge_l

    return _mean([*map(rouge_l, *case.ptb)])


def cider(case: Case) -> Measured:
    """CIDEr of the COCO caption evaluation; a part has its own n-gram frequencies."""
    from spdf_keras.metrics.cider import cider

    hypotheses, references = case.ptb

    def of(rows: Sequence[int]) -> float:
        return sum(cider(*_pick(rows, hypotheses, references))) / len(rows)

    try:
        return Measured(of, [*cider(hypotheses, references)])
    except UndefinedScoreError:
        return Measured(of)


def tercom(case: Case) -> Measured:
    """TER of tercom."""
    return case.tercom


def pyter(case: Case) -> Measured:
    """TER of pyter."""
    return case.pyter


def _mean(values: Sequence[float]) -> Measured:
    from spdf_keras.metrics.sums import mean_sums

    # The official programs add in this order, which decides the last bits.
    def of(rows: Sequence[int]) -> float:
        return sum(values[i] for i in rows) / len(rows)

    return Measured(of, [*values], mean_sums(values))


def _pick(
    rows: Sequence[int], hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[Sequence[str]]]:
    return [hypotheses[row] for row in rows], [references[row] for row in rows]
