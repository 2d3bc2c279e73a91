r"""The tokenizer as TensorFlow operations, for serving and `tf.data`.

It gives the ids of `Tokenizer`, for every text. KerasNLP's `BytePairTokenizer` does
not: it cuts a final `\n\n` in two, takes 15 white-space characters for other kinds,
drops U+096C, which it uses as a mark, and stops at U+0000.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spdf_keras.data.tokenizers.bpe import Tokenizer, byte_characters
from spdf_keras.data.tokenizers.words import character_classes, shift, word_starts


class GraphTokenizer(tf.Module):
    """Encodes and decodes string tensors with the ids of a `Tokenizer`.

    Its four methods are `tf.function`s of core TensorFlow operations, so a
    SavedModel that has them needs neither this package nor TensorFlow Text. They
    run on the CPU, wherever the model does; TFLite has no such operations.

    Strings should be UTF-8. Bytes that are not become U+FFFD, as many as in
    Python's `bytes.decode(errors="replace")`.

    Args:
        tokenizer: The tokenizer that it equals.

    Example:
        >>> tokenizer = Tokenizer.train(["low lower lowest"], 300)
        >>> in_graph = GraphTokenizer(tokenizer)
        >>> in_graph.encode_batch(["lower!", ""]).to_list() == [
        ...     tokenizer.encode("lower!"),
        ...     [],
        ... ]
        True
        >>> in_graph.decode(tokenizer.encode("lower!")).numpy()
        b'lower!'
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(name="graph_tokenizer")
        vocabulary = tokenizer.vocabulary
        self._size = len(vocabulary)
        characters = byte_characters()
        byte_ids = [vocabulary[character] for character in characters]
        self._byte_ids = tf.constant(byte_ids, tf.int32)
        self._classes = tf.constant(character_classes())
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        self._token_bytes = tf.constant([_bytes_of(t, characters) for t in tokens])

        # The last rank of a pair that is listed twice counts, as in the library.
        ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
        pairs = [(vocabulary[a], vocabulary[b]) for a, b in ranks]
        products = np.zeros(len(tokenizer.merges) + 1, np.int32)
        for (first, second), rank in ranks.items():
            products[rank] = vocabulary[first + second]
        self._products = tf.constant(products)
        self._no_merge = len(products)
        self._is_ordered = _is_ordered(pairs, list(ranks.values()), products)
        # A table may not be empty: -1 is the key of no pair.
        keys = [-1, *(a * self._size + b for a, b in pairs)]
        values = [self._no_merge, *ranks.values()]
        self._ranks = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(keys, tf.int64), tf.constant(values, tf.int32)
            ),
            default_value=self._no_merge,
        )

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def encode(self, text: tf.Tensor) -> tf.Tensor:
        """Token ids of one text, int32 of shape `(tokens,)`."""
        return self._encode(text[tf.newaxis]).values

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def encode_batch(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Token ids of texts, int32 of shape `(texts, None)`.

        Each different word is merged once a batch: large batches are faster.
        """
        return self._encode(texts)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def decode(self, token_ids: tf.Tensor) -> tf.Tensor:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD.

        Ids that are no token, such as a padding of -1, are left out.
        """
        row = tf.RaggedTensor.from_row_lengths(token_ids, [tf.size(token_ids)])
        return self._decode(row)[0]

    @tf.function(input_signature=[tf.RaggedTensorSpec([None, None], tf.int32)])
    def decode_batch(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        """Texts of token ids, as `decode`, of shape `(texts,)`.

        A dense batch is given as `tf.RaggedTensor.from_tensor(token_ids)`.
        """
        return self._decode(token_ids)

    def _encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        characters = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        rows = tf.cast(characters.value_rowids(), tf.int32)
        starts = word_starts(characters.values, rows, self._classes)
        words = tf.strings.unicode_encode(
            tf.RaggedTensor.from_row_starts(characters.values, starts), "UTF-8"
        )
        different, number = tf.unique(words)
        tokens = tf.gather(self._merge(different), number)  # (words, None)
        tokens_per_text = tf.math.unsorted_segment_sum(
            tokens.row_lengths(), tf.gather(rows, starts), tf.size(texts)
        )
        return tf.RaggedTensor.from_row_lengths(tokens.values, tokens_per_text)

    def _merge(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Token ids of words, all different: `(words,)` to `(words, None)`."""
        split = tf.strings.bytes_split(words)
        raw = tf.reshape(tf.io.decode_raw(split.values, tf.uint8), [-1])
        all_ids = tf.gather(self._byte_ids, tf.cast(raw, tf.int32))
        all_words = tf.cast(split.value_rowids(), tf.int32)
        none = tf.zeros([0], tf.int32)

        def step(
            ids: tf.Tensor, at: tf.Tensor, done: tf.Tensor, done_at: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            """Does the best merge of every word; words without one are done."""
            word = tf.gather(all_words, at)
            is_pair = word[:-1] == word[1:]
            key = tf.cast(ids[:-1], tf.int64) * self._size + tf.cast(ids[1:], tf.int64)
            found = tf.where(is_pair, self._ranks.lookup(key), self._no_merge)
            rank = tf.pad(found, [[0, 1]], constant_values=self._no_merge)
            best = tf.math.unsorted_segment_min(rank, word, tf.size(words))
            best = tf.gather(best, word)
            is_done = best == self._no_merge
            merges = self._without_overlap((rank == best) & ~is_done, word)
            product = tf.gather(self._products, tf.where(merges, rank, 0))
            ids = tf.where(merges, product, ids)
            stays = ~is_done & ~shift(merges, 1, False)
            return (
                tf.boolean_mask(ids, stays),
                tf.boolean_mask(at, stays),
                tf.concat([done, tf.boolean_mask(ids, is_done)], 0),
                tf.concat([done_at, tf.boolean_mask(at, is_done)], 0),
            )

        _, _, ids, at = tf.while_loop(
            lambda ids, *_: tf.size(ids) > 0,
            step,
            (all_ids, tf.range(tf.size(all_ids)), none, none),
            shape_invariants=(tf.TensorShape([None]),) * 4,
        )
        # Puts the tokens back in the order of the text.
        slots = tf.tensor_scatter_nd_update(
            tf.zeros_like(all_ids) - 1, at[:, None], ids
        )
        is_used = slots >= 0
        return tf.RaggedTensor.from_value_rowids(
            tf.boolean_mask(slots, is_used),
            tf.cast(tf.boolean_mask(all_words, is_used), tf.int64),
            nrows=tf.size(words, tf.int64),
        )

    def _without_overlap(self, chosen: tf.Tensor, word: tf.Tensor) -> tf.Tensor:
        """Keeps the first of pairs that share a token, as in `aaa`."""
        index = tf.range(tf.size(chosen))
        if not self._is_ordered:  # a merge may make a better one possible: one a step
            first = tf.where(chosen, index, tf.size(chosen))
            first = tf.math.unsorted_segment_min(first, word, tf.reduce_max(word) + 1)
            return index == tf.gather(first, word)
        is_start = chosen & ~shift(chosen, 1, False)
        starts = tf.concat([[0], tf.boolean_mask(index, is_start)], 0)
        offset = index - tf.gather(starts, tf.cumsum(tf.cast(is_start, tf.int32)))
        return chosen & (offset % 2 == 0)

    def _decode(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        is_token = (token_ids >= 0) & (token_ids < self._size)
        known = tf.ragged.boolean_mask(token_ids, is_token)
        text = tf.strings.reduce_join(tf.gather(self._token_bytes, known), axis=-1)
        return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def _is_ordered(
    pairs: list[tuple[int, int]], ranks: list[int], products: NDArray[np.int32]
) -> bool:
    """Whether both tokens of every merge are made by better merges only."""
    made_by: dict[int, int] = {}
    for rank in ranks:
        made_by[products[rank]] = max(rank, made_by.get(products[rank], -1))
    return all(
        made_by.get(token, -1) < rank
        for pair, rank in zip(pairs, ranks, strict=True)
        for token in pair
    )


def _bytes_of(token: str, characters: list[str]) -> bytes:
    """The bytes of a token; a token of other characters stands for itself."""
    if set(token) <= set(characters):
        return bytes(map(characters.index, token))
    return token.encode()
