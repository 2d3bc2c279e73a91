from pathlib import Path

import numpy as np
import pytest

from spdf_keras import GPT, GPTConfig, build_gpt, strip
from spdf_keras.config import config_from_tables
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.export.weights import WeightSource, prunable_paths
from spdf_keras.model.decoding.passes import effective_kernels
from spdf_keras.training.checkpoint import save_checkpoint
from spdf_keras.training.run import Run


def test_a_models_weights_are_masked_and_have_no_negative_zero(model: GPT) -> None:
    source = WeightSource.of(model)
    assert (source.sizes, source.sparsity) == (model.sizes, 0.75)
    kernels = effective_kernels(model)
    assert list(prunable_paths(model.sizes)) == list(model.named_masks())
    for index, block in enumerate(kernels):
        for name, kernel in block.items():
            weight = source.read(f"block_{index}/{name}/kernel")
            np.testing.assert_array_equal(weight, kernel.numpy())
            assert not np.signbit(weight[weight == 0]).any()
    stripped = strip(model)
    source = WeightSource.of(stripped)
    for path, weight in stripped.named_weights().items():
        assert source.mask(path) is None
        np.testing.assert_array_equal(source.read(path), weight.numpy())


def test_a_presets_weights_are_those_that_build_gpt_draws() -> None:
    built = WeightSource.of(build_gpt("gpt_nano", 0.5))
    drawn = WeightSource.of("gpt_nano", 0.5)
    assert drawn.shapes == built.shapes and drawn.sparsity == 0.5
    for path in built.shapes:
        np.testing.assert_array_equal(drawn.read(path), built.read(path))
        expected = built.mask(path)
        if expected is None:
            assert drawn.mask(path) is None
        else:
            np.testing.assert_array_equal(drawn.mask(path), expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.75])
def test_a_runs_weights_are_read_off_its_checkpoint(
    tiny: GPTConfig, tmp_path: Path, sparsity: float
) -> None:
    tokenizer = Tokenizer.train(["low lower lowest"], 300)
    tables = {
        "model": {**vars(tiny)},
        "sparsity": {"sparsity": sparsity, "seed": 0},
        "train": {"seed": 3},
    }
    run = Run.create(tmp_path / "run", config_from_tables(tables), tokenizer, {})
    model = build_gpt(tiny, sparsity, mask_seed=0, seed=3)
    save_checkpoint(model, run.checkpoint_folder, 1)
    source, expected = WeightSource.of(run), WeightSource.of(model)
    assert source.shapes == expected.shapes
    for path in source.shapes:
        np.testing.assert_array_equal(source.read(path), expected.read(path))
        assert (source.mask(path) is None) == (expected.mask(path) is None)


def test_another_object_is_refused() -> None:
    expected = "must be a GPT .* a Run, its folder, or a preset .* Received: dict"
    with pytest.raises(InputError, match=expected):
        WeightSource.of({})
    with pytest.raises(InputError, match="gpt_nano.*Received: 'gpt_pico', which is ne"):
        WeightSource.of("gpt_pico")
