"""KerasNLP's GPT-2 tokenizer from ours, and ours from it."""

from typing import Any

from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.keras2 import refuse_keras3


def from_keras_nlp_tokenizer(tokenizer: Any) -> Tokenizer:
    """Returns the tokenizer of a `GPT2Tokenizer`: its vocabulary and its merges.

    The two differ in a few texts: KerasNLP cuts a final empty line in two, takes 15
    white-space characters for other kinds, and takes the text `<|endoftext|>` for the
    token.

    Args:
        tokenizer: A `keras_nlp.models.GPT2Tokenizer`, or a model or preprocessor that
            has one.

    Raises:
        InputError: If there is none, or it adds a space before each text.
    """
    refuse_keras3(tokenizer=tokenizer)
    for name in ("preprocessor", "tokenizer"):
        tokenizer = getattr(tokenizer, name, tokenizer)
    if getattr(tokenizer, "merges", None) is None:
        raise InputError(
            "`tokenizer` must be a GPT2Tokenizer with a vocabulary, or have one. "
            f"Received: {type(tokenizer).__name__}. Give the model a preprocessor."
        )
    if getattr(tokenizer, "add_prefix_space", False):
        raise InputError(
            "`tokenizer` must add no space before a text. Received: a tokenizer with "
            "add_prefix_space=True."
        )
    lines = [line for line in tokenizer.merges if not line.startswith("#version")]
    merges = [(first, second) for first, _, second in (m.partition(" ") for m in lines)]
    return Tokenizer(dict(tokenizer.vocabulary), merges)


def to_keras_nlp_tokenizer(tokenizer: Tokenizer) -> Any:
    """Returns the `keras_nlp.models.GPT2Tokenizer` of a tokenizer.

    It runs inside TensorFlow graphs, through tensorflow-text.

    Args:
        tokenizer: The tokenizer.
    """
    from keras_nlp.models import GPT2Tokenizer

    merges = [" ".join(pair) for pair in tokenizer.merges]
    return GPT2Tokenizer(vocabulary=tokenizer.vocabulary, merges=merges)
