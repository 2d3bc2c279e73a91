"""A batch whose rows come and go gives each row the logits of a pass of its own."""

from typing import Any

import numpy as np
import pytest

from spdf_keras import build_gpt
from spdf_keras.config import GPTConfig
from spdf_keras.model.decoding.running_batch import RunningBatch


@pytest.fixture(scope="module", params=[0.0, 0.5])
def model(request: pytest.FixtureRequest, tiny: GPTConfig) -> Any:
    model = build_gpt(tiny, request.param)
    for weight in model.trainable_weights:
        if len(weight.shape) == 2:
            weight.assign(10 * weight)  # outputs that vary with every token
    return model


def test_rows_that_come_and_go_have_the_logits_of_whole_passes(model: Any) -> None:
    rng = np.random.default_rng(0)
    batch = RunningBatch(model)
    rows: list[list[int]] = []

    def check(logits: np.ndarray, of: list[list[int]]) -> None:
        assert logits.shape == (len(of), 512)
        for line, tokens in zip(logits, of, strict=True):
            expected = model(np.array([tokens]))[0, -1].numpy()
            # Logits reach 40; the products run over other shapes.
            np.testing.assert_allclose(line, expected, atol=2e-4)

    # Each round: which rows stay, how long the new prompts are, how many steps follow.
    rounds = [
        ([], [5, 17, 1], 3),
        ([2, 0], [30], 9),  # in another order, and over a join of the cache
        ([0, 1, 2], [], 1),
        ([1], [2, 2], 12),
        ([], [], 0),
        ([], [40], 2),
    ]
    for kept, lengths, steps in rounds:
        prompts = [rng.integers(0, 512, n).tolist() for n in lengths]
        if lengths == [2, 2]:
            prompts[1] = list(prompts[0])  # equal prompts run once
        logits = batch.regroup(kept, prompts)
        check(logits, prompts)
        rows = [rows[row] for row in kept] + prompts
        for _ in range(steps):
            tokens = rng.integers(0, 512, len(rows)).tolist()
            for row, token in zip(rows, tokens, strict=True):
                row.append(token)
            check(batch.step(tokens), rows)


def test_a_row_may_fill_the_context_and_stay(model: Any) -> None:
    batch = RunningBatch(model)
    prompt = list(range(63))
    batch.regroup([], [prompt, [1]])
    last = batch.step([7, 2])
    expected = model(np.array([[*prompt, 7]]))[0, -1].numpy()
    np.testing.assert_allclose(last[0], expected, atol=2e-4)
    # The full row has ended; it takes part in the next steps, and nobody reads it.
    other = batch.step([0, 3])[1]
    expected = model(np.array([[1, 2, 3]]))[0, -1].numpy()
    np.testing.assert_allclose(other, expected, atol=2e-4)


def test_each_graph_is_traced_once(model: Any) -> None:
    batch = RunningBatch(model)
    for count in (1, 3):
        batch.regroup([], [[1, 2, 3]] * count)
        for _ in range(10):
            batch.step([1] * count)
    for function in (batch._prefill, batch._decode, batch._regroup):
        assert function.experimental_get_tracing_count() == 1
