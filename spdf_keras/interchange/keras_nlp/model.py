"""Makes KerasNLP's GPT-2 out of a GPT."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.adapters.adapter import refuse_adapter
from spdf_keras.config import GPTConfig
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.interchange.keras_nlp.tokenizer import to_keras_nlp_tokenizer
from spdf_keras.interchange.keras_nlp.weights import backbone_variables
from spdf_keras.model.gpt import GPT

# The constants of KerasNLP's GPT-2.
_EPSILON, _ACTIVATION = 1e-5, "gelu_new"


def to_keras_nlp(model: GPT, tokenizer: Tokenizer | None = None) -> Any:
    """Makes a `keras_nlp.models.GPT2CausalLM` with the weights of a model.

    Masks are folded into the weights: the zeros stay, and training there would fill
    them. Its `generate` puts `<|endoftext|>` before each text, which ours does not.

    Args:
        model: The model.
        tokenizer: Its tokenizer, for a preprocessor; without one, the model takes
            token ids.

    Raises:
        InputError: If KerasNLP's GPT-2 cannot compute what the model does, or the model
            has an adapter.
    """
    if not isinstance(model, GPT):
        raise InputError(
            f"`model` must be a GPT of this package. Received: {type(model).__name__}."
        )
    refuse_adapter(model)
    weights, masks = model.named_weights(), model.named_masks()

    def read(path: str) -> NDArray[np.float32]:
        value = weights[path].numpy()
        return value * masks[path].numpy() if path in masks else value

    return keras_nlp_model(model.sizes, read, tokenizer)


def check_sizes(sizes: GPTConfig) -> None:
    """Refuses a model that KerasNLP's GPT-2 cannot compute.

    Raises:
        InputError: If its activation or its epsilon is another.
    """
    for name, only in (
        ("activation", _ACTIVATION),
        ("layer_norm_epsilon", _EPSILON),
    ):
        if getattr(sizes, name) != only:
            raise InputError(
                f"`{name}` must be {only} for KerasNLP, whose GPT-2 has no other. "
                f"Received: a model with {name}={getattr(sizes, name)}. Hugging Face's "
                "layout has it: --format huggingface."
            )


def keras_nlp_model(
    sizes: GPTConfig,
    read: Callable[[str], NDArray[np.float32]],
    tokenizer: Tokenizer | None = None,
) -> Any:
    """Makes a `GPT2CausalLM` of weights that are read one by one.

    Args:
        sizes: Sizes of the model.
        read: Reads a weight by its path.
        tokenizer: As in `to_keras_nlp`; so are the errors.
    """
    from keras_nlp.models import (
        GPT2Backbone,
        GPT2CausalLM,
        GPT2CausalLMPreprocessor,
    )

    check_sizes(sizes)
    backbone = GPT2Backbone(
        vocabulary_size=sizes.vocabulary_size,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        hidden_dim=sizes.hidden_dim,
        intermediate_dim=sizes.intermediate_dim,
        max_sequence_length=sizes.max_sequence_length,
        dropout=0.0,
        dtype="float32",
    )
    for path, variable in backbone_variables(backbone).items():
        variable.assign(read(path).reshape(variable.shape))
    preprocessor = None
    if tokenizer is not None:
        preprocessor = GPT2CausalLMPreprocessor(
            to_keras_nlp_tokenizer(tokenizer),
            sequence_length=sizes.max_sequence_length,
        )
    return GPT2CausalLM(backbone, preprocessor)
