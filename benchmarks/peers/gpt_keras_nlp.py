"""KerasNLP's GPT-2, compiled for the training that `build_gpt` is compiled for."""

import functools
from typing import Any


def compiled_gpt2(sizes: Any, jit_compile: bool, in_parts: bool = False) -> Any:
    """Builds and compiles `GPT2CausalLM` of the sizes of a `GPTConfig`, no dropout.

    Its inputs are `token_ids` and `padding_mask`, each `(batch, length)`. KerasNLP has
    no micro-batches: with `in_parts`, a loop of ours takes a sequence at a time.
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
    kind = _in_parts() if in_parts else keras_nlp.models.GPT2CausalLM
    model = kind(backbone)
    model.compile(
        keras.optimizers.AdamW(6e-4, weight_decay=0.1, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return model


@functools.cache
def _in_parts() -> Any:
    import keras_nlp

    import tensorflow as tf  # isort: skip

    class GPT2InParts(keras_nlp.models.GPT2CausalLM):
        def train_step(self, data: Any) -> dict[str, Any]:
            inputs, labels = data
            variables = self.trainable_variables

            def add(index: Any, loss: Any, sums: Any) -> Any:
                part = {name: tensor[index, None] for name, tensor in inputs.items()}
                with tf.GradientTape() as tape:
                    logits = self(part, training=True)
                    more = self.loss(labels[index, None], logits) / len(labels)
                gradients = map(tf.convert_to_tensor, tape.gradient(more, variables))
                added = [a + b for a, b in zip(sums, gradients, strict=True)]
                return index + 1, loss + tf.cast(more, loss.dtype), added

            _, loss, gradients = tf.while_loop(
                lambda index, *_: index < len(labels),
                add,
                (0, 0.0, [tf.zeros(v.shape) for v in variables]),
                maximum_iterations=len(labels),
                parallel_iterations=1,
            )
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return {"loss": loss}

    return GPT2InParts
