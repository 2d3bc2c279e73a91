import dataclasses
from typing import Any

import numpy as np
import pytest

from spdf_keras import build_gpt
from spdf_keras.config import GPTConfig
from spdf_keras.model import block as block_module
from spdf_keras.model.fitting.shared_block import SharedBlock, are_alike
from spdf_keras.model.language_model import LanguageModel
from spdf_keras.optimization.adamw import AdamW
from spdf_keras.sparsity.skipping import available


@pytest.mark.parametrize("compute", ["dense", "sparse"])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_blocks_that_share_a_trace_train_to_the_same_bytes(
    sizes: GPTConfig,
    tokens: tuple[np.ndarray, np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    compute: str,
) -> None:
    if compute == "sparse" and not available():
        pytest.skip("needs a C++ compiler")
    # Several chunks of queries: the gradients of keys are sums of several terms, and
    # the order of the sums shows in the last bit.
    monkeypatch.setattr(block_module, "_CHUNK", 4)
    deeper = dataclasses.replace(sizes, num_layers=3)
    calls: list[str] = []
    call = SharedBlock.__call__

    def counted(self: SharedBlock, *args: Any) -> object:
        calls.append("block")
        return call(self, *args)

    monkeypatch.setattr(SharedBlock, "__call__", counted)
    ids, labels, _ = tokens
    weights = []
    for shares in (True, False):
        if not shares:
            monkeypatch.setattr(LanguageModel, "_shares_blocks", lambda _: False)
        settings: Any = {"precision": precision, "compute": compute}
        model = build_gpt(deeper, 0.5, learning_rate=1e-2, **settings)
        model.fit(ids, labels, batch_size=4, shuffle=False, verbose=0)
        weights.append([v.numpy() for v in model.trainable_variables])
        assert len(calls) == 3
    for shared, apart in zip(*weights, strict=True):
        np.testing.assert_array_equal(shared, apart)


@pytest.mark.parametrize("steps", [2, "auto"])
def test_several_steps_in_one_call_share_no_trace(
    sizes: GPTConfig,
    tokens: tuple[np.ndarray, np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    steps: Any,
) -> None:
    # Functions in loops change the last bit of a result.
    monkeypatch.delattr(SharedBlock, "__call__")
    ids, labels, _ = tokens
    looping, single = (build_gpt(sizes, 0.5) for _ in range(2))
    looping.compile(AdamW(1e-2), steps_per_execution=steps)
    looping.fit(ids, labels, batch_size=4, verbose=0)
    with pytest.raises(TypeError, match="SharedBlock"):
        single.fit(ids, labels, batch_size=4, verbose=0)


def test_blocks_that_a_user_changed_share_no_trace(sizes: GPTConfig) -> None:
    model = build_gpt(dataclasses.replace(sizes, num_layers=2), 0.5)
    assert are_alike(model.blocks)
    model.blocks[1].layer.layer_norm_epsilon = 1e-3
    assert not are_alike(model.blocks)
