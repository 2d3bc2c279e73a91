import dataclasses

import numpy as np
import pytest

from spdf_keras import build_gpt
from spdf_keras.config import GPTConfig
from spdf_keras.model import block as block_module
from spdf_keras.model.fitting.shared_block import SharedBlock, are_alike
from spdf_keras.model.language_model import LanguageModel


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_blocks_that_share_a_trace_train_to_the_same_bytes(
    sizes: GPTConfig,
    tokens: tuple[np.ndarray, np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    # Several chunks of queries: the gradients of keys are sums of several terms, and
    # the order of the sums shows in the last bit.
    monkeypatch.setattr(block_module, "_CHUNK", 4)
    deeper = dataclasses.replace(sizes, num_layers=3)
    calls: list[str] = []
    call = SharedBlock.__call__

    def counted(self: SharedBlock, block: object, x: object) -> object:
        calls.append("block")
        return call(self, block, x)

    monkeypatch.setattr(SharedBlock, "__call__", counted)
    ids, labels, _ = tokens
    weights = []
    for shares in (True, False):
        if not shares:
            monkeypatch.setattr(LanguageModel, "_shares_blocks", lambda _: False)
        model = build_gpt(deeper, 0.5, precision=precision, learning_rate=1e-2)
        model.fit(ids, labels, batch_size=4, shuffle=False, verbose=0)
        weights.append([v.numpy() for v in model.trainable_variables])
        assert len(calls) == 3
    for shared, apart in zip(*weights, strict=True):
        np.testing.assert_array_equal(shared, apart)


def test_blocks_that_a_user_changed_share_no_trace(sizes: GPTConfig) -> None:
    model = build_gpt(dataclasses.replace(sizes, num_layers=2), 0.5)
    assert are_alike(model.blocks)
    model.blocks[1].layer.layer_norm_epsilon = 1e-3
    assert not are_alike(model.blocks)
