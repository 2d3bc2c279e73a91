"""Fine-tuning with LoRA, from the run to the merged run, and through the commands."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import assert_same, finish, wait_for
from safetensors.numpy import load_file

from spdf_keras.cli import main
from spdf_keras.config import Config, FinetuneConfig
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tasks.e2e import find_split, read_e2e
from spdf_keras.errors import InputError, StoppedError
from spdf_keras.export import to_peft, to_tflite
from spdf_keras.training.finetune import finetune
from spdf_keras.training.merging import merge_run
from spdf_keras.training.pretrain import pretrain
from spdf_keras.training.run import Run

SETTINGS = FinetuneConfig(
    batch_size=4,
    epochs=3,
    learning_rate=2e-2,
    warmup_steps=1,
    label_smoothing=0.0,
    lora_rank=4,
    lora_dropout=0.2,
)


def tune(base: Path, task: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    train, held_out = (read_e2e(find_split(task, s)) for s in ("train", "validation"))
    tuned = dataclasses.replace(SETTINGS, **settings)
    return finetune(Run.open(base), train, held_out, tuned, folder, task="e2e")


@pytest.fixture(scope="module")
def sparse(
    config: Config, shards: Shards, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A pre-trained run whose products skip zeros."""
    folder = tmp_path_factory.mktemp("base") / "sparse"
    train = dataclasses.replace(config.train, compute="sparse")
    pretrain(dataclasses.replace(config, train=train), shards, folder)
    return folder


@pytest.fixture(scope="module")
def tuned(sparse: Path, task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "lora"
    result = tune(sparse, task, folder)
    curve = [
        r["validation_loss"] for r in Run(folder).metrics() if "validation_loss" in r
    ]
    assert result["validation_loss"] == min(curve) < curve[0]
    return folder


def test_a_run_holds_the_base_to_the_bit_and_the_moments_of_the_adapter_alone(
    sparse: Path, tuned: Path
) -> None:
    before = Run.open(sparse).checkpoint()
    after = Run.open(tuned).checkpoint()
    weights, old = (load_file(c / "weights.safetensors") for c in (after, before))
    masks, old_masks = (load_file(c / "masks.safetensors") for c in (after, before))
    adapters = {path for path in weights if "/adapter_" in path}
    assert len(adapters) == 2 * 2 * 2 and weights.keys() - adapters == old.keys()
    for path, value in old.items():
        assert value.tobytes() == weights[path].tobytes()
    for path, mask in old_masks.items():
        assert mask.tobytes() == masks[path].tobytes()
    assert all(weights[path].any() for path in adapters)
    moments = load_file(after / "optimizer.safetensors")
    assert {path[2:] for path in moments} == adapters
    origin = Run.open(tuned).origin()
    assert origin["masks"] == "kept" and origin["sparse_kernels"]
    model = Run.open(tuned).load_model()
    assert model.lora == SETTINGS.lora and model.sparsity == 0.75
    assert model.sparse_kernels == origin["sparse_kernels"]


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param({}, marks=pytest.mark.slow, id="one"),
        pytest.param({"micro_batches": 2}, id="parts"),
    ],
)
def test_a_training_that_was_stopped_goes_on_to_the_same_bytes(
    sparse: Path,
    task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ways: dict[str, int],
) -> None:
    tune(sparse, task, tmp_path / "whole", checkpoint_every=2, **ways)
    from spdf_keras.training import saving

    save = saving.save_checkpoint

    def stop(model: Any, folder: Path, step: int, *rest: Any) -> Path:
        path = save(model, folder, step, *rest)
        if step == 4:
            raise StoppedError("killed", 9)
        return path

    with monkeypatch.context() as context:
        context.setattr(saving, "save_checkpoint", stop)
        with pytest.raises(StoppedError):
            tune(sparse, task, tmp_path / "cut", checkpoint_every=2, **ways)
    tune(sparse, task, tmp_path / "cut", checkpoint_every=2, **ways)
    assert_same(tmp_path / "cut", tmp_path / "whole")
    with pytest.raises(InputError, match="was started with finetune.lora_rank=4"):
        tune(sparse, task, tmp_path / "cut", checkpoint_every=2, lora_rank=2, **ways)


@pytest.mark.parametrize(
    "precision",
    ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)],
)
def test_it_trains_in_mixed_precision(
    config: Config, shards: Shards, task: Path, tmp_path: Path, precision: str
) -> None:
    train = dataclasses.replace(config.train, precision=precision)
    pretrain(dataclasses.replace(config, train=train), shards, tmp_path / "base")
    recompute = precision == "mixed_float16"
    tune(tmp_path / "base", task, tmp_path / "run", recompute=recompute)
    losses = [r["loss"] for r in Run(tmp_path / "run").metrics() if "loss" in r]
    assert len(losses) == 9 and losses[-1] < losses[0]


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_to_the_same_bytes(
    sparse: Path, task: Path, tmp_path: Path
) -> None:
    settings = ["epochs=8", "batch_size=2", "checkpoint_every=3", "learning_rate=1e-2"]
    command = [sys.executable, "-m", "spdf_keras", "finetune", str(sparse), "--lora"]
    command += ["--data", str(task)]
    command += [part for s in settings for part in ("--set", f"finetune.{s}")]

    def start(folder: Path) -> "subprocess.Popen[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*command, "--out", str(folder)], **pipes)  # type: ignore[call-overload]

    finish(start(tmp_path / "whole"))
    for count in (1, 3):
        process = start(tmp_path / "cut")
        step = f"step-{3 * count:08d}"
        wait_for(lambda: (tmp_path / "cut" / "checkpoints" / step).exists(), process)  # noqa: B023
        process.kill()
        finish(process, -signal.SIGKILL)
    finish(start(tmp_path / "cut"))
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_an_adapter_goes_out_and_starts_another_training(
    sparse: Path, tuned: Path, task: Path, tmp_path: Path, capsys: Any
) -> None:
    peft = tmp_path / "peft"
    assert main(["export", str(tuned), "--format", "peft", "--out", str(peft)]) == 0
    fields = json.loads((peft / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == "sparse" and fields["r"] == 8
    assert json.loads((peft / "card.json").read_text())["max_abs_error"] == 0.0
    prompt = ["--prompt", "name[Aromi]", "--task", "e2e"]
    capsys.readouterr()
    for command in (
        ["generate", str(tuned), *prompt],
        ["generate", str(sparse), *prompt, "--adapter", str(peft)],
    ):
        assert main(command) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    command = ["finetune", str(sparse), "--data", str(task), "--lora"]
    command += ["--adapter", str(peft), "--set", "finetune.epochs=1"]
    command += ["--set", "finetune.learning_rate=1e-30", "--json"]
    assert main([*command, "--out", str(tmp_path / "next")]) == 0
    after, before = (Run.open(f).load_model() for f in (tmp_path / "next", tuned))
    assert after.lora is not None
    assert (after.lora.rank, after.lora.alpha) == (4, 32.0)
    for path, weight in before.named_adapters().items():
        np.testing.assert_allclose(after.named_adapters()[path], weight, rtol=1e-6)
    assert main([*command[:-1], "--out", str(tmp_path / "next")]) == 0  # it is finished
    capsys.readouterr()
    again = [part for part in command if part not in ("--adapter", str(peft))]
    again += ["--set", "finetune.lora_dropout=0.2", "--out", str(tmp_path / "next")]
    assert main(again) == 2
    assert "was started from another adapter, or from none" in capsys.readouterr().err


def test_a_merge_makes_a_run_that_every_command_takes(
    tuned: Path, tmp_path: Path, capsys: Any
) -> None:
    assert main(["merge", str(tuned), "--out", str(tmp_path / "dense")]) == 0
    said = capsys.readouterr().err
    assert "The merge makes the base dense: 75% of its masked weights were zero" in said
    masked = ["merge", str(tuned), "--keep-masks", "--out", str(tmp_path / "masked")]
    assert main([*masked, "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out.splitlines()[-1])
    assert result["sparsity"] == 0.75 and 0.1 < result["kept"] < 0.5
    assert "computes another function than the one that was trained" in printed.err
    ids = np.arange(40)[None]
    model, dense, kept = (
        Run.open(f).load_model()
        for f in (tuned, tmp_path / "dense", tmp_path / "masked")
    )
    scale = np.abs(model(ids)).max()
    assert np.abs(dense(ids) - model(ids)).max() < 1e-4 * scale
    assert np.abs(kept(ids) - model(ids)).max() > 1e-3 * scale
    assert dense.sparsity == 0 and kept.sparsity == 0.75 and dense.lora is None
    to_tflite(Run.open(tmp_path / "dense"), tmp_path / "dense.tflite", cache_length=16)
    assert main(masked) == 2
    assert "is in use: choose another" in capsys.readouterr().err
    assert main(["merge", str(tmp_path / "dense"), "--out", str(tmp_path / "a")]) == 2
    assert "which has no adapter" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_bad_input_is_one_sentence_and_nothing_is_written(
    pretrained: Path, tuned: Path, task: Path, tmp_path: Path, capsys: Any
) -> None:
    start = ["finetune", str(pretrained), "--data", str(task)]
    out = tmp_path / "out"
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    merged = "Merge it with `spdf-keras merge`, and take the new run."
    for command, sentence in (
        (
            [*start, "--lora", "--set", "finetune.lora_rank=0"],
            "at least 1 with --lora.",
        ),
        (
            [*start, "--lora", "--set", 'finetune.lora_targets=["c_attn"]'],
            "must be some of query, key, value,",
        ),
        ([*start, "--lora", "--set", "finetune.lora_rank=33"], "must be at most 32"),
        ([*start, "--adapter", str(tmp_path)], "`--adapter` needs `--lora`"),
        ([*start, "--lora", "--adapter", str(tmp_path)], "is a pickle, which may run"),
        (["finetune", str(tuned), "--data", str(task)], merged),
        (["export", str(tuned), "--format", "tflite"], merged),
        (["export", str(tuned), "--format", "huggingface"], merged),
        (["export", str(pretrained), "--format", "peft"], "which has no adapter"),
        (["export", "gpt_nano", "--format", "peft"], "must be a fine-tuning with LoRA"),
        (["merge", str(pretrained)], "which has no adapter"),
    ):
        assert main([*command, "--out", str(out)]) == 2, command
        error = capsys.readouterr().err
        assert sentence in error and "Traceback" not in error, (command, error)
        assert not out.exists(), command
    prompt = ["generate", str(tuned), "--prompt", "a", "--adapter", str(tmp_path)]
    assert main(prompt) == 2 and merged in capsys.readouterr().err


def test_masks_cannot_be_kept_where_a_dense_base_has_none(
    config: Config, shards: Shards, task: Path, tmp_path: Path
) -> None:
    dense = dataclasses.replace(config.sparsity, sparsity=0.0)
    pretrain(dataclasses.replace(config, sparsity=dense), shards, tmp_path / "base")
    with pytest.raises(InputError, match="`keep_masks` must be false with LoRA on"):
        tune(tmp_path / "base", task, tmp_path / "run", keep_masks=True)
    tune(tmp_path / "base", task, tmp_path / "run", epochs=1)
    merged = merge_run(Run.open(tmp_path / "run"), tmp_path / "merged")
    assert merged == {"sparsity_before": 0.0, "sparsity": 0.0, "kept": 1.0}
    card = to_peft(tmp_path / "run", tmp_path / "peft", base_model="gpt2")
    assert card.sparsity == 0.0
