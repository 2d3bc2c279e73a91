from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras.adapters.attach import adapt
from spdf_keras.adapters.merge import kept_share, merge
from spdf_keras.config import KERNELS, LoRAConfig
from spdf_keras.errors import InputError
from spdf_keras.export import to_saved_model
from spdf_keras.interchange.keras_nlp.model import to_keras_nlp

Build = Callable[..., Any]
TARGETS = [
    ("query", "value"),
    ("key", "intermediate"),
    ("attention_output", "output"),
    ("query", "intermediate"),
    KERNELS,
]


def relative(received: Any, expected: Any) -> float:
    difference = np.abs(np.asarray(received) - np.asarray(expected)).max()
    return float(difference / np.abs(np.asarray(expected)).max())


@pytest.mark.parametrize("targets", TARGETS, ids=",".join)
@pytest.mark.parametrize("sparsity", [pytest.param(0.0, marks=pytest.mark.slow), 0.75])
def test_the_merged_model_computes_what_weights_and_adapter_do(
    adapted: Build,
    base: Build,
    token_ids: np.ndarray,
    sparsity: float,
    targets: tuple[str, ...],
) -> None:
    model = adapted(sparsity, LoRAConfig(4, 8.0, targets=targets), compute="sparse")
    merged = merge(model)
    assert relative(merged(token_ids), model(token_ids)) < 1e-4  # float32 sums
    assert relative(base(sparsity)(token_ids), model(token_ids)) > 1e-3
    assert merged.lora is None and not merged.named_masks() and merged.sparsity == 0
    for path, weight in merged.named_weights().items():
        if path.endswith("/kernel"):
            dense = path.split("/")[1] in targets or sparsity == 0.0
            assert ((weight.numpy() == 0).mean() < 0.01) == dense


def test_a_merge_that_keeps_masks_adds_the_masked_product(
    adapted: Build, token_ids: np.ndarray
) -> None:
    model = adapted(0.75, LoRAConfig(4, 8.0), compute="sparse")
    merged = merge(model, keep_masks=True)
    assert merged.sparsity == 0.75 and merged.sparse_kernels == model.sparse_kernels
    adapters, before = model.named_adapters(), model.named_weights()
    share = []
    for path, mask in model.named_masks().items():
        np.testing.assert_array_equal(merged.named_masks()[path], mask)
        value, mask = merged.named_weights()[path].numpy(), mask.numpy()
        expected = before[path].numpy()
        start = path.removesuffix("kernel")
        if f"{start}adapter_up" in adapters:
            down, up = (adapters[f"{start}adapter_{p}"].numpy() for p in ("down", "up"))
            product = 2.0 * down @ up
            expected = expected + product * mask
            share.append([(product**2)[mask].sum(), (product**2).sum()])
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
        assert not value[~mask].any()
    kept, whole = np.sum(share, 0)
    assert kept_share(model) == pytest.approx(kept / whole, rel=1e-5)
    assert relative(merged(token_ids), model(token_ids)) > 1e-3


def test_an_adapter_that_did_nothing_merges_to_the_bits_of_the_base(
    base: Build, token_ids: np.ndarray
) -> None:
    model = base()
    merged = merge(adapt(model, LoRAConfig(4)), keep_masks=True)
    np.testing.assert_array_equal(merged(token_ids), model(token_ids))


def test_a_merge_needs_an_adapter_and_masks_to_keep(
    base: Build, adapted: Build
) -> None:
    with pytest.raises(
        InputError, match="`model` must have an adapter, as `spdf-keras"
    ):
        merge(base())
    with pytest.raises(InputError, match="`keep_masks` must be false for a model with"):
        merge(adapted(0.0), keep_masks=True)


def test_where_weights_must_be_all_there_is_an_adapter_is_refused(
    adapted: Build, tmp_path: Path
) -> None:
    sentence = "`model` must be a GPT without an adapter. Received: one with LoRA"
    with pytest.raises(InputError, match=sentence):
        to_saved_model(adapted(), tmp_path / "saved")
    with pytest.raises(InputError, match=sentence):
        to_keras_nlp(adapted())
    assert not list(tmp_path.iterdir())
