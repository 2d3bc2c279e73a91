"""KerasNLP's GPT-2, compiled for the training that `build_gpt` is compiled for."""

from typing import Any


def compiled_gpt2(sizes: Any, jit_compile: bool) -> Any:
    """Builds and compiles `GPT2CausalLM` of the sizes of a `GPTConfig`, no dropout.

    Its inputs are `token_ids` and `padding_mask`, each `(batch, length)`.
    """
    from spdf_keras.keras2 import keras

    import keras_nlp  # isort: skip

    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=sizes.vocabulary_size,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        hidden_dim=sizes.hidden_dim,
        intermediate_dim=sizes.intermediate_dim,
        dropout=0.0,
        max_sequence_length=sizes.max_sequence_length,
    )
    model = keras_nlp.models.GPT2CausalLM(backbone)
    model.compile(
        keras.optimizers.AdamW(6e-4, weight_decay=0.1, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return model
