"""Trainings whose masks change, against a simulation in NumPy and float64.

The masks are compared after every step and must be equal. That asks for seeds for which
float32 decides no near tie differently; `MARGIN` says how near the nearest one is.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy_gpt import NumpyAdamW, Weights, loss_and_gradients
from numpy_masks import Settings
from numpy_sparsity import Simulation

from spdf_keras import GPTConfig, build_gpt
from spdf_keras.config import SparsityConfig
from spdf_keras.keras2 import keras

STEPS, BATCH, LENGTH, VOCABULARY = 200, 4, 8, 32
LEARNING_RATE, CLIP_NORM = 1e-3, 0.5
# A gradient that is zero but for rounding, as that of the biases of keys, would move
# weights by a fraction of the learning rate that depends on the rounding alone.
EPSILON = 1e-5

_OPENS = {"method": "redense", "stages": [0.5, 0.0], "shares": [0.4, 0.7]}

CASES: dict[str, dict[str, Any]] = {
    "set": {"method": "set", "interval": 10},
    "rigl": {"method": "rigl", "interval": 10},
    "gmp": {"method": "gmp", "interval": 10, "begin": 20, "end": 155},
    "redense": _OPENS,
    "set_2:4": {
        "method": "set",
        "interval": 15,
        "structure": "2:4",
        "sparsity": 0.5,
    },
    "rigl_2x2": {"method": "rigl", "interval": 15, "structure": "2x2"},
    "set_erk": {"method": "set", "interval": 20, "distribution": "erk"},
    "rigl_naive_without_regrowth": {
        "method": "rigl",
        "interval": 10,
        "own_counts": False,
        "regrow": False,
    },
}
SLOW = {"set", "rigl_2x2", "set_erk"}
MORE: dict[str, dict[str, Any]] = {
    "set_naive": {"method": "set", "interval": 10, "own_counts": False},
    "rigl_naive": {"method": "rigl", "interval": 10, "own_counts": False},
    "redense_naive": {**_OPENS, "own_counts": False},
    "redense_erk": {
        "method": "redense",
        "stages": [0.5, 0.25],
        "shares": [0.25, 0.5],
        "distribution": "erk",
    },
    "redense_2x2": {**_OPENS, "structure": "2x2"},
    "set_constant": {
        "method": "set",
        "interval": 13,
        "begin": 7,
        "end": 180,
        "drop_schedule": "constant",
    },
    "set_without_regrowth": {"method": "set", "interval": 10, "regrow": False},
    "rigl_without_regrowth": {"method": "rigl", "interval": 10, "regrow": False},
    "set_2x4": {"method": "set", "interval": 15, "structure": "2x4"},
    "set_1:4_of_outputs": {
        "method": "set",
        "interval": 15,
        "structure": "1:4",
        "axis": "out",
    },
    "rigl_2:4": {
        "method": "rigl",
        "interval": 15,
        "structure": "2:4",
        "sparsity": 0.5,
    },
    "rigl_at_every_step": {"method": "rigl", "interval": 1, "end": 40},
    "rigl_in_micro_batches": {
        "method": "rigl",
        "interval": 10,
        "train": {"micro_batches": 4},
    },
    "rigl_with_zeros_skipped": {
        "method": "rigl",
        "interval": 10,
        "train": {"compute": "sparse"},
    },
    "redense_with_zeros_skipped": {**_OPENS, "train": {"compute": "sparse"}},
    "rigl_compiled": {"method": "rigl", "interval": 10, "train": {"jit_compile": True}},
    "gmp_from_half": {
        "method": "gmp",
        "interval": 7,
        "sparsity": 0.9,
        "initial_sparsity": 0.5,
    },
    "gmp_4x2": {"method": "gmp", "interval": 10, "structure": "4x2"},
    "gmp_together": {"method": "gmp", "interval": 10, "scope": "global"},
    "one_shot": {"method": "one_shot", "begin": 50},
    "one_shot_at_once": {"method": "one_shot"},
    "one_shot_together": {"method": "one_shot", "begin": 50, "scope": "global"},
    "magnitude_ste": {"method": "magnitude_ste", "interval": 5},
}


def _tokens(seed: int) -> np.ndarray:
    """Sequences in which each token has a likely successor, which can be learned."""
    rng = np.random.default_rng(seed)
    successors = rng.permutation(VOCABULARY)
    tokens = rng.integers(0, VOCABULARY, (STEPS, BATCH, LENGTH + 1), np.int32)
    for place in range(LENGTH):
        follows = rng.random((STEPS, BATCH)) < 0.7
        likely = successors[tokens[:, :, place]]
        tokens[:, :, place + 1] = np.where(follows, likely, tokens[:, :, place + 1])
    return tokens


class _Watch(keras.callbacks.Callback):
    """Keeps the masks and the loss of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[dict[str, np.ndarray]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        masks = self.model.named_masks().items()
        self.masks.append({path: mask.numpy() for path, mask in masks})
        self.losses.append(float(logs["batch_loss"]))


def _compare(
    num_layers: int, seed: int, train: dict[str, Any] | None = None, **settings: Any
) -> None:
    settings = {"sparsity": 0.75, "seed": seed, **settings}
    model = build_gpt(
        GPTConfig(num_layers, 2, 16, 0, VOCABULARY, LENGTH),
        SparsityConfig(**settings),
        seed=seed,
        batch_size=BATCH,
        tokens=STEPS * BATCH * LENGTH,
        warmup_tokens=0,
        final_learning_rate=1.0,
        learning_rate=LEARNING_RATE,
        clip_norm=CLIP_NORM,
        epsilon=EPSILON,
        **(train or {}),
    )
    tokens, weights = _tokens(seed), model.named_weights()
    simulation = Simulation(
        Settings(**settings),
        {path: weight.numpy().astype(np.float64) for path, weight in weights.items()},
        num_heads=2,
        total_steps=STEPS,
        optimizer=NumpyAdamW(LEARNING_RATE, epsilon=EPSILON, clip_norm=CLIP_NORM),
    )
    _same_masks({k: v.numpy() for k, v in model.named_masks().items()}, simulation, 0)
    watch = _Watch()
    inputs, labels = tokens[..., :-1], tokens[..., 1:]
    model.fit(
        inputs.reshape(-1, LENGTH),
        labels.reshape(-1, LENGTH),
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
        callbacks=[watch],
    )
    losses, changes = [], 0
    for step in range(STEPS):
        before = simulation.masks()
        losses.append(simulation.step(inputs[step], labels[step]))
        _same_masks(watch.masks[step], simulation, step)
        changed = (np.any(before[k] != mask) for k, mask in simulation.masks().items())
        changes += any(changed)
    # The last updates of a cosine may drop less than one weight of each matrix.
    assert changes >= 0.7 * len(simulation.settings.update_steps(STEPS))
    np.testing.assert_allclose(watch.losses, losses, rtol=1e-5)
    assert losses[-1] < losses[0] - 0.1
    for path, weight in weights.items():
        # Rounding of float32 alone stays below it in 200 steps.
        expected = simulation.weights[path]
        np.testing.assert_allclose(weight.numpy(), expected, 0, 1e-5, err_msg=path)


def _same_masks(masks: dict[str, np.ndarray], expected: Simulation, step: int) -> None:
    for path, mask in expected.masks().items():
        differ = int(np.count_nonzero(masks[path] != mask))
        assert not differ, (
            f"{differ} of {mask.size} entries of the mask of {path} differ in step "
            f"{step + 1}. The nearest choice had a margin of {expected.margin:.1e}."
        )


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else [])
        for case in CASES
    ],
)
def test_masks_and_weights_are_those_of_a_simulation(case: str) -> None:
    _compare(1, 0, **CASES[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES | MORE)
def test_masks_and_weights_of_two_blocks_are_those_of_a_simulation(case: str) -> None:
    _compare(2, 1, **(CASES | MORE)[case])


def test_the_settings_of_the_simulation_are_those_of_the_package() -> None:
    defaults = {f.name: f.default for f in dataclasses.fields(SparsityConfig)}
    for setting in dataclasses.fields(Settings):
        if setting.default is not dataclasses.MISSING:
            assert setting.default == defaults[setting.name], setting.name


def test_the_gradients_of_the_simulation_are_finite_differences() -> None:
    rng = np.random.default_rng(0)
    shapes = {"embedding/token": (11, 8), "embedding/position": (6, 8)}
    for name in ("query", "key", "value", "attention_output"):
        shapes[f"block_0/{name}/kernel"] = (8, 8)
    shapes |= {"block_0/intermediate/kernel": (8, 12), "block_0/output/kernel": (12, 8)}
    weights: Weights = {}
    for path, shape in shapes.items():
        weights[path] = rng.normal(0, 0.5, shape)
    for path in [path for path in weights if path.endswith("kernel")]:
        bias = path.replace("kernel", "bias")
        weights[bias] = rng.normal(0, 0.5, (weights[path].shape[1],))
    for norm in ("block_0/attention_norm", "block_0/feedforward_norm", "final_norm"):
        weights[f"{norm}/gamma"] = rng.normal(1, 0.5, 8)
        weights[f"{norm}/beta"] = rng.normal(0, 0.5, 8)
    tokens, labels = rng.integers(0, 11, (2, 3, 5))
    _, gradients = loss_and_gradients(weights, tokens, labels, 2)
    assert gradients.keys() == weights.keys()
    step = 1e-6
    for path, weight in weights.items():
        for place in rng.choice(weight.size, 4, replace=False):
            value, around = weight.flat[place], []
            for moved in (value + step, value - step):
                weight.flat[place] = moved
                around.append(loss_and_gradients(weights, tokens, labels, 2)[0])
            weight.flat[place] = value
            slope = (around[0] - around[1]) / (2 * step)
            # The rounding of two losses near 3 is 4e-16, over 2e-6.
            gradient = gradients[path].flat[place]
            assert gradient == pytest.approx(slope, rel=1e-6, abs=2e-9)
