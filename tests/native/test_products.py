from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from spdf_keras import GPTConfig, build_gpt, load_model, strip
from spdf_keras.errors import InputError
from spdf_keras.native import build
from spdf_keras.native.build import library_path
from spdf_keras.native.tensorflow import operations as operations_module
from spdf_keras.native.tensorflow.operations import load_operations
from spdf_keras.native.tensorflow.products import (
    gelu,
    keep,
    lay_out,
    sparse_linear,
)
from spdf_keras.sparsity import skipping
from spdf_keras.sparsity.audit import audit_masks

pytestmark = pytest.mark.usefixtures("operations")


def drawn(
    tokens: int, columns: int, rows: int, sparsity: float, seed: int = 0
) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    mask = random.random((columns, rows)) >= sparsity
    mask[:, seed % rows] = seed % 2  # a full and an empty output
    mask[seed % columns] = seed // 2 % 2  # and input
    return {
        "x": random.normal(size=(tokens, columns)).astype(np.float32),
        # Not zero where the mask is: nobody may read these.
        "kernel": random.normal(size=(columns, rows)).astype(np.float32),
        "mask": mask,
        "bias": random.normal(size=rows).astype(np.float32),
    }


def product(
    x: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor, bias: tf.Tensor
) -> tf.Tensor:
    """Computes all three steps in the dtype of `x`."""
    kept = keep(kernel, mask)
    return sparse_linear(x, kept.values, lay_out(kept, x.dtype), bias)


def assert_right(given: dict[str, Any], seed: int = 0, dtype: str = "float32") -> None:
    dy = np.random.default_rng(seed).normal(size=(len(given["x"]), len(given["bias"])))
    slope = tf.cast(dy, dtype)
    inputs = {name: tf.constant(value) for name, value in given.items()}
    for name in ("x", "bias"):
        inputs[name] = tf.cast(inputs[name], dtype)
    with tf.GradientTape() as tape:
        tape.watch([inputs[n] for n in ("x", "kernel", "bias")])
        y = product(**inputs)
    kept = keep(inputs["kernel"], inputs["mask"])
    layout = lay_out(kept, dtype, gradients=False)
    without = sparse_linear(inputs["x"], tf.zeros(0), layout, inputs["bias"])
    np.testing.assert_array_equal(tf.cast(without, "float32"), tf.cast(y, "float32"))
    received = tape.gradient(y, [inputs[n] for n in ("x", "kernel", "bias")], slope)
    # The reference is of the rounded numbers, which products get.
    rounded = {name: tf.cast(value, dtype) for name, value in inputs.items()}
    x, kernel, mask, bias = (
        tf.cast(rounded[n], "float64").numpy() for n in ("x", "kernel", "mask", "bias")
    )
    dy = tf.cast(slope, "float64").numpy()
    masked = kernel * mask
    expected = [
        (y, x @ masked + bias, np.abs(x) @ np.abs(masked) + np.abs(bias)),
        (received[0], dy @ masked.T, np.abs(dy) @ np.abs(masked).T),
        (received[1], mask * (x.T @ dy), np.abs(x).T @ np.abs(dy)),
        (received[2], dy.sum(0), np.abs(dy).sum(0)),
    ]
    for result, right, scale in expected:
        # A float32 sum of n terms is off by at most n halves of its last bit, and a
        # result in bfloat16 by half of its own last bit.
        terms = sum(x.shape) + len(bias)
        bound = 6e-8 * terms * scale + 1e-7
        if result.dtype == tf.bfloat16:
            bound = bound + 2.0**-8 * np.abs(right)
        assert np.all(np.abs(tf.cast(result, "float64") - right) <= bound)
    assert not received[1].numpy()[~given["mask"]].any()


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.one_of(st.integers(1, 40), st.integers(60, 140)),
    columns=st.one_of(st.integers(1, 9), st.integers(90, 300)),
    rows=st.one_of(st.integers(1, 9), st.integers(30, 280)),
    sparsity=st.sampled_from([0.0, 0.5, 0.75, 0.9, 1.0]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_products_and_gradients_equal_float64_for_any_shape(
    tokens: int, columns: int, rows: int, sparsity: float, seed: int, dtype: str
) -> None:
    assert_right(drawn(tokens, columns, rows, sparsity, seed), seed, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75, 0.95, 1.0])
def test_each_instruction_set_is_right(
    instruction_set: str, sparsity: float, dtype: str
) -> None:
    for tokens, columns, rows in (
        (1, 5, 3),
        (8, 260, 130),
        (20, 40, 140),
        (70, 200, 37),
        (2200, 33, 18),
    ):
        assert_right(drawn(tokens, columns, rows, sparsity), dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gelu_equals_float64(instruction_set: str, dtype: str) -> None:
    random = np.random.default_rng(0)
    numbers = np.concatenate(
        [random.normal(size=1001) * 3, [0, -0.0, 1e-30, -200, 200, 40000, -40000]]
    )
    x, dy = (tf.cast(v, dtype) for v in (numbers, random.normal(size=numbers.size)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = gelu(x)
    wide = tf.Variable(tf.cast(x, "float64"))
    with tf.GradientTape() as reference:
        right = tf.nn.gelu(wide, approximate=True)
    slope = reference.gradient(right, wide, tf.cast(dy, "float64"))
    last_bit = 2.0**-8 if dtype == "bfloat16" else 2e-6
    for result, expected in ((y, right), (tape.gradient(y, x, dy), slope)):
        result = tf.cast(result, "float64")
        np.testing.assert_allclose(result, expected, rtol=last_bit, atol=1e-6)
    assert np.isnan(tf.cast(gelu(tf.cast([np.nan], dtype)), "float32"))


def test_no_tokens_have_no_gradient() -> None:
    given = {name: tf.constant(value) for name, value in drawn(3, 8, 6, 0.5).items()}
    x, kernel = given["x"][:0], given["kernel"]
    with tf.GradientTape() as tape:
        tape.watch((x, kernel))
        y = product(x, kernel, given["mask"], given["bias"])
    to_inputs, to_kernel = tape.gradient(y, (x, kernel))
    assert y.shape == (0, 6) and to_inputs.shape == (0, 8)
    np.testing.assert_array_equal(to_kernel, np.zeros((8, 6)))


def test_a_mask_that_changes_is_seen() -> None:
    given = drawn(4, 8, 8, 0.5)
    mask = tf.Variable(given["mask"])
    compute = tf.function(
        lambda: product(given["x"], given["kernel"], mask, given["bias"])
    )
    for seed in range(3):
        now = np.random.default_rng(seed).random((8, 8)) < 0.5
        mask.assign(now)
        expected = given["x"] @ (given["kernel"] * now) + given["bias"]
        np.testing.assert_allclose(compute(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("x", (3, 5)), ("kernel", (4, 5)), ("mask", (4,)), ("bias", (5,)), ("x", (4,))],
)
def test_wrong_shapes_are_refused(name: str, shape: tuple[int, ...]) -> None:
    given = drawn(3, 4, 6, 0.5)
    given[name] = np.zeros(shape, given[name].dtype)
    with pytest.raises(
        (tf.errors.InvalidArgumentError, ValueError), match="must be .*Received|rank"
    ):
        product(**{n: tf.constant(v) for n, v in given.items()})


def test_what_does_not_fit_a_layout_is_refused() -> None:
    run = load_operations()
    x, kernel, mask, bias = (tf.constant(v) for v in drawn(3, 4, 6, 0.5).values())
    kept = keep(kernel, mask)
    layout = lay_out(kept)
    refused = pytest.raises(tf.errors.InvalidArgumentError, match="must .*")
    for call in (
        lambda: run.spdf_sparse_linear_gradient(x, layout, x),
        lambda: run.spdf_sparse_linear_gradient(
            x, lay_out(kept, gradients=False), tf.zeros((3, 6))
        ),
        lambda: sparse_linear(x, kept.values, lay_out(kept, "bfloat16"), bias),
        lambda: sparse_linear(x, kept.values, kept.index, bias),
        lambda: lay_out(kept._replace(values=kept.values[1:])),
        lambda: lay_out(kept._replace(index=layout)),
        lambda: run.spdf_spread(kept.values[1:], kept.index),
        lambda: run.spdf_keep(kernel, layout),
    ):
        with refused:
            call()


def losses(model: Any, batches: Any, steps: int) -> list[float]:
    history = model.fit(batches, epochs=1, steps_per_epoch=steps, verbose=0)
    assert len(history.history["loss"]) == 1
    return [history.history["loss"][0], history.history["batch_loss"][0]]


@pytest.mark.parametrize("steps", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_training_skips_zeros_and_stays_what_it_was(
    tiny: GPTConfig, token_batches: Any, steps: int
) -> None:
    settings: dict[str, Any] = {"learning_rate": 1e-3, "warmup_tokens": 640}
    dense = build_gpt(tiny, 0.75, seed=1, **settings)
    sparse = build_gpt(tiny, 0.75, seed=1, compute="sparse", **settings)
    assert sparse.sparse_kernels == list(sparse.named_masks())
    assert dense.sparse_kernels == []
    batches = token_batches(steps)
    expected, received = (losses(m, batches, steps) for m in (dense, sparse))
    np.testing.assert_allclose(received, expected, rtol=1e-5)
    assert all(report.violations == 0 for report in audit_masks(sparse))
    prompts = [[1, 2, 3], [4]]
    assert sparse.generate(prompts, 8) == dense.generate(prompts, 8)


def test_the_choice_is_saved_and_stripped(tiny: GPTConfig, tmp_path: Path) -> None:
    model = build_gpt(tiny, 0.75, compute="sparse")
    model.save(tmp_path / "m.keras")
    loaded = load_model(tmp_path / "m.keras")
    assert [layer.compute for layer in loaded.blocks] == ["sparse", "sparse"]
    token_ids = tf.constant([[1, 2, 3]])
    np.testing.assert_array_equal(loaded(token_ids), model(token_ids))
    dense = strip(model)
    np.testing.assert_allclose(dense(token_ids), model(token_ids), atol=1e-5)


def test_what_sparse_products_cannot_do_is_refused(tiny: GPTConfig) -> None:
    with pytest.raises(InputError, match="`compute` must be dense unless precision is"):
        build_gpt(tiny, 0.75, compute="sparse", precision="mixed_float16")
    with pytest.raises(InputError, match="one of dense, sparse, auto"):
        build_gpt(tiny, 0.75, compute="fast")


@pytest.mark.parametrize(
    ("compiler", "told"),
    [("no-such-compiler", "need a C..17 compiler"), ("false", "has failed")],
)
def test_without_a_compiler_products_are_dense_with_one_line(
    tiny: GPTConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiler: str,
    told: str,
) -> None:
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("SPDF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        skipping, "load_operations", operations_module.load_operations.__wrapped__
    )
    with pytest.warns(UserWarning, match=told):
        model = build_gpt(tiny, 0.75, compute="sparse")
    assert model.blocks[0].sparse_names == ()
    expected = build_gpt(tiny, 0.75)(tf.constant([[1, 2]]))
    np.testing.assert_array_equal(model(tf.constant([[1, 2]])), expected)
    assert not list((tmp_path / "cache").glob("*")) or compiler == "false"


def test_installing_compiles_or_says_why_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert build.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(library_path())
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.main(["--optional"]) == 0
    told = capsys.readouterr().err
    assert "need a C++17 compiler" in told and told.endswith("products are dense.\n")
    assert build.main([]) == 1
    assert capsys.readouterr().out == ""
    monkeypatch.delenv("CXX")
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("SPDF_CACHE", str(file))
    assert build.main([]) == 1
    assert f"Cannot write to '{file}" in capsys.readouterr().err


def test_the_library_is_compiled_once_and_by_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = library_path()
    before = made.stat().st_mtime_ns
    assert library_path() == made and made.stat().st_mtime_ns == before
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, "-DOTHER"))
    commands: list[list[str]] = []

    def record(command: list[str]) -> str:
        commands.append(command)
        Path(command[-1]).touch()
        return ""

    monkeypatch.setattr(build, "_run", record)
    monkeypatch.setenv("SPDF_CACHE", str(tmp_path))
    other = library_path()
    assert other.parent.parent == tmp_path and other.parent.name != made.parent.name
    assert [path.name for path in other.parent.iterdir()] == [made.name]
    assert sum("-c" in command for command in commands) >= 4
