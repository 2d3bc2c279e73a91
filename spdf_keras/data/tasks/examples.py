"""From the examples of a fine-tuning task to padded batches of token ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.data.shards import shuffled
from spdf_keras.data.tasks.task import Example
from spdf_keras.data.tokenizer import Tokenizer
from spdf_keras.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

# Widths are multiples of this, so that few shapes are compiled.
_WIDTH_STEP = 16
# Batches that are filled from one length-sorted pool.
_POOL_BATCHES = 64


def encode_context(
    tokenizer: Tokenizer, context: str, max_length: int | None = None
) -> list[int]:
    """Token ids of an input, closed by the end-of-text token (the separator).

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

    def batches(self, batch_size: int, order: str | None = None) -> "tf.data.Dataset":
        """One pass over all pairs; only targets have weight in the loss.

        Batches hold pairs of similar length, padded to a multiple of 16. The last
        batch is filled up with rows of weight 0, so that no pair is lost.

        Args:
            batch_size: Pairs per batch.
            order: Any text, of which the order of the pass is a function, such as
                `seed:epoch`; None goes by length.

        Returns:
            A dataset of `(token_ids, labels, sample_weight)`, each
            `(batch_size, width)`: int32, int32, float32.
        """
        import tensorflow as tf

        def generate() -> Iterator[Any]:
            for numbers in self._plan(batch_size, order):
                yield self._pad(numbers, batch_size)

        matrix = (batch_size, None)
        signature = (
            tf.TensorSpec(matrix, tf.int32),
            tf.TensorSpec(matrix, tf.int32),
            tf.TensorSpec(matrix, tf.float32),
        )
        dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
        count = self.num_batches(batch_size)
        return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2)

    def num_batches(self, batch_size: int) -> int:
        """Batches in one pass."""
        return -(-len(self) // batch_size)

    def _plan(self, batch_size: int, key: str | None) -> list[NDArray[np.int64]]:
        """The pairs of each batch: shuffled, then sorted by length in pools."""
        order = np.arange(len(self)) if key is None else shuffled(len(self), key)
        lengths = np.array([len(pair) for pair in self.token_ids])
        pool = _POOL_BATCHES * batch_size
        pools = [order[start : start + pool] for start in range(0, len(order), pool)]
        order = np.concatenate(
            [p[np.argsort(lengths[p], kind="stable")] for p in pools]
        )
        starts = range(0, len(order), batch_size)
        batches = [order[start : start + batch_size] for start in starts]
        if key is None:
            return batches
        return [batches[i] for i in shuffled(len(batches), f"{key}:batches")]

    def _pad(self, numbers: NDArray[np.int64], batch_size: int) -> tuple[Any, ...]:
        longest = max(len(self.token_ids[i]) for i in numbers) - 1
        width = -(-longest // _WIDTH_STEP) * _WIDTH_STEP
        token_ids = np.zeros((batch_size, width), np.int32)
        labels = np.zeros((batch_size, width), np.int32)
        weights = np.zeros((batch_size, width), np.float32)
        for row, number in enumerate(numbers):
            pair = self.token_ids[number]
            size = len(pair) - 1
            token_ids[row, :size], labels[row, :size] = pair[:-1], pair[1:]
            # The separator, the last of the context, predicts the first target.
            weights[row, self.context_lengths[number] - 1 : size] = 1.0
        return token_ids, labels, weights
