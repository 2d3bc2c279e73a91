"""The choice of a token from logits, in NumPy, by each request's own settings."""

import numpy as np
from numpy.typing import NDArray

# Logits among which the likeliest tokens are sought first; sorting all takes longer
# than a decoding step of a small model.
_CANDIDATES = 256


class Sampler:
    """Chooses the tokens of one continuation, as `generate` does.

    With equal seeds, continuation `index` has the tokens of prompt `index` in
    `model.generate(..., sample=True, seed=seed)`, and with temperature 0 those of
    greedy decoding. It does not depend on other requests.

    Args:
        temperature: The logits are divided by it; 0 takes the likeliest token.
        top_p: Only the fewest likeliest tokens whose probabilities reach it can be
            chosen; 1 keeps all.
        seed: Seed of the random numbers.
        index: Index of the continuation among those of its request.
        max_tokens: Tokens that will be chosen, at most.

    Example:
        >>> Sampler(0, 1, seed=0, index=0, max_tokens=1).choose(np.array([0.0, 2.0]))
        1
    """

    def __init__(
        self, temperature: float, top_p: float, seed: int, index: int, max_tokens: int
    ) -> None:
        self._temperature, self._top_p = temperature, top_p
        self._uniform = np.zeros(0, np.float32)
        if temperature:
            random = np.random.default_rng((seed, index))
            self._uniform = random.random(max_tokens, np.float32)
        self._count = 0

    def choose(self, logits: NDArray[np.floating]) -> int:
        """Chooses the next token from finite logits, `(vocabulary_size,)`."""
        if not self._temperature:
            return int(logits.argmax())
        uniform = float(self._uniform[self._count])
        self._count += 1
        scaled = logits.astype(np.float64) / self._temperature
        probabilities = np.exp(scaled - scaled.max())
        probabilities /= probabilities.sum()
        if self._top_p >= 1:
            return _place(probabilities, uniform)
        token_ids = _nucleus(probabilities, self._top_p)
        return int(token_ids[_place(probabilities[token_ids], uniform)])


def _nucleus(probabilities: NDArray[np.float64], top_p: float) -> NDArray[np.intp]:
    """The fewest likeliest tokens whose probabilities reach `top_p`, best first."""
    candidates = np.arange(len(probabilities))
    if len(probabilities) > _CANDIDATES:
        least = np.partition(probabilities, -_CANDIDATES)[-_CANDIDATES]
        likely = np.flatnonzero(probabilities >= least)
        if probabilities[likely].sum() >= top_p:
            candidates = likely
    # Of equal tokens the one with the smaller id comes first, as in TensorFlow's top_k.
    order = np.argsort(-probabilities[candidates], kind="stable")
    token_ids = candidates[order]
    before = np.cumsum(probabilities[token_ids]) - probabilities[token_ids]
    return token_ids[before < top_p]


def _place(probabilities: NDArray[np.float64], uniform: float) -> int:
    """The first place at which the sum of probabilities passes the random number."""
    sums = np.cumsum(probabilities)
    index = np.searchsorted(sums, uniform * sums[-1], side="right")
    # By rounding, the last sum may be below the random number.
    return int(min(index, np.searchsorted(sums, sums[-1], side="left")))


def log_probabilities(
    logits: NDArray[np.floating], token_id: int, top: int
) -> tuple[float, list[tuple[int, float]]]:
    """Returns the log-probability of a token, and the likeliest tokens with theirs.

    They are those of the model: temperature and `top_p` do not change them.

    Args:
        logits: `(vocabulary_size,)`.
        token_id: The token.
        top: How many of the likeliest are returned, best first.

    Example:
        >>> log_probabilities(np.log([0.25, 0.75]), 0, 1)[1][0][0]
        1
    """
    values = logits.astype(np.float64)
    largest = values.max()
    norm = largest + np.log(np.exp(values - largest).sum())
    best: list[int] = []
    if top:
        top = min(top, len(values))
        likely = np.argpartition(-values, top - 1)[:top]
        best = likely[np.argsort(-values[likely], kind="stable")].tolist()
    ranked = [(token, float(values[token] - norm)) for token in best]
    return float(values[token_id] - norm), ranked
