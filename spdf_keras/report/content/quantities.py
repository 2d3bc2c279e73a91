"""Numbers as a report writes them."""

from collections.abc import Iterable


def number_ranges(numbers: Iterable[int]) -> str:
    """Sorted numbers, in which neighbours are joined to ranges.

    Example:
        >>> number_ranges([5, 1, 2, 3, 7, 8])
        '1-3, 5, 7, 8'
    """
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return ", ".join(
        f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run))
        for run in ranges
    )


def percent(sparsity: float | None) -> str:
    """A sparsity as a percentage.

    Example:
        >>> percent(0.75), percent(0.875), percent(None)
        ('75%', '87.5%', 'not recorded')
    """
    return "not recorded" if sparsity is None else f"{sparsity * 100:g}%"


def scientific(value: float) -> str:
    """A number in the notation of the paper's tables.

    Example:
        >>> scientific(1.986e12), scientific(126_183), scientific(40)
        ('1.99e12', '1.26e5', '40')
    """
    if abs(value) < 1e3:
        return f"{value:g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def exaflops(flops: float) -> str:
    """FLOPs in units of 1e18.

    Example:
        >>> exaflops(2.43e18), exaflops(5.16e16), exaflops(3.16e13)
        ('2.43', '0.052', '3.16e-5')
    """
    value = flops / 1e18
    if value >= 0.1:
        return f"{value:.2f}"
    if value >= 0.005:
        return f"{value:.3f}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"
