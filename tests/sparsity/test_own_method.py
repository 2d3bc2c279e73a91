"""A user's own method, as CONTRIBUTING.md describes it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras.config.methods import register_method
from spdf_keras.errors import InputError
from spdf_keras.sparsity.algorithms.base import SparsityMethod

TEXT = Path(__file__).parents[2] / "CONTRIBUTING.md"


def test_the_example_of_the_instructions_trains_and_changes_its_masks() -> None:
    section = TEXT.read_text("utf-8").partition("## Add a sparsity method")[2]
    (code,) = re.findall("```python\n(.*?)```", section.partition("\n## ")[0], re.S)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102
    model = names["model"]
    before = {path: mask.numpy() for path, mask in model.named_masks().items()}
    tokens = np.random.default_rng(0).integers(0, 2048, (12, 9))
    model.fit(tokens[:, :-1], tokens[:, 1:], batch_size=2, verbose=0)
    assert model.mask_updates.steps == [2, 4]
    for path, mask in model.named_masks().items():
        after, weights = mask.numpy(), model.named_weights()[path].numpy()
        assert after.sum() == before[path].sum()
        assert (after != before[path]).any() and not weights[~after].any()
    with pytest.raises(InputError, match="`name` must be a new name of a method"):
        register_method("busy_inputs", SparsityMethod)
    with pytest.raises(InputError, match="Received: 'rigl'"):
        register_method("rigl", SparsityMethod)
