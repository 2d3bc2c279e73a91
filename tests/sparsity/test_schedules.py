import itertools
import math
from typing import Any

import numpy as np
import pytest

from spdf_keras import GPTConfig, build_gpt
from spdf_keras.config import SparsityConfig
from spdf_keras.errors import InputError
from spdf_keras.model.sparsity_plan import SparsityPlan
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.sparsity.algorithms.base import MaskedKernel, SparsityMethod
from spdf_keras.sparsity.algorithms.registry import make_method
from spdf_keras.sparsity.updating import updated_mask

SIZES = GPTConfig(1, 2, 16, vocabulary_size=32, max_sequence_length=8)


def _method(total_steps: int, **settings: Any) -> SparsityMethod:
    return make_method(SparsityConfig(**{"sparsity": 0.75, **settings}), total_steps)


@pytest.mark.parametrize(
    "end, step, fraction",
    [
        *(
            (1000, 100 * tenth, value)
            for tenth, value in enumerate(
                [
                    0.3,
                    0.292658,
                    0.271353,
                    0.238168,
                    0.196353,
                    0.15,
                    0.103647,
                    0.061832,
                    0.028647,
                    0.007342,
                    0.0,
                ]
            )
        ),
        (1000, 250, 0.256066),
        (1000, 750, 0.043934),
        (3584, 100, 0.299424),
        (3584, 1000, 0.245970),
        (3584, 1792, 0.15),
        (3584, 3500, 0.000406),
    ],
)
def test_the_drop_fraction_falls_as_a_cosine(
    end: int, step: int, fraction: float
) -> None:
    method = _method(5000, method="set", end=end)
    assert method.drop_fraction(step) == pytest.approx(fraction, abs=5e-7)


def test_the_cosine_counts_from_begin_where_rigls_code_counts_from_zero() -> None:
    method = _method(2000, method="rigl", begin=1000, end=2000)
    assert method.drop_fraction(1000) == 0.3
    assert method.drop_fraction(1250) == pytest.approx(0.256066, abs=5e-7)
    assert method.drop_fraction(2000) == pytest.approx(0.0, abs=1e-15)
    # With decay_steps = end - begin and t itself as the argument, it is over at begin.
    theirs = 0.15 * (1 + math.cos(math.pi * min(1000, 1000) / 1000))
    assert theirs == 0.0


def test_the_cosine_stays_at_zero_where_that_of_cerebras_rises_again() -> None:
    method = _method(3000, method="set", end=1000)
    assert method.drop_fraction(1500) == pytest.approx(0.0, abs=1e-15)
    theirs = 0.15 + 0.15 * math.cos(math.pi * 1500 / 1000)
    assert theirs == pytest.approx(0.15)


@pytest.mark.parametrize(
    "step, schedule, ours",
    [
        (100, "constant", 44_236),
        (100, "cosine", 44_151),
        (1000, "cosine", 36_269),
        (1792, "cosine", 22_118),
        (3500, "cosine", 59),
    ],
)
def test_the_number_of_dropped_weights_is_cut_as_in_rigls_code(
    step: int, schedule: str, ours: int
) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((768, 768), np.bool_)
    mask.flat[rng.permutation(mask.size)[: mask.size // 4]] = True
    values = (rng.normal(size=mask.shape) * mask).astype(np.float32)
    method = _method(4778, method="set", end=3584, drop_schedule=schedule, regrow=False)
    kernel = MaskedKernel("block_0/query", values, mask)
    new = updated_mask(method, kernel, 147_456, step)
    assert np.count_nonzero(new) == 147_456
    assert np.count_nonzero(mask & ~new) == ours
    # Cerebras cuts the number of those that stay instead, which drops one more.
    stay = math.trunc((1 - method.drop_fraction(step)) * 147_456)
    assert 147_456 - stay == ours + 1


def test_updates_include_begin_and_end_but_not_a_step_before_the_first() -> None:
    steps = list(_method(4778, method="rigl", end=3584).update_steps())
    assert steps == [*range(100, 3501, 100), 3584]
    # Cerebras' `stop` is not included.
    assert len([t for t in range(1, 3584) if t % 100 == 0]) == 35 == len(steps) - 1
    # RigL's code updates at 0 too; pruning does here.
    assert len(_method(25_000, method="set", end=25_000).update_steps()) == 250
    assert len(_method(25_000, method="gmp", end=25_000).update_steps()) == 251
    # JaxPruner's multiples of the interval are not shifted by the begin.
    steps = list(_method(300, method="set", begin=50, end=290).update_steps())
    assert steps == [50, 150, 250, 290]


def test_without_an_end_the_last_update_is_at_three_quarters() -> None:
    for method in ("set", "rigl", "gmp"):
        steps = _method(4778, method=method).update_steps()
        assert (steps[-1], len(steps)) == (3583, 36 + (method == "gmp"))
    assert list(_method(100, method="one_shot", begin=30).update_steps()) == [30]


@pytest.mark.parametrize(
    "initial, final, begin, end, densities",
    [
        (
            0.0,
            0.75,
            1000,
            5000,
            {
                1000: 0.0,
                1500: 0.247559,
                2000: 0.433594,
                2500: 0.566895,
                3000: 0.65625,
                3500: 0.710449,
                4000: 0.738281,
                4500: 0.748535,
                5000: 0.75,
            },
        ),
        (0.5, 0.9, 0, 1000, {0: 0.5, 250: 0.73125, 500: 0.85, 750: 0.89375, 1000: 0.9}),
        (
            0.0,
            0.8,
            5000,
            15_000,
            {5000: 0.0, 5100: 0.023761, 7500: 0.4625, 10_000: 0.7, 12_500: 0.7875},
        ),
    ],
)
def test_gradual_pruning_has_the_sparsities_of_tfmot(
    initial: float, final: float, begin: int, end: int, densities: dict[int, float]
) -> None:
    method = _method(
        20_000,
        method="gmp",
        sparsity=final,
        initial_sparsity=initial,
        begin=begin,
        end=end,
    )
    for step, sparsity in densities.items():
        assert method.sparsity_at(step) == pytest.approx(sparsity, abs=5e-7)


def test_gradual_pruning_is_a_step_behind_jaxpruner() -> None:
    method = _method(20_000, method="gmp", sparsity=0.8, begin=5000, end=15_000)
    theirs = {5000: 0.00024, 5100: 0.023996, 7500: 0.462635, 10_000: 0.70006}
    for step, sparsity in theirs.items():
        assert method.sparsity_at(step + 1) == pytest.approx(sparsity, abs=5e-7)
        assert method.sparsity_at(step) < sparsity


@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.8, 0.9])
def test_pruning_from_a_quarter_to_three_quarters_has_a_known_average(
    sparsity: float,
) -> None:
    config = SparsityConfig(
        sparsity=sparsity, method="gmp", begin=5000, end=15_000, interval=1
    )
    plan = SparsityPlan(SIZES, config, 20_000)
    # The sum over 10,000 steps misses the integral of the cubic by half a step.
    assert 1 - plan.average == pytest.approx(1 - 0.625 * sparsity, abs=5e-5)


def test_opening_masks_have_the_average_of_their_stages() -> None:
    config = SparsityConfig(
        sparsity=0.75, method="redense", stages=(0.5, 0.0), shares=(0.5, 0.8)
    )
    assert 1 - SparsityPlan(SIZES, config, 1000).average == pytest.approx(0.475)


def test_stages_begin_at_the_step_that_their_share_names() -> None:
    for percent, total in itertools.product(range(1, 100), (100, 200, 1000)):
        share = percent / 100
        method = _method(total, method="redense", stages=[0.5], shares=[share])
        # In floats 0.55 * 200 is above 110.
        assert list(method.update_steps()) == [-(-percent * total // 100)]


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (
            {"method": "set", "begin": 10, "end": 5},
            r"`end` must be at least begin=10, or 0\. Received: end=5\.",
        ),
        (
            {"method": "rigl", "end": 101},
            r"`sparsity\.end` must be at most the 100 steps of the training\. "
            r"Received: a schedule of rigl to step 101\. Lower `sparsity\.end`, or "
            r"train longer\.",
        ),
        ({"method": "one_shot", "begin": 200}, r"a schedule of one_shot to step 200\."),
        (
            {"method": "set", "begin": 80},
            r"`sparsity\.begin` must be at most its end, step 75\. Received: begin=80",
        ),
        (
            {"method": "rgil"},
            r"`method` must be one of static, set, rigl, gmp, one_shot, "
            # A method that another test has registered may follow.
            r"magnitude_ste, redense.*\. Received: method='?rgil'?\.",
        ),
        ({"method": "set", "interval": 0}, r"`interval` must be positive\. "),
        ({"method": "set", "drop_fraction": 1.0}, r"`drop_fraction` must be in \[0, 1"),
        (
            {"method": "set", "drop_schedule": "linear"},
            r"`drop_schedule` must be one of cosine, constant\. ",
        ),
        (
            {"method": "gmp", "initial_sparsity": 0.8},
            r"`initial_sparsity` must be at most sparsity=0\.75\. ",
        ),
        ({"method": "gmp", "scope": "layer"}, r"`scope` must be one of matrix, global"),
        ({"distribution": "normal"}, r"`distribution` must be one of uniform, er, erk"),
        (
            {"method": "redense"},
            r"`stages` must be sparsities that fall from sparsity=0\.75, such as "
            r"\[0\.5, 0\.0\]\. Received: ",
        ),
        (
            {"method": "redense", "stages": [0.5, 0.6], "shares": [0.5, 0.8]},
            r"`stages` must be sparsities that fall from sparsity=0\.75",
        ),
        (
            {"method": "redense", "stages": [0.8], "shares": [0.5]},
            r"`stages` must be sparsities that fall from sparsity=0\.75",
        ),
        (
            {"method": "redense", "stages": [-0.5], "shares": [0.5]},
            r"`sparsity` must be in \[0, 1\)\. Received: sparsity=-0\.5 in `stages`\.",
        ),
        (
            {"method": "redense", "stages": [0.5, 0.0], "shares": [0.5]},
            r"`shares` must be a rising fraction in \(0, 1\) for each of `stages`, "
            r"such as \[0\.5, 0\.8\]\. Received: ",
        ),
        (
            {"method": "redense", "stages": [0.5, 0.0], "shares": [0.8, 0.5]},
            r"`shares` must be a rising fraction",
        ),
        (
            {"method": "redense", "stages": [0.5], "shares": [1.0]},
            r"`shares` must be a rising fraction",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_in_one_sentence(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as refused:
        build_gpt(
            SIZES,
            SparsityConfig(**{"sparsity": 0.75, **settings}),
            batch_size=4,
            tokens=100 * 4 * 8,
        )
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "set"},
        {"method": "gmp", "begin": 3},
        {"method": "magnitude_ste"},
        {"method": "redense", "stages": [0.0], "shares": [0.5], "end": 5},
    ],
)
def test_a_training_of_unknown_length_is_refused_where_the_schedule_needs_it(
    settings: dict[str, Any],
) -> None:
    model = build_gpt(SIZES, SparsityConfig(**{"sparsity": 0.75, **settings}))
    model.compile(AdamW())
    tokens = np.zeros((4, 9), np.int32)
    sentence = (
        rf"`total_steps` must be given to `compile` with the method "
        rf"{settings['method']}, whose schedule is a part of all steps\. Received: 0\."
    )
    with pytest.raises(InputError, match=sentence):
        model.fit(tokens[:, :-1], tokens[:, 1:], verbose=0)
