"""Masks that change between the steps of `fit`, as a user of Keras meets them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras import GPTConfig, SparsityConfig, build_gpt, load_model, strip
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras
from spdf_keras.model.gpt import GPT
from spdf_keras.optimization.adamw import AdamW

SIZES = GPTConfig(1, 2, 16, vocabulary_size=32, max_sequence_length=8)
STEPS = 8
TOKENS = np.random.default_rng(0).integers(0, 32, (2 * STEPS, 9), dtype=np.int32)


def build(method: str, compute: str = "dense", **settings: Any) -> GPT:
    end = 0 if method in ("redense", "magnitude_ste") else 6
    masks = SparsityConfig(
        0.75, method=method, interval=2, end=end, drop_fraction=0.5, **settings
    )
    model = build_gpt(SIZES, masks, compute=compute, batch_size=2, tokens=10_000)
    model.compile(AdamW(1e-2), total_steps=STEPS)
    return model


def train(model: GPT, start: int = 0, stop: int = STEPS, weights: Any = None) -> None:
    rows = TOKENS[2 * start : 2 * stop]
    model.fit(
        rows[:, :-1],
        rows[:, 1:],
        sample_weight=weights,
        batch_size=2,
        shuffle=False,
        verbose=0,
    )


def state(model: GPT) -> dict[str, np.ndarray]:
    """Masks, weights and everything of the optimizer but its count of steps."""
    found = {f"mask {path}": m.numpy() for path, m in model.named_masks().items()}
    found |= {path: w.numpy() for path, w in model.named_weights().items()}
    variables = model.optimizer.variables
    found |= {f"{i} {v.name}": v.numpy() for i, v in enumerate(variables)}
    return {n: v for n, v in found.items() if "iteration" not in n and "rate" not in n}


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for a, b in zip(one.items(), other.items(), strict=True):
        np.testing.assert_array_equal(a[1], b[1], err_msg=a[0])


@pytest.mark.parametrize(
    "compute", [pytest.param("dense", marks=pytest.mark.slow), "sparse"]
)
@pytest.mark.parametrize("method", ["set", "rigl", "gmp"])
def test_a_step_that_is_not_finite_changes_nothing_and_its_update_follows(
    method: str, compute: str
) -> None:
    model = build(method, compute)
    train(model, 0, 2)
    before = state(model)
    # The update of step 2 is due before this step, whose gradient is not a number.
    train(model, 2, 3, np.full((2, 8), np.nan, np.float32))
    assert_equal(state(model), before)
    changed: list[dict[str, Any]] = []
    updates = model.mask_updates
    assert updates is not None
    updates.listeners.append(changed.append)
    train(model, 3, 4)
    assert [record["step"] for record in changed] == [4]
    assert int(model.optimizer.mask_state.numpy()[0]) == 2
    for path, mask in model.named_masks().items():
        assert not model.named_weights()[path].numpy()[~mask.numpy()].any()


@pytest.mark.parametrize(
    "method",
    [
        "rigl",
        "redense",
        *(
            pytest.param(method, marks=pytest.mark.slow)
            for method in ("set", "gmp", "magnitude_ste")
        ),
    ],
)
def test_a_saved_model_goes_on_to_the_bit(tmp_path: Path, method: str) -> None:
    more: dict[str, Any] = {}
    if method == "redense":
        more = {"stages": (0.5, 0.0), "shares": (0.3, 0.6)}
    whole, part = build(method, **more), build(method, **more)
    train(whole)
    train(part, 0, 4)
    part.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    updates, others = again.mask_updates, whole.mask_updates
    assert updates is not None and others is not None
    assert updates.steps == others.steps
    train(again, 4)
    assert_equal(state(again), state(whole))


def test_a_batch_that_the_graph_refuses_changes_nothing() -> None:
    model = build("set")
    train(model, 0, 2)
    before = state(model)
    labels = TOKENS[:2, 1:] + 32
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(model.optimizer, loss, total_steps=STEPS)
    with pytest.raises(InputError, match="32"):
        model.fit(iter([(TOKENS[:2, :-1], labels)]), steps_per_epoch=1, verbose=0)
    assert_equal(state(model), before)


def test_another_optimizer_trains_with_masks_that_change() -> None:
    model = build("set")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), total_steps=STEPS)
    masks = [mask.numpy() for mask in model.named_masks().values()]
    train(model)
    weights, optimizer = model.named_weights(), model.optimizer
    for before, (path, mask) in zip(masks, model.named_masks().items(), strict=True):
        after, weight = mask.numpy(), weights[path]
        assert (after != before).any() and after.sum() == before.sum()
        index = optimizer._index_dict[optimizer._var_key(weight)]
        for variable in (weight, optimizer.momentums[index]):
            assert not variable.numpy()[~after].any()


def test_what_cannot_follow_the_masks_is_refused() -> None:
    model = build("rigl")
    with pytest.raises(InputError, match="`optimizer` must be .* Received: SGD"):
        model.compile(keras.optimizers.legacy.SGD(0.1), total_steps=STEPS)
    model.compile(AdamW(1e-3), total_steps=STEPS, steps_per_execution=2)
    with pytest.raises(InputError, match="`steps_per_execution` must be 1"):
        train(model)
    model = build("gmp")
    with pytest.raises(InputError, match="`kept_moments` must be false or auto"):
        model.compile(AdamW(1e-3, kept_moments=True), total_steps=STEPS)
    with pytest.raises(InputError, match="`compute` must be dense or auto"):
        build("magnitude_ste", "sparse")
    with pytest.raises(InputError, match="`sparsity` must be above 0 with the method"):
        build_gpt(SIZES, SparsityConfig(method="rigl"))


def test_moments_of_kept_weights_follow_the_masks() -> None:
    states = []
    for kept in (False, True):
        model = build("rigl", "sparse")
        model.compile(AdamW(1e-2, kept_moments=kept), total_steps=STEPS)
        train(model)
        masks = {path: mask.numpy() for path, mask in model.named_masks().items()}
        dense = {}
        for path, mask in masks.items():
            weight = model.named_weights()[path]
            optimizer = model.optimizer
            parts = *optimizer.slots(weight), optimizer.cohort(weight)
            for name, part in zip("mvc", parts, strict=True):
                values = part.numpy()
                dense[name, path] = values[mask] if values.ndim == 2 else values
                assert values.ndim == 1 if kept else not values[~mask].any()
            dense["w", path] = weight.numpy()
        states.append(dense)
    for key, value in states[0].items():
        np.testing.assert_allclose(value, states[1][key], rtol=1e-5, atol=1e-8)


def test_gradients_pass_straight_through_and_the_end_is_exact() -> None:
    model = build("magnitude_ste")
    before = {path: w.numpy() for path, w in model.named_weights().items()}
    train(model)
    masks = {path: mask.numpy() for path, mask in model.named_masks().items()}
    logits = model(TOKENS[:2, :-1])
    for path, mask in masks.items():
        latent = model.named_weights()[path].numpy()
        assert (latent[~mask] != before[path][~mask]).all()
    # What is computed with is the product with the mask.
    np.testing.assert_allclose(
        strip(model)(TOKENS[:2, :-1]), logits, rtol=1e-5, atol=1e-6
    )
    updates = model.mask_updates
    assert updates is not None
    updates.finish()
    for path, mask in model.named_masks().items():
        weight = model.named_weights()[path].numpy()
        assert np.count_nonzero(weight) == mask.numpy().sum() == weight.size // 4
        kept = np.abs(weight[mask.numpy()]).min()
        assert kept > 0 and not weight[~mask.numpy()].any()


def test_sparse_products_give_the_masks_and_weights_of_masked_ones() -> None:
    more = {"stages": (0.5, 0.0), "shares": (0.3, 0.6)}
    for method in ("set", "gmp", "redense"):
        given: dict[str, Any] = more if method == "redense" else {}
        dense, sparse = build(method, **given), build(method, "sparse", **given)
        for model in (dense, sparse):
            train(model)
        for (path, a), b in zip(
            dense.named_masks().items(), sparse.named_masks().values(), strict=True
        ):
            np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=path)
        for a, b in zip(dense.weights, sparse.weights, strict=True):
            np.testing.assert_allclose(
                np.float32(a.numpy()), np.float32(b.numpy()), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("packed", [False, True])
def test_adam_counts_go_into_the_other_layout_of_moments(
    tmp_path: Path, packed: bool
) -> None:
    models = [build("rigl", "sparse") for _ in range(2)]
    for model, kept in zip(models, (packed, not packed), strict=True):
        model.compile(AdamW(1e-2, kept_moments=kept), total_steps=STEPS)
    train(models[0])
    models[0].save(tmp_path / "model.keras")
    models[1].load_weights(tmp_path / "model.keras")
    for path, mask in models[0].named_masks().items():
        states = [m.optimizer.states(m.named_weights()[path]) for m in models]
        assert len(states[0]) == 3 and np.any(states[0][2].numpy())
        for one, other in zip(*states, strict=True):
            values = [
                v.numpy()[mask.numpy()] if v.shape.rank == 2 else v.numpy()
                for v in (one, other)
            ]
            np.testing.assert_array_equal(*values)
