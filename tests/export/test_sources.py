"""All exporters take a model, a run, its folder and a preset."""

from pathlib import Path
from typing import Any

import pytest

from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.config import config_from_tables
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.export import to_saved_model, to_text_model, to_tflite, to_xla
from spdf_keras.export.sources import load_source, resolve_source
from spdf_keras.training.checkpoint import save_checkpoint
from spdf_keras.training.run import Run


@pytest.fixture(scope="module")
def run(sizes: GPTConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    tables = {
        "model": {**vars(sizes), "vocabulary_size": 300},
        "sparsity": {"sparsity": 0.75, "seed": 0},
        "decode": {"num_beams": 2},
    }
    config = config_from_tables(tables)
    tokenizer = Tokenizer.train(["low lower lowest"], 300)
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = Run.create(folder, config, tokenizer, {"kind": "pretrain"})
    model = build_gpt(config.model, 0.75, mask_seed=0, train=config.train)
    save_checkpoint(model, run.checkpoint_folder, 1)
    return run


def test_a_run_is_found_by_its_folder_and_a_preset_by_its_name(
    run: Run, model: GPT
) -> None:
    assert resolve_source(str(run.folder)) == resolve_source(run.folder) == run
    assert resolve_source(run) is run and resolve_source(model) is model
    assert resolve_source("gpt_nano", 0.5) == "gpt_nano"
    assert load_source("gpt_nano", 0.5).sparsity == 0.5
    assert load_source(run).sparsity == 0.75 and load_source(model) is model


def test_what_an_exporter_cannot_start_from_is_refused(
    run: Run, model: GPT, tmp_path: Path
) -> None:
    for source, received in (
        ("gpt_pico", "'gpt_pico', which is neither"),
        (tmp_path / "none", "'.*none', which is neither"),
    ):
        with pytest.raises(
            InputError, match=f"a run or a preset.*Received: {received}"
        ):
            resolve_source(source)
    with pytest.raises(InputError, match="must be a GPT .* Received: int"):
        resolve_source(3)
    with pytest.raises(InputError, match="No run in"):
        resolve_source(tmp_path)
    for known in (run, run.folder, model):
        with pytest.raises(InputError, match="is for presets: .* sparsity=0.5 for "):
            resolve_source(known, 0.5)


@pytest.mark.parametrize("exporter", [to_saved_model, to_tflite, to_xla])
def test_every_exporter_takes_a_sparsity_for_presets_alone(
    run: Run, model: GPT, tmp_path: Path, exporter: Any
) -> None:
    for source in (run, run.folder, str(run.folder), model):
        for sparsity in (0.0, 0.5, 0.75):
            with pytest.raises(
                InputError, match=f"presets: .* sparsity={sparsity} for"
            ):
                exporter(source, tmp_path / "out", sparsity=sparsity)
    wrong: tuple[Any, ...] = (1.0, -0.5, float("nan"), "0.5")
    for sparsity in wrong:
        with pytest.raises(InputError, match="`sparsity` must be "):
            exporter("gpt_nano", tmp_path / "out", sparsity=sparsity)
    assert not (tmp_path / "out").exists()


def test_a_text_model_takes_a_sparsity_for_presets_alone(
    run: Run, model: GPT, tmp_path: Path
) -> None:
    for source in (run, model):
        with pytest.raises(InputError, match="presets: .* sparsity=0.5 for"):
            to_text_model(source, run.tokenizer(), tmp_path / "out", sparsity=0.5)
    assert not (tmp_path / "out").exists()


def test_exporters_take_the_folder_of_a_run(run: Run, tmp_path: Path) -> None:
    # TFLite files and models of text are exported from runs in tests/test_cli.py.
    cards = (
        to_xla(str(run.folder), tmp_path / "xla", ("forward",), check=False),
        to_saved_model(run.folder, tmp_path / "saved", signatures=["serving_default"]),
    )
    for card in cards:
        assert card.sparsity == pytest.approx(0.75, abs=2e-3)
        assert card.vocabulary_size == 300


def test_a_text_model_of_a_model_alone_needs_a_tokenizer(
    model: GPT, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="`tokenizer` must be given, or `model` be a"):
        to_text_model(model, None, tmp_path / "text")
