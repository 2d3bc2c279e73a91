"""Turns lists of prompts into lists of continuations, batch by batch."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.config import DecodeConfig
from spdf_keras.errors import InputError
from spdf_keras.model.decoding.search import search_function
from spdf_keras.model.decoding.steps import Continuations, Prompts

# Prompts are padded to a multiple of this, so the allocator sees fewer sizes.
_PROMPT_BUCKET = 16


def prompt_rows(prompts: Any) -> list[list[int]]:
    """Returns the prompts as lists of token ids.

    Args:
        prompts: Rows of integers: lists, an array or tensor `(batch, length)`, a ragged
            tensor, or an iterable of rows.

    Example:
        >>> prompt_rows(np.array([[1, 2], [3, 4]]))
        [[1, 2], [3, 4]]

    Raises:
        InputError: If they are text, a single prompt, or no integers.
    """
    if isinstance(prompts, tf.RaggedTensor):
        prompts = prompts.to_list()
    try:
        plain = isinstance(prompts, str | bytes | dict)
        rows = [np.asarray(prompt) for prompt in ([prompts] if plain else prompts)]
        fit = [
            row.ndim == 1 and (row.dtype.kind in "iu" or not row.size) for row in rows
        ]
    except (TypeError, ValueError):
        fit = [False]
    if not all(fit):
        raise InputError(
            "`prompts` must be a list of prompts, each a list of token ids, such as "
            f"[[1, 2, 3]]. Received: {str(prompts)[:60]!r}. Encode text with the "
            "tokenizer first."
        )
    return [row.tolist() for row in rows]


def token_id_list(end_token_ids: Any) -> list[int]:
    """Returns `end_token_ids` (one id, several, or None) as a list.

    Example:
        >>> token_id_list(5), token_id_list(None), token_id_list((5, 6))
        ([5], [], [5, 6])

    Raises:
        InputError: If they are no integers.
    """
    if end_token_ids is None:
        return []
    if isinstance(end_token_ids, set | frozenset):
        end_token_ids = sorted(end_token_ids)
    ids = np.asarray(end_token_ids)
    if ids.ndim > 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise InputError(
            "`end_token_ids` must be one token id, a list of them, or None. Received: "
            f"{end_token_ids!r}."
        )
    return [int(token) for token in ids.reshape(-1)]


def check_beams(settings: DecodeConfig, vocabulary: int) -> None:
    """Refuses more beams than the vocabulary has tokens."""
    if settings.num_beams > vocabulary:
        raise InputError(
            f"`num_beams` must be at most the vocabulary of {vocabulary} tokens. "
            f"Received: num_beams={settings.num_beams}."
        )


class Generator:
    """Continues prompts with a model, whose weights it reads at each call.

    Args:
        model: The GPT.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._functions: dict[DecodeConfig, Callable[[Prompts], Continuations]] = {}

    def __call__(
        self,
        prompts: Any,
        end_token_ids: Any,
        settings: DecodeConfig,
        report: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        prompts, end_token_ids = prompt_rows(prompts), token_id_list(end_token_ids)
        self._check(prompts, end_token_ids, settings)
        # These do not change the graph.
        key = dataclasses.replace(settings, max_new_tokens=1, batch_size=1, seed=0)
        if key not in self._functions:
            self._functions[key] = search_function(self._model, key)
        # Prompts of similar length share a batch, which saves padding. The order is
        # restored below.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        results: dict[int, list[int]] = {}
        for start in range(0, len(order), settings.batch_size):
            rows = order[start : start + settings.batch_size]
            batch = self._batch(prompts, rows, end_token_ids, settings)
            found = self._functions[key](batch)
            tokens, counts = found.token_ids.numpy(), found.counts.numpy()
            if counts.min() < 0:
                raise InputError(
                    "The model's logits must be finite to choose a token. Received: a "
                    "model whose logits are not; its training has diverged."
                )
            for row, line, count in zip(rows, tokens, counts, strict=True):
                results[row] = line[:count].tolist()
            if report:
                report(len(results))
        return [results[i] for i in range(len(prompts))]

    def _check(
        self,
        prompts: Sequence[Sequence[int]],
        end_token_ids: Sequence[int],
        settings: DecodeConfig,
    ) -> None:
        context = self._model.embedding.max_sequence_length
        vocabulary = self._model.embedding.vocabulary_size
        for number, prompt in enumerate(prompts, 1):
            start = ", ".join(map(str, prompt[:8])) + ", ..." * (len(prompt) > 8)
            if not 0 < len(prompt) < context:
                raise InputError(
                    f"A prompt must have 1 to {context - 1} tokens (the context is "
                    f"{context}). Received: {len(prompt)} tokens in prompt {number} of "
                    f"{len(prompts)}, [{start}]."
                )
            if not 0 <= min(prompt) <= max(prompt) < vocabulary:
                raise InputError(
                    f"Token ids must be in [0, {vocabulary}). Received: "
                    f"{min(prompt)} to {max(prompt)} in prompt {number} of "
                    f"{len(prompts)}, [{start}]."
                )
        for token in end_token_ids:
            if not 0 <= token < vocabulary:
                raise InputError(
                    f"`end_token_ids` must be in [0, {vocabulary}), or the model never "
                    f"says them. Received: {token}."
                )
        check_beams(settings, vocabulary)

    def _batch(
        self,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int],
        end_token_ids: Sequence[int],
        settings: DecodeConfig,
    ) -> Prompts:
        context = self._model.embedding.max_sequence_length
        lengths = np.array([len(prompts[i]) for i in rows], np.int32)
        width = min(-(-lengths.max() // _PROMPT_BUCKET) * _PROMPT_BUCKET, context)
        token_ids = np.zeros((len(rows), width), np.int32)
        for line, row in zip(token_ids, rows, strict=True):
            line[: len(prompts[row])] = prompts[row]
        limits = np.minimum(settings.max_new_tokens, context - lengths)
        uniform = np.zeros((len(rows), limits.max()), np.float32)
        if settings.sample:
            # Each prompt has its own random stream, whatever batch it is in.
            for line, row in zip(uniform, rows, strict=True):
                random = np.random.default_rng((settings.seed, row))
                line[:] = random.random(len(line), np.float32)
        return Prompts(
            tf.constant(token_ids),
            tf.constant(lengths),
            tf.constant(limits.astype(np.int32)),
            tf.constant(np.array(end_token_ids, np.int32)),
            tf.constant(uniform),
        )
