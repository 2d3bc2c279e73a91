"""From the examples of a fine-tuning task to padded batches of token ids."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.data.shards.order import shuffled
from spdf_keras.data.shards.share import Share
from spdf_keras.data.tasks.task import Example
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

# Widths are multiples of this, so that few shapes are compiled.
_WIDTH_STEP = 16
# Batches that are filled from one pool of pairs, sorted by length.
_POOL_BATCHES = 64


def encode_context(
    tokenizer: Tokenizer, context: str, max_length: int | None = None
) -> list[int]:
    """Token ids of an input and the end-of-text token behind it (the separator).

    Args:
        tokenizer: Encodes it.
        context: The linearised input.
        max_length: A longer context loses its end, not the separator.
    """
    token_ids = tokenizer.encode(context)
    if max_length is not None:
        token_ids = token_ids[: max_length - 1]
    return [*token_ids, tokenizer.end_token_id]


@dataclass(frozen=True)
class EncodedPairs:
    """Context and target token ids of every (context, reference) pair.

    Attributes:
        token_ids: One array per pair: context, separator, target, end.
        context_lengths: How many of them are context and separator.
        num_cut: Pairs whose context lost its end to make room.
    """

    token_ids: list[NDArray[np.int32]]
    context_lengths: NDArray[np.int64]
    num_cut: int = 0

    @classmethod
    def encode(
        cls,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        max_length: int,
        cut_context: bool = False,
        split: str = "task",
    ) -> "EncodedPairs":
        """Encodes each reference with its context as the LoRA recipe does.

        Args:
            examples: The task's examples.
            tokenizer: Encodes them.
            max_length: Longest pair that is allowed, in tokens.
            cut_context: Whether a longer pair loses the end of its context. The
                separator, the target and one token of context always stay.
            split: Names the examples in the error, such as `training split`.

        Raises:
            InputError: If a pair is longer, or there is none.
        """
        contexts = [e.context for e in examples for _ in e.references]
        places = [
            (number, reference)
            for number, example in enumerate(examples, 1)
            for reference in range(1, len(example.references) + 1)
        ]
        targets = [" " + text for e in examples for text in e.references]
        if not targets:
            raise InputError(f"The {split} has no examples.")
        end = [tokenizer.end_token_id]
        token_ids, lengths, num_cut = [], [], 0
        for place, text, context, target in zip(
            places,
            contexts,
            tokenizer.encode_batch(contexts),
            tokenizer.encode_batch(targets),
            strict=True,
        ):
            room = max_length - len(target) - 2
            if cut_context and len(context) > room > 0:
                context, num_cut = context[:room], num_cut + 1
            pair = np.array(context + end + target + end, np.int32)
            if len(pair) > max_length:
                number, reference = place
                raise InputError(
                    f"Example {number} of the {split} has {len(pair)} tokens with its "
                    f"reference {reference}, more than the {max_length} that fit. "
                    "Raise `finetune.sequence_length`, pre-train with a longer "
                    f"context, or shorten it: '{text[:60]}...'."
                )
            token_ids.append(pair)
            lengths.append(len(context) + 1)
        return cls(token_ids, np.array(lengths), num_cut)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def fingerprint(self) -> str:
        """A digest of all pairs in order."""
        digest = hashlib.sha256()
        for token_ids, length in zip(
            self.token_ids, self.context_lengths.tolist(), strict=True
        ):
            digest.update(np.array([length, len(token_ids)], "<i8").tobytes())
            digest.update(token_ids.astype("<i4").tobytes())
        return digest.hexdigest()

    def num_batches(self, batch_size: int) -> int:
        """Batches in one pass."""
        return -(-len(self) // batch_size)

    def batches(self, batch_size: int, order: str | None = None) -> "tf.data.Dataset":
        """One pass over all pairs; see `PairStream`.

        Args:
            batch_size: Pairs per batch.
            order: Any text, such as `seed:epoch`, that determines the order of the
                pass; None sorts by length.
        """
        stream = PairStream(self, batch_size, lambda _: order)
        return stream.batches(0, self.num_batches(batch_size))


class PairStream:
    """All pairs, pass after pass, a batch at a time.

    Batches hold pairs of similar length, padded to a multiple of 16. The last batch
    of a pass is filled up with rows of weight 0, so that no pair is lost. The content
    of a batch is a function of its number, so that training resumes anywhere.

    Args:
        pairs: The pairs.
        batch_size: Pairs per batch, of all workers together.
        order: Gives a text for each pass, counted from 1, that determines its order;
            None sorts by length.
    """

    def __init__(
        self,
        pairs: EncodedPairs,
        batch_size: int,
        order: Callable[[int], str | None] = lambda _: None,
    ) -> None:
        self._pairs, self._batch_size, self._order = pairs, batch_size, order
        self._pass_batches = pairs.num_batches(batch_size)
        self._lengths = np.array([len(pair) for pair in pairs.token_ids])
        self._plans: dict[int, list[NDArray[np.int64]]] = {}

    def batches(
        self,
        start: int,
        stop: int,
        num_workers: int = 1,
        worker: int = 0,
        replicas: int = 1,
    ) -> "tf.data.Dataset":
        """Batches number `start` to `stop - 1`; only targets have weight in the loss.

        Args:
            start: The first batch.
            stop: The batch after the last.
            num_workers: Workers that share each batch; divides its size.
            worker: The number of the worker that reads, which gives its part.
            replicas: Elements that a worker's part of a batch comes in.

        Returns:
            A dataset of `(token_ids, labels, sample_weight)`, each `(batch_size /
            num_workers / replicas, width)`: int32, int32, float32.
        """
        import tensorflow as tf

        share = Share(self._batch_size, num_workers, worker, replicas)

        def read(element: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
            step, first = share.place(int(element))
            rows = slice(first, first + share.rows)
            return tuple(part[rows] for part in self._batch(step))

        def load(element: tf.Tensor) -> tuple[tf.Tensor, ...]:
            parts = tf.numpy_function(read, [element], (tf.int32, tf.int32, tf.float32))
            return tuple(tf.ensure_shape(part, (share.rows, None)) for part in parts)

        return share.elements(start, stop).map(load).prefetch(2)

    def widths(self, stop: int) -> list[int]:
        """Tokens per row of batches 0 to `stop - 1`, padding included."""
        return [self._width(self._numbers(step)) for step in range(stop)]

    def _numbers(self, step: int) -> NDArray[np.int64]:
        """The pairs of a batch."""
        done, place = divmod(step, self._pass_batches)
        if done not in self._plans:
            self._plans.clear()
            self._plans[done] = self._plan(self._order(done + 1))
        return self._plans[done][place]

    def _plan(self, key: str | None) -> list[NDArray[np.int64]]:
        """The pairs of each batch: shuffled, then sorted by length in pools."""
        count, size = len(self._pairs), self._batch_size
        order = np.arange(count) if key is None else shuffled(count, key)
        pool = _POOL_BATCHES * size
        pools = [order[start : start + pool] for start in range(0, count, pool)]
        order = np.concatenate(
            [p[np.argsort(self._lengths[p], kind="stable")] for p in pools]
        )
        batches = [order[start : start + size] for start in range(0, count, size)]
        if key is None:
            return batches
        return [batches[i] for i in shuffled(len(batches), f"{key}:batches")]

    def _width(self, numbers: NDArray[np.int64]) -> int:
        longest = int(self._lengths[numbers].max()) - 1
        return -(-longest // _WIDTH_STEP) * _WIDTH_STEP

    def _batch(self, step: int) -> tuple[NDArray[Any], ...]:
        numbers = self._numbers(step)
        shape = (self._batch_size, self._width(numbers))
        token_ids, labels = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        weights = np.zeros(shape, np.float32)
        for row, number in enumerate(numbers):
            pair = self._pairs.token_ids[number]
            size = len(pair) - 1
            token_ids[row, :size], labels[row, :size] = pair[:-1], pair[1:]
            # The separator, which ends the context, predicts the first target.
            weights[row, self._pairs.context_lengths[number] - 1 : size] = 1.0
        return token_ids, labels, weights
