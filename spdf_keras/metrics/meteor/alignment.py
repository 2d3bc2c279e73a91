"""The alignment that METEOR scores: a choice among the possible matches.

A beam search prefers matches that cover the most words in the fewest chunks. It follows
the official search step by step, its oddities included, because they decide between
alignments that look equally good and have different scores.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from spdf_keras.metrics.meteor.matching import EXACT, Match

BEAM = 40

# A path's rank is one number, and the lowest is best: covered words weigh most (those
# that are not equal count half), then chunks, then distance.
_CHUNK = 1 << 28
_WORD = 1 << 44
_RANK = itemgetter(0)

# Rank; the word of the hypothesis that would continue the chunk (-1: none); the used
# words of reference and hypothesis, as bits; the chosen matches, last one first.
_Path = tuple[int, int, int, int, Any]
# A match as paths use it: its start and end in the hypothesis, its words in reference
# and hypothesis as bits, its addition to the rank, its distance, and the match itself.
_Choice = tuple[int, int, int, int, int, int, Match]


def align(options: Sequence[Sequence[Match]]) -> list[Match]:
    """Chooses matches by a beam search, from left to right.

    Args:
        options: The matches that start at each word of the reference.

    Returns:
        Matches that share no word, sorted by their place in the reference.

    Example:
        >>> a, b = Match(0, 1, 1, 1, EXACT), Match(0, 1, 0, 1, EXACT)
        >>> align([[a, b], [Match(1, 1, 1, 1, EXACT)]])[0] == b
        True
    """
    certain = _certain(options)
    used = used_at = 0
    for match in certain.values():
        _, _, bits, bits_at, *_ = _choice(match)
        used |= bits
        used_at |= bits_at
    paths: list[_Path] = [(0, -1, used, used_at, None)]
    for current, matches in enumerate(options):
        if len(paths) > 1:
            paths.sort(key=_RANK)
            del paths[BEAM:]
        if current in certain:
            paths = _with(paths, _choice(certain[current]))
        else:
            paths = _extended(paths, 1 << current, [*map(_choice, matches)])
    paths.sort(key=_RANK)
    # A chunk that is still open counts from here on.
    best = min(paths[:BEAM], key=lambda path: path[0] + (path[1] != -1) * _CHUNK)
    chosen, chain = [*certain.values()], best[-1]
    while chain:
        match, chain = chain
        chosen.append(match)
    return sorted(chosen)


def _certain(options: Sequence[Sequence[Match]]) -> dict[int, Match]:
    """Finds the matches whose words have no other match, by their start."""
    once = twice = once_at = twice_at = 0
    for matches in options:
        for match in matches:
            _, _, bits, bits_at, *_ = _choice(match)
            twice |= once & bits
            twice_at |= once_at & bits_at
            once |= bits
            once_at |= bits_at
    certain = {}
    for start, matches in enumerate(options):
        for match in matches if len(matches) == 1 else ():
            _, _, bits, bits_at, *_ = _choice(match)
            if not (twice & bits or twice_at & bits_at):
                certain[start] = match
    return certain


def _with(paths: list[_Path], choice: _Choice) -> list[_Path]:
    """Adds a certain match to all paths."""
    at, end, _, _, cost, distance, _ = choice
    cost += distance
    return [
        (
            rank + cost + (_CHUNK if go_on != -1 and go_on != at else 0),
            end,
            used,
            used_at,
            chain,
        )
        for rank, go_on, used, used_at, chain in paths
    ]


def _extended(paths: list[_Path], bit: int, choices: list[_Choice]) -> list[_Path]:
    """Branches each path: one branch per match that is still free, and one without."""
    following: list[_Path] = []
    for path in paths:
        rank, go_on, used, used_at, chain = path
        if used & bit:  # inside a longer match
            following.append(path)
            continue
        for at, end, bits, bits_at, cost, distance, match in choices:
            if used & bits or used_at & bits_at:
                continue
            total = rank + cost
            if go_on != -1 and go_on != at:
                total += _CHUNK
            longer = total, end, used | bits, used_at | bits_at, (match, chain)
            following.append(longer)
            # The official search adds the distance here, so that it counts for the
            # following choices and not for the match itself.
            rank += distance
        if go_on != -1:
            rank += _CHUNK
        following.append((rank, -1, used, used_at, chain))
    return following


def _choice(match: Match) -> _Choice:
    start, length, at, at_length, matcher = match
    # Halves are rounded down on each side.
    words = length + at_length if matcher == EXACT else length // 2 + at_length // 2
    bits = ((1 << length) - 1) << start
    bits_at = ((1 << at_length) - 1) << at
    cost = -words * _WORD
    return at, at + at_length, bits, bits_at, cost, abs(start - at), match


def count_chunks(matches: Sequence[Match]) -> int:
    """Counts runs of matches that are neighbours in both texts.

    Args:
        matches: Sorted by their place in the reference.
    """
    chunks, behind, behind_at = 0, -1, -1
    for start, length, at, at_length, _ in matches:
        if start != behind or at != behind_at:
            chunks += 1
        behind, behind_at = start + length, at + at_length
    return chunks
