"""Perplexity of texts, with the windows of lm-evaluation-harness."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError

if TYPE_CHECKING:
    from spdf_keras.model.likelihood import Likelihood

# Windows whose tokens are in memory at once.
_WINDOWS = 256


@dataclass(frozen=True)
class TextLikelihood:
    """The log-likelihood of one or more texts, and their sizes.

    Attributes:
        loglikelihood: Natural logarithm of the probability of all tokens.
        words: Parts between white space, as lm-evaluation-harness counts them.
        bytes: Bytes in UTF-8.
        tokens: Tokens that were predicted: all of them.
    """

    loglikelihood: float
    words: int
    bytes: int
    tokens: int

    def __add__(self, other: "TextLikelihood") -> "TextLikelihood":
        return TextLikelihood(
            *(
                a + b
                for a, b in zip(vars(self).values(), vars(other).values(), strict=True)
            )
        )

    @property
    def scores(self) -> dict[str, float]:
        """Perplexity per word, byte and token, and bits per byte.

        Word and byte perplexity compare models with different tokenizers.

        Example:
            >>> TextLikelihood(-8 * math.log(2), words=2, bytes=8, tokens=4).scores
            {'word_perplexity': 15.99..., 'byte_perplexity': 2.0, ...}
        """
        names = ("words", "bytes", "tokens")
        values = {
            f"{name[:-1]}_perplexity": _exponential(
                -self.loglikelihood / getattr(self, name)
            )
            for name in names
        }
        bits = -self.loglikelihood / self.bytes / math.log(2)
        return {**values, "bits_per_byte": bits}

    def document(self) -> dict[str, float | None]:
        """Scores and sizes, for JSON; a score that is infinite is None."""
        finite = {n: v if v < math.inf else None for n, v in self.scores.items()}
        return {**finite, **asdict(self)}


def _exponential(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def rolling_windows(
    tokens: int, context: int, stride: int | None = None
) -> Iterator[tuple[int, int, int]]:
    """Yields windows in which every token of a text is predicted once.

    The text has the end-of-text token in front. The first window predicts as many
    tokens as fit, each later one the next `stride`; it sees the tokens before them that
    fit. As in lm-evaluation-harness the default predicts all tokens of a window but the
    first, and the last window keeps a full context.

    Args:
        tokens: Tokens of the text, without the one in front.
        context: Tokens that the model sees at once.
        stride: Tokens that each window after the first predicts, at most `context`; a
            smaller one gives each token more context and takes longer. None is
            `context`.

    Yields:
        Start and end of a window in the text with its token in front, and the index of
        the first token that it predicts.

    Example:
        >>> list(rolling_windows(6, context=4))
        [(0, 5, 1), (2, 7, 5)]
        >>> list(rolling_windows(6, context=4, stride=1))
        [(0, 5, 1), (1, 6, 5), (2, 7, 6)]

    Reference:
        `get_rolling_token_windows` and `make_disjoint_window` of
        [lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness).
    """
    stride = stride or context
    done = min(context, tokens)
    if tokens:
        yield 0, done + 1, 1
    while done < tokens:
        end = min(done + stride, tokens)
        yield end - context, end + 1, done + 1
        done = end


def score_text(
    likelihood: "Likelihood",
    tokenizer: Tokenizer,
    text: str,
    context: int,
    stride: int | None = None,
    report: Callable[[float], None] | None = None,
) -> TextLikelihood:
    """Computes the log-likelihood of a text as one document.

    Args:
        likelihood: Scores tokens with the model.
        tokenizer: Its tokenizer.
        text: The text, not empty.
        context: Tokens that a window has, at most the model's context.
        stride: See `rolling_windows`.
        report: Gets the share of the windows done, after each batch.
    """
    token_ids = tokenizer.encode(text)
    whole = [tokenizer.end_token_id, *token_ids]
    windows = list(rolling_windows(len(token_ids), context, stride))
    total = 0.0
    for start in range(0, len(windows), _WINDOWS):
        some = windows[start : start + _WINDOWS]

        def tell(done: int, start: int = start) -> None:
            if report:
                report((start + done) / len(windows))

        sequences = [(whole[a:b], first - a) for a, b, first in some]
        for scores in likelihood(sequences, tell):
            total += math.fsum(scores.logprobs.tolist())
    words = len(re.split(r"\s+", text))
    return TextLikelihood(total, words, len(text.encode("utf-8")), len(token_ids))


def perplexities(
    likelihood: "Likelihood",
    tokenizer: Tokenizer,
    texts: Mapping[str, str],
    context: int,
    stride: int | None = None,
    report: Callable[[int, int], None] | None = None,
) -> dict[str, TextLikelihood]:
    """Scores several texts, each as one document.

    Args:
        likelihood: Scores tokens with the model.
        tokenizer: Its tokenizer.
        texts: The texts by name.
        context: See `score_text`.
        stride: See `rolling_windows`.
        report: Gets the numbers of characters done and in all.

    Returns:
        The result of each text by its name.

    Raises:
        InputError: If the model has diverged.
    """
    results: dict[str, TextLikelihood] = {}
    total, before = sum(map(len, texts.values())), 0
    for name, text in texts.items():

        def tell(share: float, size: int = len(text), before: int = before) -> None:
            if report:
                report(before + round(share * size), total)

        found = score_text(likelihood, tokenizer, text, context, stride, tell)
        if not math.isfinite(found.loglikelihood):
            raise InputError(
                f"The model's logits must be finite to score '{name}'. Received: a "
                "model whose logits are not; its training has diverged."
            )
        results[name] = found
        before += len(text)
    return results


def check_windows(context: int, stride: int | None, longest: int) -> None:
    """Refuses windows that the model cannot see, or that leave tokens out.

    Raises:
        InputError: If a size is out of range.
    """
    if not 1 <= context <= longest:
        raise InputError(
            f"`context_length` must be from 1 to {longest}, the tokens that the model "
            f"sees at once. Received: context_length={context}."
        )
    if stride is not None and not 1 <= stride <= context:
        raise InputError(
            f"`stride` must be from 1 to {context}, the tokens of a window. Received: "
            f"stride={stride}."
        )


def read_texts(paths: Sequence[str]) -> dict[str, str]:
    """Reads the texts of files, decompressed where they are compressed.

    Raises:
        InputError: If one is named twice, cannot be read, is no UTF-8 text, or is
        empty.
    """
    from spdf_keras.data.corpus.forms import open_text

    texts: dict[str, str] = {}
    for path in paths:
        if path in texts:
            raise InputError(
                f"Every text must be named once. Received: '{path}' twice."
            )
        texts[path] = open_text(path)
        if not texts[path]:
            raise InputError(f"'{path}' must hold a text, and it is empty.")
    return texts
