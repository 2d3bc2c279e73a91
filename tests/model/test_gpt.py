from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import build_gpt
from spdf_keras.config import PRESETS, GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.model.fitting.loss import NextTokenCrossentropy


def keras_nlp_logits(model: Any, token_ids: np.ndarray) -> np.ndarray:
    """Logits of KerasNLP's GPT-2 with the model's weights."""
    import keras_nlp

    sizes = model.sizes
    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=sizes.vocabulary_size,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        hidden_dim=sizes.hidden_dim,
        intermediate_dim=sizes.intermediate_dim,
        max_sequence_length=sizes.max_sequence_length,
        dropout=0.0,
    )
    ours = {path: weight.numpy() for path, weight in model.named_weights().items()}

    def copy(target: Any, *paths: str) -> None:
        values = [ours.pop(path) for path in paths]
        shaped = zip(target.weights, values, strict=True)
        target.set_weights([value.reshape(w.shape) for w, value in shaped])

    copy(backbone.token_embedding, "embedding/token")
    copy(backbone.position_embedding, "embedding/position")
    copy(backbone.layer_norm, "final_norm/gamma", "final_norm/beta")
    for index, layer in enumerate(backbone.transformer_layers):
        attention = layer._self_attention_layer
        for target, name in (
            (attention._query_dense, "query"),
            (attention._key_dense, "key"),
            (attention._value_dense, "value"),
            (attention._output_dense, "attention_output"),
            (layer._feedforward_intermediate_dense, "intermediate"),
            (layer._feedforward_output_dense, "output"),
        ):
            copy(target, *(f"block_{index}/{name}/{w}" for w in ("kernel", "bias")))
        for target, name in (
            (layer._self_attention_layer_norm, "attention_norm"),
            (layer._feedforward_layer_norm, "feedforward_norm"),
        ):
            copy(target, *(f"block_{index}/{name}/{w}" for w in ("gamma", "beta")))
    assert not ours  # every weight has found its place
    inputs = {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)}
    return backbone.token_embedding(backbone(inputs), reverse=True).numpy()


@pytest.mark.parametrize("sparsity", [0.0, 0.75])
def test_logits_equal_those_of_kerasnlps_gpt2(tiny: GPTConfig, sparsity: float) -> None:
    model = build_gpt(tiny, sparsity)
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:  # biases and gammas that matter
        noise = rng.normal(0, 0.1, weight.shape)
        weight.assign_add(tf.cast(noise, tf.float32) * tf.cast(weight != 0, tf.float32))
        if len(weight.shape) == 1:
            weight.assign_add(rng.normal(0, 0.1, weight.shape).astype(np.float32))
    token_ids = rng.integers(0, 512, (2, 64)).astype(np.int32)
    logits = model(token_ids).numpy()
    expected = keras_nlp_logits(model, token_ids)
    assert np.abs(expected).max() > 1
    # float32 sums of 64 to 256 terms in another order, two blocks deep.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("preset", "row"),
    [
        ("gpt2_small", (12, 768, 12, 64, 256, 6e-4)),
        ("gpt3_xl", (24, 2048, 16, 128, 512, 2e-4)),
    ],
)
def test_presets_are_table_1(preset: str, row: tuple[float, ...]) -> None:
    model, train = PRESETS[preset].model, PRESETS[preset].train
    head_dim = model.hidden_dim // model.num_heads
    sizes = (model.num_layers, model.hidden_dim, model.num_heads, head_dim)
    assert (*sizes, train.batch_size, train.learning_rate) == row
    assert model.intermediate_dim == 4 * model.hidden_dim
    assert (model.vocabulary_size, model.max_sequence_length) == (50257, 2048)
    assert (train.beta_1, train.beta_2, train.epsilon) == (0.9, 0.999, 1e-8)
    assert (train.weight_decay, train.clip_norm) == (0.1, 1.0)
    assert (train.warmup_tokens, train.final_learning_rate) == (375_000_000, 0.1)


def test_parameter_counts_are_those_of_table_1_and_of_the_built_model() -> None:
    counts = {name: preset.model.num_parameters for name, preset in PRESETS.items()}
    assert counts["gpt2_small"] == 125_226_240
    assert counts["gpt3_xl"] == 1_315_723_264
    assert counts["gpt_nano"] == pytest.approx(1e6, rel=0.15)
    assert counts["gpt_mini"] == pytest.approx(1e7, rel=0.15)
    model = build_gpt("gpt_nano", 0.5)
    built = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert built == counts["gpt_nano"]
    assert model.sizes == PRESETS["gpt_nano"].model


def test_initial_weights_are_truncated_normals_of_the_papers_width() -> None:
    named = build_gpt("gpt_nano").named_weights()
    # A normal cut at two deviations keeps 0.8796 of its deviation.
    for path, std in (
        ("block_1/query/kernel", 0.02),
        ("block_1/intermediate/kernel", 0.02),
        ("block_1/attention_output/kernel", 0.02 / 8**0.5),
        ("block_1/output/kernel", 0.02 / 8**0.5),
        ("embedding/token", 0.02),
        ("embedding/position", 0.02),
    ):
        weight = named[path].numpy()
        assert weight.std() == pytest.approx(0.8796 * std, rel=0.03)
        assert np.abs(weight).max() <= 2 * std
    kernels = [w.numpy().ravel()[:64] for p, w in named.items() if "kernel" in p]
    assert len({k.tobytes() for k in kernels}) == len(kernels)


def test_a_seed_gives_the_same_model_and_another_seed_another(tiny: GPTConfig) -> None:
    a, b, c = (build_gpt(tiny, 0.5, seed=seed) for seed in (1, 1, 2))
    for path, weight in a.named_weights().items():
        np.testing.assert_array_equal(weight, b.named_weights()[path])
    query = "block_0/query/kernel"
    assert np.any(a.named_weights()[query].numpy() != c.named_weights()[query].numpy())


def test_a_token_sees_no_later_token(tiny: GPTConfig) -> None:
    model = build_gpt(tiny, 0.5)
    token_ids = np.arange(32, dtype=np.int32)[None]
    changed = token_ids.copy()
    changed[0, 20:] = 99
    a, b = model(token_ids).numpy(), model(changed).numpy()
    np.testing.assert_array_equal(a[:, :20], b[:, :20])
    assert np.abs(a[:, 20:] - b[:, 20:]).min(axis=-1).max() > 0


def test_attention_is_not_fused_into_the_slow_product(tiny: GPTConfig) -> None:
    # TensorFlow's fused batch product with a sum is 90 times slower on a CPU.
    from tensorflow.python.eager import context

    model = build_gpt(tiny, 0.5)
    forward = tf.function(lambda token_ids: model(token_ids, training=False))
    context.enable_run_metadata()
    try:
        forward(tf.zeros((2, 16), tf.int32))
        metadata = context.export_run_metadata()
    finally:
        context.disable_run_metadata()
    nodes = [
        node.op
        for graphs in metadata.function_graphs
        for part in (graphs.post_optimization_graph,)
        for node in (
            *part.node,
            *(n for f in part.library.function for n in f.node_def),
        )
    ]
    assert nodes.count("BatchMatMulV2") >= 4
    assert not [op for op in nodes if "FusedBatchMatMul" in op]


def test_the_loss_is_the_mean_over_weighted_tokens(tiny: GPTConfig) -> None:
    model = build_gpt(tiny)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 512, (2, 6, 8)).astype(np.int32)
    w = rng.random((6, 8)).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, y, w)).batch(4)  # 4 and 2 rows
    loss = model.evaluate(data, verbose=0)
    logits = model(x).numpy().astype(np.float64)
    nll = (
        np.log(np.exp(logits).sum(-1))
        - np.take_along_axis(logits, y[..., None], -1)[..., 0]
    )
    assert loss == pytest.approx((nll * w).sum() / w.sum(), rel=1e-5)


def test_label_smoothing_is_that_of_the_lora_recipe() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 7)).astype(np.float32)
    labels = rng.integers(0, 7, (2, 3))
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    nll = -np.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    expected = 0.9 * nll + 0.1 * -log_p.mean(-1)
    smoothed = NextTokenCrossentropy(0.1).call(labels, tf.constant(logits))
    np.testing.assert_allclose(smoothed, expected, rtol=1e-5)


def test_training_lowers_the_loss(
    tiny: GPTConfig, token_batches: Callable[..., Any]
) -> None:
    model = build_gpt(tiny, 0.75, warmup_tokens=0, learning_rate=3e-3)
    data = token_batches(4).repeat(15)
    model.fit(data, verbose=0)
    assert model.evaluate(token_batches(4), verbose=0) < 4.0  # from log(512) = 6.24


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: build_gpt("gpt5"), "Unknown preset 'gpt5'. Known: gpt_nano, gpt_mini"),
        (lambda: build_gpt("gpt_nano", 1.0), r"`sparsity` must be in \[0, 1\)"),
        (lambda: build_gpt("gpt_nano", lr=1), "Unknown setting `train.lr`. Known here"),
        (lambda: build_gpt("gpt_nano", seed="x"), "`train.seed` must be int"),
        (
            lambda: build_gpt(3),  # type: ignore[arg-type]
            "`model` must be a preset's name or a GPTConfig",
        ),
    ],
)
def test_a_wrong_argument_is_refused(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make()


def test_a_dataset_that_does_not_fit_is_refused(
    tiny: GPTConfig, token_batches: Callable[..., Any]
) -> None:
    model = build_gpt(tiny)
    with pytest.raises(InputError, match="at most max_sequence_length=64 long.*65"):
        model.fit(token_batches(1, length=65))
    with pytest.raises(InputError, match="elements of TensorSpec"):
        model.fit(tf.data.Dataset.from_tensors(tf.zeros((2, 4), tf.int32)))
    with pytest.raises(InputError, match=r"Call `dataset.batch\(...\)` first"):
        model.fit(token_batches(1).unbatch())
    with pytest.raises(InputError, match="Received: length 65"):
        model(np.zeros((1, 65), np.int32))


def test_numpys_numbers_build_the_model_of_pythons() -> None:
    sizes: list[Any] = [np.int64(1), np.float64(2), np.uint8(16), 0]
    context: Any = {"vocabulary_size": 3e1, "max_sequence_length": np.array(8)}
    settings: Any = {
        "sparsity": np.float32(0.75),
        "mask_seed": np.float64(3),
        "seed": np.int32(1),
        "tokens": 1e6,
        "learning_rate": np.float64(1e-3),
    }
    model = build_gpt(GPTConfig(*sizes, **context), **settings)
    plain = build_gpt(
        GPTConfig(1, 2, 16, vocabulary_size=30, max_sequence_length=8),
        0.75,
        mask_seed=3,
        seed=1,
        tokens=10**6,
        learning_rate=1e-3,
    )
    for one, other in zip(model.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.get_config() == plain.get_config()
    numbers: Any = {"max_new_tokens": np.int64(3), "num_beams": np.float32(2)}
    assert model.generate([[1]], **numbers) == plain.generate([[1]], 3, num_beams=2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"learning_rate": float("inf")}, "`learning_rate` must be finite"),
        ({"learning_rate": np.float32("nan")}, "`learning_rate` must be positive"),
        ({"tokens": 1.5}, "`train.tokens` must be int. Received: 1.5"),
        ({"mask_seed": -1}, "`mask_seed` must be at least 0"),
        ({"mask_seed": 0.5}, "`mask_seed` must be int"),
        ({"sparsity": np.float32("nan")}, r"`sparsity` must be in \[0, 1\)"),
    ],
)
def test_a_setting_that_is_no_number_is_refused(settings: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build_gpt("gpt_nano", **settings)
