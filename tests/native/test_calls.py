"""Products in functions that XLA compiles, on the CPU."""

import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import GPTConfig, build_gpt
from spdf_keras.kernels import CompiledKernel, skipping_kernel
from spdf_keras.native.build import NotBuiltError
from spdf_keras.native.tensorflow.calls import is_compiled
from spdf_keras.native.tensorflow.operations import load_operations

DTYPES = ("float32", "bfloat16")


@pytest.fixture(scope="module", autouse=True)
def operations() -> Any:
    try:
        return load_operations()
    except NotBuiltError as error:
        pytest.skip(str(error))


def drawn(tokens: int, columns: int, rows: int, dtype: str, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    mask = random.random((columns, rows)) >= 0.75
    mask[:, 0], mask[:, rows - 1] = False, True  # an empty and a full output
    mask[0] = False
    return {
        "x": tf.cast(random.normal(size=(tokens, columns)), dtype),
        # Not zero where the mask is: nobody may read these.
        "kernel": tf.constant(random.normal(size=(columns, rows)), tf.float32),
        "mask": tf.constant(mask),
        "bias": tf.cast(random.normal(size=rows), dtype),
        "dy": tf.cast(random.normal(size=(tokens, rows)), dtype),
    }


def step(
    x: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, bias: tf.Tensor, dy: tf.Tensor
) -> dict[str, tf.Tensor]:
    """The product and all of its gradients."""
    sources = {"x": x, "kernel": kernel, "bias": bias}
    with tf.GradientTape() as tape:
        tape.watch(sources)
        laid_out = skipping_kernel(kernel, mask, x.dtype)
        assert isinstance(laid_out, CompiledKernel) == is_compiled()
        y = laid_out.linear(x, bias)
    return {"y": y, **tape.gradient(y, sources, dy)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 5, 3), (33, 70, 90), (130, 64, 17)])
def test_compiled_products_are_those_of_the_graph_to_the_bit(
    sizes: tuple[int, int, int], dtype: str
) -> None:
    arguments = drawn(*sizes, dtype)
    expected = tf.function(step)(**arguments)
    received = tf.function(step, jit_compile=True)(**arguments)
    # XLA adds up the gradient of a bias in another order.
    bias = expected.pop("bias"), received.pop("bias")
    for name, value in expected.items():
        assert value.dtype == received[name].dtype
        np.testing.assert_array_equal(value, received[name], err_msg=name)
    right, found = (tf.cast(part, tf.float32).numpy() for part in bias)
    scale = np.abs(right).max()
    rtol = 1e-6 if dtype == "float32" else 2**-6
    np.testing.assert_allclose(found, right, rtol=0, atol=rtol * scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_products_are_exact_within_their_rounding(dtype: str) -> None:
    arguments = drawn(40, 96, 80, dtype, seed=1)
    received = tf.function(step, jit_compile=True)(**arguments)
    x, kernel, mask, bias, dy = (
        np.asarray(tf.cast(arguments[name], "float64"))
        for name in ("x", "kernel", "mask", "bias", "dy")
    )
    if dtype == "bfloat16":
        kernel = np.asarray(tf.cast(tf.cast(kernel, dtype), "float64"))
    expected = {
        "y": x @ (kernel * mask) + bias,
        "x": dy @ (kernel * mask).T,
        "kernel": (x.T @ dy) * mask,
        "bias": dy.sum(0),
    }
    for name, right in expected.items():
        # Sums of up to 96 products; the kernel's gradient is float32 in any case.
        is_wide = dtype == "float32" or name == "kernel"
        rounding = 2**-20 if is_wide else 2**-7
        found = np.asarray(tf.cast(received[name], "float64"))
        np.testing.assert_allclose(
            found, right, rtol=0, atol=rounding * np.abs(right).max(), err_msg=name
        )
    assert not np.any(received["kernel"].numpy()[mask == 0])


def test_the_number_of_tokens_may_be_unknown_until_the_compilation() -> None:
    arguments = drawn(7, 24, 40, "float32")
    kinds = {
        name: tf.TensorSpec(
            (None, *value.shape[1:]) if name in ("x", "dy") else value.shape,
            value.dtype,
        )
        for name, value in arguments.items()
    }
    compiled = tf.function(step, jit_compile=True, input_signature=list(kinds.values()))
    for tokens in (7, 3, 7):
        few = {
            **arguments,
            "x": arguments["x"][:tokens],
            "dy": arguments["dy"][:tokens],
        }
        expected = step(**few)
        for name, value in compiled(*few.values()).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)


def test_one_compiled_function_takes_any_mask() -> None:
    compiled = tf.function(step, jit_compile=True)
    for seed in (0, 1, 0):
        arguments = drawn(9, 20, 30, "float32", seed)
        expected = step(**arguments)
        np.testing.assert_array_equal(
            compiled(**arguments)["kernel"], expected["kernel"]
        )
    assert compiled.experimental_get_tracing_count() == 1


def test_a_compiled_loop_multiplies_in_each_round() -> None:
    arguments = drawn(4, 16, 16, "float32")
    x, kernel, mask, bias, _ = arguments.values()

    def thrice(x: tf.Tensor) -> tf.Tensor:
        product = skipping_kernel(kernel, mask).linear
        for _ in tf.range(3):
            x = product(x, bias) / 8
        return x

    np.testing.assert_array_equal(
        tf.function(thrice, jit_compile=True)(x), tf.function(thrice)(x)
    )


def test_a_bias_that_does_not_fit_is_refused() -> None:
    arguments = drawn(4, 16, 16, "float32")
    arguments["bias"] = tf.zeros(15)
    told = re.escape("`bias` does not fit the kernel (16, 16). Received: (15).")
    with pytest.raises(tf.errors.InvalidArgumentError, match=told):
        tf.function(step, jit_compile=True)(**arguments)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"precision": "mixed_bfloat16"}, marks=pytest.mark.slow),
        pytest.param({"recompute": True}, marks=pytest.mark.slow),
        pytest.param({"micro_batches": 4}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_compiled_training_skips_zeros_and_gives_the_masked_losses(
    settings: dict[str, Any],
) -> None:
    sizes = GPTConfig(1, 2, 32, vocabulary_size=64, max_sequence_length=16)
    random = np.random.default_rng(0)
    tokens = random.integers(0, 64, (8, 9), dtype=np.int32)
    losses = []
    for compute in ("dense", "sparse"):
        model = build_gpt(
            sizes,
            0.75,
            seed=1,
            learning_rate=1e-2,
            warmup_tokens=0,
            jit_compile=True,
            compute=compute,
            **settings,
        )
        assert bool(model.sparse_kernels) == (compute == "sparse")
        took = [
            model.train_on_batch(tokens[:, :-1], tokens[:, 1:], return_dict=True)
            for _ in range(5)
        ]
        losses.append([float(logs["batch_loss"]) for logs in took])
        weights = model.named_weights()
        for path, mask in model.named_masks().items():
            assert not np.any(weights[path].numpy()[~mask.numpy()])
    # Another order of sums, through five steps of Adam; bfloat16 has 8 bits.
    rtol = 5e-3 if "precision" in settings else 2e-5
    np.testing.assert_allclose(losses[1], losses[0], rtol=rtol)
    assert losses[0][-1] < losses[0][0]
