import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import GPTConfig, build_gpt
from spdf_keras.model.binding import bound, skeleton


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("training", [False, True])
def test_bound_tensors_give_the_bits_of_the_models_own_weights(
    tiny: GPTConfig, precision: str, training: bool
) -> None:
    model = build_gpt(tiny, precision=precision)
    for weight in model.trainable_variables:
        weight.assign_add(np.random.default_rng(0).normal(0, 0.1, weight.shape))
    weights = {path: w.numpy() for path, w in model.named_weights().items()}
    token_ids = tf.constant(np.random.default_rng(1).integers(512, size=(2, 9)))
    empty = skeleton(tiny, precision)
    with bound(empty, weights):
        logits = empty(token_ids, training=training)
    np.testing.assert_array_equal(logits, model(token_ids, training=training))


def test_weights_come_back_and_layers_are_bound_one_by_one(tiny: GPTConfig) -> None:
    model = build_gpt(tiny)
    before = model.named_weights()
    zeros = {
        path: tf.zeros(weight.shape)
        for path, weight in before.items()
        if path.startswith("block_1/")
    }
    x = tf.random.normal((1, 3, tiny.hidden_dim))
    with pytest.raises(ZeroDivisionError), bound(model, zeros):
        np.testing.assert_array_equal(model.blocks[1](x), x)
        assert np.abs(model.blocks[0](x) - x).max() > 0
        raise ZeroDivisionError
    after = model.named_weights()
    assert all(after[path] is weight for path, weight in before.items())


def test_gradients_reach_what_is_bound(tiny: GPTConfig) -> None:
    model, empty = build_gpt(tiny), skeleton(tiny)
    weights = {p: tf.constant(w.numpy()) for p, w in model.named_weights().items()}
    token_ids = tf.constant([[1, 2, 3]])
    with tf.GradientTape() as tape:
        tape.watch(weights)
        with bound(empty, weights):
            loss = tf.reduce_mean(empty(token_ids, training=True) ** 2)
    received = tape.gradient(loss, weights)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(token_ids, training=True) ** 2)
    expected = tape.gradient(loss, model.named_weights())
    for path, gradient in expected.items():
        np.testing.assert_allclose(
            tf.convert_to_tensor(received[path]),
            tf.convert_to_tensor(gradient),
            rtol=1e-5,
            atol=1e-7,
        )


def test_a_skeleton_of_any_size_takes_no_memory_for_weights() -> None:
    # 100 layers of this width would take 80 GB.
    sizes = GPTConfig(100, 64, 4096, vocabulary_size=16, max_sequence_length=8)
    assert len(skeleton(sizes).blocks) == 100
