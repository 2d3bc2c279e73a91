"""What `auto` measures, what it takes, and what it says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras.config import GPTConfig
from spdf_keras.model.build import build_gpt, load_model
from spdf_keras.native.build import NotBuiltError
from spdf_keras.native.tensorflow.operations import load_operations
from spdf_keras.sparsity import skipping
from spdf_keras.sparsity.skipping import StepTimes, Workload, time_step, timed_tokens

FLOAT32, BFLOAT16 = Workload(), Workload(dtype="bfloat16")


@pytest.fixture(autouse=True)
def operations() -> Any:
    try:
        load_operations()
    except NotBuiltError as error:
        pytest.skip(str(error))
    time_step.cache_clear()
    yield
    time_step.cache_clear()


def test_auto_takes_what_is_faster_for_the_products_of_the_run(
    tiny: GPTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set()

    def timed(
        columns: int, rows: int, sparsity: float, workload: Workload, threads: int
    ) -> StepTimes:
        asked.add((columns, rows, sparsity, workload))
        return StepTimes(0.002, 0.004 if rows == 256 else 0.001)

    monkeypatch.setattr(skipping, "time_step", timed)
    settings: dict[str, Any] = {"batch_size": 8, "micro_batches": 4}
    model = build_gpt(tiny, 0.75, compute="auto", **settings)
    assert model.sparse_kernels == [
        "block_0/intermediate/kernel",
        "block_1/intermediate/kernel",
    ]
    run = Workload(2 * tiny.max_sequence_length, 4, "float32")
    shapes = {(64, 64), (64, 256), (256, 64)}
    assert asked == {(*shape, 0.75, run) for shape in shapes}
    # All precisions take the same time, so the sentence names none.
    assert model.describe_products() == (
        "Zeros are skipped in 2 of 12 masked kernels (training in float32 takes for "
        "64 x 64: 2.0 ms, dense 1.0 ms; 64 x 256: 2.0 ms, dense 4.0 ms; 256 x 64: "
        "2.0 ms, dense 1.0 ms)."
    )
    model.sparse_kernels = ["block_0/query/kernel"]
    assert model.sparse_kernels == ["block_0/query/kernel"]
    assert model(tf.constant([[1, 2]])).shape == (1, 2, tiny.vocabulary_size)


@pytest.mark.parametrize(
    ("of_bfloat16", "told"),
    [(0.6, 0.6), (1.0, None), (0.95, None), (2.0, None)],
)
def test_a_faster_precision_is_told(
    of_bfloat16: float, told: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(
        columns: int, rows: int, sparsity: float, workload: Workload, threads: int
    ) -> StepTimes:
        scale = of_bfloat16 if workload.dtype == "bfloat16" else 1.0
        # The faster way of each precision counts, which differs.
        return StepTimes(2.0 * scale, scale) if scale < 1 else StepTimes(scale, 2.0)

    monkeypatch.setattr(skipping, "time_step", timed)
    shapes = {"a": (8, 8), "b": (8, 16)}
    text = skipping.describe_times(shapes, 0.5, FLOAT32)
    sentence = (
        "mixed_bfloat16 takes 0.60 of the time of float32 for these products on this "
        'machine; set precision = "mixed_bfloat16"'
    )
    assert text.endswith(sentence) if told else "precision" not in text
    text = skipping.describe_times(shapes, 0.5, BFLOAT16)
    assert ("float32 takes 0.50 of" in text) == (of_bfloat16 == 2)
    assert ('set precision = "float32"' in text) == (of_bfloat16 == 2)


def test_skipping_must_pay_clearly() -> None:
    assert StepTimes(2, 3).skipping_pays and StepTimes(2, 3).chosen == 2
    for pair in (StepTimes(3, 2), StepTimes(2, 2), StepTimes(1.96, 2)):
        assert not pair.skipping_pays and pair.chosen == 2


@pytest.mark.parametrize("workload", [FLOAT32, BFLOAT16])
def test_both_ways_compute_the_same_while_keras_builds(
    tiny: GPTConfig, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []

    def run(*ways: Callable[[], Any]) -> list[float]:
        results.append([way() for way in ways])
        return [0.8, 1.0, 2.0]

    monkeypatch.setattr(skipping, "_least_seconds", run)
    precision = "mixed_bfloat16" if workload.dtype == "bfloat16" else "float32"
    settings: dict[str, Any] = {"batch_size": 8, "micro_batches": 4}
    model = build_gpt(tiny, 0.75, compute="auto", precision=precision, **settings)
    assert len(results) == 3
    for laid_out, skipped, dense in results:
        (dx, kept), (dense_dx, gradient) = skipped, dense
        assert dx.dtype == dense_dx.dtype == workload.dtype
        # A bfloat16 result is rounded by up to 2**-9 of its size, and so is the kernel.
        most = 2e-2 if workload.dtype == "bfloat16" else 1e-5
        dx, dense_dx = (tf.cast(value, tf.float32).numpy() for value in (dx, dense_dx))
        assert np.abs(dx - dense_dx).max() < most * np.abs(dense_dx).max()
        mask = gradient.numpy() != 0
        assert 0.6 < 1 - mask.mean() < 0.9 and mask.sum() == len(laid_out[0])
        expected = gradient.numpy()[mask]
        assert np.abs(kept - expected).max() < most * np.abs(expected).max()
    # The layout is shared by the four micro-batches, and 1.0 + 0.8 / 4 is less than 2.
    assert "for 64 x 64: 1200.0 ms, dense 2000.0 ms" in model.describe_products()
    assert len(model.sparse_kernels) == 12


def test_large_batches_are_timed_with_fewer_tokens_and_their_share_of_the_layout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(skipping, "_least_seconds", lambda *_: [8.0, 1.0, 2.0])
    assert timed_tokens(64, 64, Workload(4096)) == 1024
    assert time_step(64, 64, 0.75, Workload(4096, 2), 0) == (1 + 8 / 8, 2)
    assert timed_tokens(12288, 12288, Workload(4096)) == 256
    assert timed_tokens(12288, 12288, Workload(3)) == 3
    assert timed_tokens(8, 8, Workload(0)) == 1


def test_the_least_times_count_and_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    durations = iter([9.0, 3.0, 2.0, 1.0, 4.0, 2.0])
    monkeypatch.setattr(skipping, "_seconds", lambda _: next(durations))
    for _ in range(2):  # the second call measures nothing
        assert time_step(8, 16, 0.5, FLOAT32, 0) == (3 + 1, 2)


def test_the_workload_is_saved(tiny: GPTConfig, tmp_path: Any) -> None:
    model = build_gpt(tiny, 0.75, batch_size=6, micro_batches=3)
    model.save(tmp_path / "m.keras")
    wrapper = load_model(tmp_path / "m.keras").blocks[0]
    tokens = 2 * tiny.max_sequence_length
    assert (wrapper.tokens, wrapper.micro_batches) == (tokens, 3)


def test_auto_is_dense_with_xla(
    tiny: GPTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skipping, "time_step", lambda *_: StepTimes(1.0, 2.0))
    assert build_gpt(tiny, 0.75, compute="auto").sparse_kernels
    model = build_gpt(tiny, 0.75, compute="auto", jit_compile=True)
    assert model.sparse_kernels == []
