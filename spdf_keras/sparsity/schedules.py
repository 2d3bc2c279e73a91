"""When masks change, and how far: arithmetic of steps alone.

A step `t` is a number of completed optimizer steps.
"""

import math
from collections.abc import Sequence
from fractions import Fraction


def update_steps(begin: int, end: int, interval: int, first: int = 0) -> list[int]:
    """Returns the steps of updates: every `interval` from `begin`, and `end` itself.

    Args:
        begin: The first, included.
        end: The last, included.
        interval: Steps between two of them; the last interval may be shorter.
        first: Earlier updates are left out.

    Example:
        >>> update_steps(0, 250, 100, first=1)
        [100, 200, 250]
    """
    steps = list(range(begin, end, interval)) + [end]
    return [step for step in steps if step >= first]


def progress(step: float, begin: int, end: int) -> float:
    """Returns the part of a schedule that is over at a step, in `[0, 1]`."""
    if end <= begin:
        return float(step >= end)
    return min(max((step - begin) / (end - begin), 0.0), 1.0)


def cosine(fraction: float, step: int, begin: int, end: int) -> float:
    """Returns a fraction that falls to 0 at `end` as half a cosine.

    Example:
        >>> round(cosine(0.3, 1000, 0, 3584), 6)
        0.24597

    Reference:
        [Evci et al., 2020](https://arxiv.org/abs/1911.11134), section 3. It counts
        from `begin`; the authors' code counts from 0, whatever `begin` is.
    """
    return fraction / 2 * (1 + math.cos(math.pi * progress(step, begin, end)))


def cubic(initial: float, final: float, step: int, begin: int, end: int) -> float:
    """Returns the sparsity of gradual magnitude pruning.

    Example:
        >>> round(cubic(0.0, 0.75, 2500, 1000, 5000), 6)
        0.566895

    Reference:
        [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878), equation 1.
    """
    left = 1.0 - progress(step, begin, end)
    return final + (initial - final) * left**3


def stage_steps(shares: Sequence[float], total_steps: int) -> list[int]:
    """Returns the steps at which stages begin, rounded up.

    Args:
        shares: Fractions of all steps.
        total_steps: All steps.

    Example:
        >>> stage_steps([0.5, 0.8], 101)
        [51, 81]
        >>> stage_steps([0.55], 200)
        [110]
    """
    # The product of floats may be above the step that is meant, as 0.55 * 200 is.
    return [math.ceil(Fraction(str(share)) * total_steps) for share in shares]
