"""`spdf-keras convert`: every command takes its run, and bad input leaves none."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras import GPT
from spdf_keras.cli import main
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.export import to_huggingface
from spdf_keras.interchange.convert import convert, open_source
from spdf_keras.training import checkpoint
from spdf_keras.training.run import Run


@pytest.fixture(scope="module")
def run(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "run"
    assert main(["convert", f"hf:{exported}", "--out", str(folder)]) == 0
    return folder


def test_the_run_is_finished_and_has_the_model(
    run: Path, sparse_model: GPT, tokenizer: Tokenizer
) -> None:
    opened = Run.open(run)
    assert opened.caution() == ""
    assert [path.name for path in opened.checkpoints()] == ["step-00000000"]
    assert opened.tokenizer().fingerprint == tokenizer.fingerprint
    config = opened.config()
    assert config.model == sparse_model.sizes
    assert config.sparsity == sparse_model.mask_settings
    origin = opened.origin()
    assert origin["kind"] == "convert"
    assert origin["source"]["format"] == "huggingface"
    assert list(origin["source"]["weights"]) == ["model.safetensors"]
    model = opened.load_model()
    for named in ("named_weights", "named_masks"):
        ours, theirs = getattr(sparse_model, named)(), getattr(model, named)()
        assert ours.keys() == theirs.keys()
        for path, value in ours.items():
            np.testing.assert_array_equal(value, theirs[path])


def test_the_command_says_what_was_read(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert main(["convert", f"hf:{exported}", "--out", out, "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert result["sparsity"] == 0.75
    assert any("75%" in line and f"{result['parameters']:,}" in line for line in lines)


def test_generate_finetune_evaluate_score_and_export_take_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(run), "--prompt", "low", "--json"]) == 0
    data = tmp_path / "e2e"
    data.mkdir()
    for split in ("trainset", "devset", "testset_w_refs"):
        rows = ["mr,ref", *('"name[Low], area[wide]","Low is wide."',) * 3]
        (data / f"{split}.csv").write_text("\n".join(rows) + "\n")
    tuned = str(tmp_path / "tuned")
    (tmp_path / "c.toml").write_text(
        "[finetune]\nepochs = 1\nbatch_size = 1\nsequence_length = 48\n"
        "[decode]\nmax_new_tokens = 4\n"
    )
    task = ["--task", "e2e", "--data", str(data)]
    settings = ["--config", str(tmp_path / "c.toml")]
    assert main(["finetune", str(run), *task, *settings, "--out", tuned]) == 0
    assert Run.open(tuned).origin()["base"]["sparsity"] == 0.75
    assert main(["evaluate", tuned, *task]) == 0
    report = tmp_path / "report"
    assert main(["report", tuned, str(run), "--out", str(report)]) == 0
    assert " from 1 runs." in (report / "report.md").read_text()
    capsys.readouterr()
    assert main(["report", str(run), "--out", str(tmp_path / "none")]) == 2
    assert "A report is of trainings." in capsys.readouterr().err
    for name, source in (("a", run), ("b", Path(tuned))):
        out = str(tmp_path / name)
        command = ["export", str(source), "--format", "huggingface", "--out", out]
        assert main(command) == 0
    assert not (tmp_path / "b" / "masks.safetensors").exists()
    card = (tmp_path / "b" / "README.md").read_text()
    assert "| e2e, validation split," in card and str(tmp_path) not in card
    assert "tokenizer(text + tokenizer.eos_token" in card
    card = (tmp_path / "a" / "README.md").read_text()
    assert "Converted from | checkpoint" in card and f"/{run.parent.name}" not in card


def test_a_converted_run_is_exported_to_the_bytes_that_it_came_from(
    run: Path, exported: Path, tmp_path: Path
) -> None:
    to_huggingface(run, tmp_path / "again")
    for name in ("model", "masks"):
        a, b = (f / f"{name}.safetensors" for f in (exported, tmp_path / "again"))
        assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("gpt2", "`SOURCE` must be hf:FOLDER or keras_nlp:FOLDER. Received: 'gpt2'."),
        ("pt:gpt2", "`SOURCE` must be hf:FOLDER or keras_nlp:FOLDER."),
        ("hf:", "`SOURCE` must be hf:FOLDER"),
        ("hf:nowhere", "There is no folder 'nowhere'."),
        ("hf:empty", "No model in 'empty': there is no config.json."),
        ("keras_nlp:empty", "No preset in 'empty': there is no config.json."),
        ("keras_nlp:gpt2_base_en", "No preset in 'gpt2_base_en'"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_sentence_and_leaves_nothing(
    source: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert main(["convert", source, "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_model_without_tokenizer_needs_one(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(exported / name, bare)
    command = ["convert", f"hf:{bare}", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert "No tokenizer in" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*command, "--tokenizer", str(exported)]) == 0
    assert Run.open(tmp_path / "run").config().sparsity.sparsity == 0


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(
    exported: Path, tmp_path: Path
) -> None:
    texts = ["".join(map(chr, range(32, 127))) * 2, "many different words here"] * 3
    large = Tokenizer.train(texts, 320)
    assert large.vocabulary_size > 300
    with pytest.raises(InputError, match="at most the 300 tokens of the model"):
        convert(f"hf:{exported}", tmp_path / "run", tokenizer=large)
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_stays_as_it_is(run: Path, exported: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    for folder in (run, exported):
        with pytest.raises(InputError, match="is in use: choose another"):
            convert(f"hf:{exported}", folder)
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*")}


def test_a_conversion_that_was_stopped_is_done_again(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    for place, name in ((checkpoint, "sync_folder"), (Run, "finish")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, stop)
            with pytest.raises(KeyboardInterrupt):
                convert(open_source(f"hf:{exported}"), tmp_path / "run")
    convert(f"hf:{exported}", tmp_path / "run")
    assert Run.open(tmp_path / "run").result() is not None


def test_what_has_no_effect_is_told_and_recorded(
    exported: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    for name, field in (("config", "attn_pdrop"), ("generation_config", "min_p")):
        file = copy / f"{name}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), field: 0.1}))
    told: list[str] = []
    convert(f"hf:{copy}", tmp_path / "run", tell=told.append)
    assert any("`min_p` of" in note for note in told)
    assert any("attn_pdrop=0.1 has no effect" in note for note in told)
    assert Run.open(tmp_path / "run").origin()["notes"] == told
