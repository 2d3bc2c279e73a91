"""The official evaluations: each takes texts and returns all of its scores.

A protocol fixes what a challenge or a paper ran: the scores, the tokens and the
substitute for a missing reference. Scores are in the units of the official program.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from spdf_keras.errors import InputError
from spdf_keras.metrics import measures
from spdf_keras.metrics.checks import UndefinedScoreError, check_items
from spdf_keras.metrics.measures import Case, Measured, Values
from spdf_keras.metrics.tokenizers.mteval import words_in_bytes

if TYPE_CHECKING:
    from spdf_keras.metrics.sums import Sums


@dataclass(frozen=True)
class Scores:
    """Scores of a case, in the units of the official program.

    Attributes:
        protocol: The evaluation, one of `PROTOCOLS`.
        items: Number of hypotheses.
        values: Each score; None if the official program fails.
        errors: The reason for each None, in one sentence.
        parts: The scores of each part, such as `seen` and `unseen`.
        segments: The values of each item, for scores that have them; empty for parts.
    """

    protocol: str
    items: int
    values: dict[str, float | None]
    errors: dict[str, str] = field(default_factory=dict)
    parts: dict[str, "Scores"] = field(default_factory=dict)
    segments: dict[str, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """An official evaluation.

    Attributes:
        measures: The function that computes each score, by the score's name.
        conditions: Tokens, case and smoothing, which comparisons depend on.
    """

    measures: Mapping[str, Callable[[Case], Measured]]
    conditions: str


PROTOCOLS: dict[str, Protocol] = {
    "e2e-metrics": Protocol(
        {
            "bleu": measures.mteval_bleu,
            "nist": measures.nist,
            "meteor": measures.ptb_meteor,
            "rouge_l": measures.rouge_l,
            "cider": measures.cider,
            "nist_perl": measures.nist_perl,
            "bleu_pymteval": measures.pymteval_bleu,
        },
        "BLEU of mteval-v13a (Perl: 13a tokens, lower-case, smoothed), NIST of "
        "pymteval (13a tokens, lower-case), METEOR 1.5, ROUGE-L and CIDEr of "
        "coco-caption (PTB tokens, lower-case, no punctuation)",
    ),
    "webnlg-2017": Protocol(
        {
            "bleu": measures.multi_bleu("multi -lc"),
            "meteor": measures.padded_meteor(3),
            "ter": measures.tercom,
            "ter_tercom": measures.tercom,
            "ter_pyter": measures.pyter,
        },
        "BLEU of multi-bleu.perl -lc (texts as they are, lower-case, not smoothed), "
        "METEOR 1.5 -norm, TER of tercom 0.7.25 (lower-case)",
    ),
    "dart": Protocol(
        {
            "bleu": measures.multi_bleu("multi"),
            "meteor": measures.padded_meteor(8),
            "ter": measures.tercom,
            "ter_tercom": measures.tercom,
            "ter_pyter": measures.pyter,
        },
        "BLEU of multi-bleu.perl (texts as they are, case-sensitive, not smoothed), "
        "METEOR 1.5 -norm, TER of tercom 0.7.25 (lower-case)",
    ),
    "generation-eval": Protocol(
        {
            "bleu": measures.multi_bleu("detok"),
            "meteor": measures.word_meteor,
            "ter": measures.pyter,
            "ter_tercom": measures.tercom,
            "ter_pyter": measures.pyter,
        },
        "BLEU of multi-bleu-detok.perl (13a tokens, case-sensitive, not smoothed), "
        "METEOR 1.5 -norm (NLTK tokens), TER of pyter (NLTK tokens, case-sensitive)",
    ),
}

# Number of references per item in the evaluation of LoRA.
_LORA_REFERENCES = 6


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
        references: The references of each item; a blank text means a missing one. As
            in the official programs, a lone no-break space is blank for e2e-metrics
            and a word for the others, which read bytes.
        parts: The name of the part to which each item belongs. Each part is also
            scored on its own.

    Raises:
        InputError: If the protocol is unknown, there are no items, an item has no
            reference, or the numbers of items differ.

    Example:
        >>> scores = score("dart", ["A pub ."], [["A pub .", "One pub ."]])
        >>> scores.values["ter"]
        0.0
    """
    case = _case(protocol, hypotheses, references)
    rows: dict[str, list[int]] = {}
    if parts is not None:
        if len(parts) != len(hypotheses):
            raise InputError(
                f"There must be a part per item. Received: {len(parts)} parts for "
                f"{len(hypotheses)} items."
            )
        for row, part in enumerate(parts):
            rows.setdefault(part, []).append(row)
    whole = Scores(protocol, len(hypotheses), {})
    part_scores = {
        part: Scores(protocol, len(part_rows), {}) for part, part_rows in rows.items()
    }
    for name, measure in PROTOCOLS[protocol].measures.items():
        measured = measure(case)
        _add(whole, name, measured, range(len(hypotheses)))
        for part, part_rows in rows.items():
            _add(part_scores[part], name, measured, part_rows)
        if measured.segments is not None:
            whole.segments[name] = measured.segments
    return replace(whole, parts=part_scores)


def item_sums(
    protocol: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    names: Sequence[str],
) -> "dict[str, Sums]":
    """Counts each item for scores of resampled items; see `score` for the arguments.

    Args:
        protocol: One of `PROTOCOLS`.
        hypotheses: One text per item.
        references: The references of each item.
        names: Scores of the protocol; those that no sums of items give are left out.

    Raises:
        InputError: As `score`.

    Example:
        >>> sums = item_sums("dart", ["A pub .", "No"], [["A pub ."], ["A"]], ["ter"])
        >>> sums["ter"].of([0]), sums["ter"].of([0, 1])
        (0.0, 0.25)
    """
    case = _case(protocol, hypotheses, references)
    measured = {name: PROTOCOLS[protocol].measures[name](case) for name in names}
    return {name: m.sums for name, m in measured.items() if m.sums is not None}


def _case(
    protocol: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> Case:
    if protocol not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise InputError(f"Unknown protocol '{protocol}'. Known here: {known}.")
    words = str.split if protocol == "e2e-metrics" else words_in_bytes
    present = [[text for text in texts if words(text)] for texts in references]
    check_items(hypotheses, present)
    return Case([*hypotheses], present, max(map(len, references)))


def _add(scores: Scores, name: str, measured: Measured, rows: Sequence[int]) -> None:
    try:
        scores.values[name] = measured.of(rows)
    except UndefinedScoreError as error:
        scores.values[name] = None
        scores.errors[name] = str(error)


def prepare_lora(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Prepares texts of WebNLG or DART as LoRA's decoding script writes them.

    Texts are lower-cased and split at every character except letters, digits and
    underscores. Each item gets six references: the first is repeated where there are
    fewer, and those after the sixth are dropped. Score the result with the protocol
    `generation-eval`.

    Args:
        hypotheses: One text per item.
        references: The references of each item in the order of the data, at least
            one.

    Example:
        >>> hypotheses, references = prepare_lora(["It isn't 1.5 km."], [["A_b", "C"]])
        >>> hypotheses, references
        (["it isn ' t 1 . 5 km ."], [['a_b', 'c', 'a_b', 'a_b', 'a_b', 'a_b']])

    Reference:
        `gpt2_decode.py --tokenize --lower` of
        [LoRA](https://github.com/microsoft/LoRA), `examples/NLG`.
    """
    check_items(hypotheses, references)
    prepared = []
    for texts in references:
        kept = [_split_lower(text) for text in texts[:_LORA_REFERENCES]]
        prepared.append(kept + kept[:1] * (_LORA_REFERENCES - len(kept)))
    return [_split_lower(text) for text in hypotheses], prepared


def _split_lower(text: str) -> str:
    """Splits the text in front of an end-of-text token or an empty line."""
    text = text.split("<|endoftext|>")[0].split("\n\n")[0]
    return " ".join(re.sub(r"(\W)", r" \1 ", text.lower()).split())
