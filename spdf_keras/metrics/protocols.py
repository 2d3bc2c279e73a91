"""The official evaluations, each as a whole: texts in, its scores out.

A protocol is what a challenge or a paper ran: which scores, on which tokens, with
what in place of a missing reference. Scores are in the units of the official
program.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

from spdf_keras.errors import InputError
from spdf_keras.metrics import bleu
from spdf_keras.metrics.checks import UndefinedScoreError, check_items

Values = list[float | None]
# The score of some items together; undefined ones raise `UndefinedScoreError`.
Of = Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class Scores:
    """Scores of a case, in the units of the official program.

    Attributes:
        protocol: What was computed, one of `PROTOCOLS`.
        items: Number of hypotheses.
        values: Each score, None where the official program fails.
        errors: For such a score, one sentence that says why.
        parts: The scores of each part, such as `seen` and `unseen`.
        segments: Values of each item, of the scores that have them; of the whole
            case alone.
    """

    protocol: str
    items: int
    values: dict[str, float | None]
    errors: dict[str, str] = field(default_factory=dict)
    parts: dict[str, "Scores"] = field(default_factory=dict)
    segments: dict[str, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """The texts of a case.

    Attributes:
        hypotheses: One text per item.
        references: The references of each item, without the missing ones.
        count: Most references of an item, the missing ones included.
    """

    hypotheses: list[str]
    references: list[list[str]]
    count: int

    def padded(self, count: int = 0) -> list[list[str]]:
        """The references with empty texts for missing ones, at least `count`."""
        count = max(count, self.count)
        return [texts + [""] * (count - len(texts)) for texts in self.references]

    @cached_property
    def ptb(self) -> tuple[list[str], list[list[str]]]:
        """The texts as the COCO caption evaluation tokenises them."""
        from spdf_keras.metrics.ptb import ptb_tokenize

        tokenize = cache(ptb_tokenize)
        references = [[*map(tokenize, texts)] for texts in self.references]
        return [*map(tokenize, self.hypotheses)], references


@dataclass(frozen=True)
class Measured:
    """One score of a case: of any items together, and of each."""

    of: Of
    segments: Values | None = None


@dataclass(frozen=True)
class Protocol:
    """An official evaluation.

    Attributes:
        measures: How each score is computed, by its name.
        conditions: What a reader must know to compare: tokens, case, smoothing.
    """

    measures: Mapping[str, Callable[[Case], Measured]]
    conditions: str


def score(
    protocol: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    parts: Sequence[str] | None = None,
) -> Scores:
    """Scores hypotheses as an official evaluation does.

    Args:
        protocol: One of `PROTOCOLS`.
        hypotheses: One text per item; an empty one counts.
        references: The references of each item; an empty text is a missing one.
        parts: The name of the part to which each item belongs. A part is scored as
            a case of its own.

    Raises:
        InputError: If the protocol is unknown, there are no items, an item has no
            reference, or the numbers of items differ.

    Example:
        >>> texts = ["A pub near the river."]
        >>> score("bleu-only", texts, [texts])
        Traceback (most recent call last):
        ...
        spdf_keras.errors.InputError: Unknown protocol 'bleu-only'. Known here: ...
    """
    if protocol not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise InputError(f"Unknown protocol '{protocol}'. Known here: {known}.")
    present = [[text for text in texts if text.strip()] for texts in references]
    check_items(hypotheses, present)
    groups: dict[str, list[int]] = {"": [*range(len(hypotheses))]}
    if parts is not None:
        if len(parts) != len(hypotheses):
            raise InputError(
                "There must be a part per item. Received: "
                f"{len(parts)} parts for {len(hypotheses)} items."
            )
        for index, part in enumerate(parts):
            groups.setdefault(part, []).append(index)
    case = Case([*hypotheses], present, max(map(len, references)))
    found = {
        part: Scores(protocol, len(indices), {}) for part, indices in groups.items()
    }
    for name, measure in PROTOCOLS[protocol].measures.items():
        _add(name, measure, case, groups, found)
    whole = found.pop("")
    return replace(whole, parts=found)


def _add(
    name: str,
    measure: Callable[[Case], Measured],
    case: Case,
    groups: Mapping[str, list[int]],
    found: Mapping[str, Scores],
) -> None:
    measured = measure(case)
    for part, indices in groups.items():
        scores = found[part]
        try:
            scores.values[name] = measured.of(indices)
        except UndefinedScoreError as error:
            scores.values[name] = None
            scores.errors[name] = str(error)
    if measured.segments is not None:
        found[""].segments[name] = measured.segments


def _mean(values: Sequence[float]) -> Measured:
    return Measured(lambda items: sum(values[i] for i in items) / len(items), [*values])


def _texts(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], items: Sequence[int]
) -> tuple[list[str], list[Sequence[str]]]:
    return [hypotheses[i] for i in items], [references[i] for i in items]


def _bleu(counts: Sequence[bleu.Counts], value: Callable[[bleu.Counts], float]) -> Of:
    return lambda items: value(bleu.add(counts[i] for i in items))


def _mteval_bleu(case: Case) -> Measured:
    counts = bleu.mteval_counts(case.hypotheses, case.references)
    return Measured(_bleu(counts, bleu.mteval_bleu))


def _pymteval_bleu(case: Case) -> Measured:
    counts = bleu.pymteval_counts(case.hypotheses, case.references)
    return Measured(_bleu(counts, bleu.pymteval_bleu))


def _multi_bleu(options: str) -> Callable[[Case], Measured]:
    def measure(case: Case) -> Measured:
        tokenize = bleu.MULTI_BLEU[options]
        counts = bleu.multi_bleu_counts(case.hypotheses, case.padded(), tokenize)
        return Measured(_bleu(counts, bleu.multi_bleu))

    return measure


def _nist(case: Case) -> Measured:
    from spdf_keras.metrics.nist import nist

    return Measured(
        lambda items: nist(*_texts(case.hypotheses, case.references, items))
    )


def _nist_perl(case: Case) -> Measured:
    from spdf_keras.metrics.nist import nist_perl

    return Measured(
        lambda items: nist_perl(*_texts(case.hypotheses, case.references, items))
    )


def _ptb_meteor(case: Case) -> Measured:
    hypotheses, references = case.ptb
    # The evaluation's own pipe to the program uses the bars as separators.
    return _meteor(
        [h.replace("|||", "").replace("  ", " ") for h in hypotheses], references
    )


def _meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Measured:
    from spdf_keras.metrics.meteor import corpus_meteor

    whole = corpus_meteor(hypotheses, references)

    def of(items: Sequence[int]) -> float:
        if len(items) == len(hypotheses):
            return whole.score
        return corpus_meteor(*_texts(hypotheses, references, items)).score

    return Measured(of, [*whole.segments])


def _rouge_l(case: Case) -> Measured:
    from spdf_keras.metrics.rouge_l import rouge_l

    return _mean([*map(rouge_l, *case.ptb)])


def _cider(case: Case) -> Measured:
    from spdf_keras.metrics.cider import cider

    hypotheses, references = case.ptb

    def of(items: Sequence[int]) -> float:
        return sum(cider(*_texts(hypotheses, references, items))) / len(items)

    try:
        return Measured(of, [*cider(hypotheses, references)])
    except UndefinedScoreError:
        return Measured(of)


PROTOCOLS: dict[str, Protocol] = {
    "e2e-metrics": Protocol(
        {
            "bleu": _mteval_bleu,
            "nist": _nist,
            "meteor": _ptb_meteor,
            "rouge_l": _rouge_l,
            "cider": _cider,
            "nist_perl": _nist_perl,
            "bleu_pymteval": _pymteval_bleu,
        },
        "BLEU: mteval-v13a in Perl, lower-case, smoothed; NIST: pymteval (-p); "
        "METEOR 1.5, ROUGE-L, CIDEr: PTB tokens, lower-case, without punctuation",
    ),
}

# What `--task` is scored by where no protocol is named.
DEFAULT_PROTOCOL = {"e2e": "e2e-metrics", "webnlg": "webnlg-2017", "dart": "dart"}
