import dataclasses
from pathlib import Path

import numpy as np
import pytest

from spdf_keras.config import DecodeConfig, FinetuneConfig
from spdf_keras.data.tasks.e2e import find_split, read_e2e
from spdf_keras.data.tasks.registry import get_task
from spdf_keras.errors import InputError
from spdf_keras.evaluation.checks import context_room
from spdf_keras.evaluation.scores import evaluate
from spdf_keras.evaluation.texts import write_lines
from spdf_keras.training.finetune import finetune
from spdf_keras.training.run import Run

SETTINGS = FinetuneConfig(
    batch_size=4, epochs=3, learning_rate=3e-3, warmup_steps=1, label_smoothing=0.0
)


def test_a_sparse_run_is_finetuned_densely_and_not_changed(
    pretrained: Path, task: Path, tmp_path: Path
) -> None:
    base = Run.open(pretrained)
    before = {f: f.read_bytes() for f in sorted(pretrained.rglob("*.safetensors"))}
    train, held_out = (read_e2e(find_split(task, s)) for s in ("train", "validation"))
    result = finetune(base, train, held_out, SETTINGS, tmp_path / "run")
    assert result["steps"] == 3 * 3 and result["epochs"] == result["best_epoch"] == 3
    run = Run.open(tmp_path / "run")
    curve = [r["validation_loss"] for r in run.metrics() if "validation_loss" in r]
    assert curve == sorted(curve, reverse=True) and curve[-1] < curve[0] - 0.1
    assert result["validation_loss"] == curve[-1]
    model, masked = run.load_model(), base.load_model()
    assert model.sparsity == 0.0 and not model.named_masks()
    for path, mask in masked.named_masks().items():
        revived = model.named_weights()[path].numpy()[~mask.numpy()]
        assert (revived != 0).mean() > 0.99
    assert {f: f.read_bytes() for f in before} == before
    assert run.tokenizer().fingerprint == base.tokenizer().fingerprint


def test_with_its_masks_kept_a_run_is_finetuned_sparsely(
    pretrained: Path, task: Path, tmp_path: Path
) -> None:
    base = Run.open(pretrained)
    train, held_out = (read_e2e(find_split(task, s)) for s in ("train", "validation"))
    settings = dataclasses.replace(SETTINGS, keep_masks=True)
    finetune(base, train, held_out, settings, tmp_path / "run", task="e2e")
    run = Run.open(tmp_path / "run")
    model, masked = run.load_model(), base.load_model()
    assert model.sparsity == masked.sparsity == 0.75
    for path, mask in masked.named_masks().items():
        np.testing.assert_array_equal(model.named_masks()[path], mask)
        kernel, before = (m.named_weights()[path].numpy() for m in (model, masked))
        assert not kernel[~mask.numpy()].any()
        assert (kernel != before)[mask.numpy()].mean() > 0.99
    origin = run.origin()
    assert origin["kind"] == "finetune" and origin["task"] == "e2e"
    assert origin["masks"] == "kept" and origin["base"]["sparsity"] == 0.75
    assert origin["base"]["seed"] == 0 and origin["base"]["mask_seed"] == 3
    result = run.result()
    assert result is not None and result["sequences"] == 3 * 12


def test_it_stops_when_the_validation_loss_rises_and_keeps_the_best_epoch(
    pretrained: Path, task: Path, tmp_path: Path
) -> None:
    # Twelve pairs are soon learnt by heart, to the loss of all others.
    train, held_out = (read_e2e(find_split(task, s)) for s in ("train", "validation"))
    settings = dataclasses.replace(SETTINGS, epochs=60, learning_rate=1e-2, patience=2)
    result = finetune(Run.open(pretrained), train, held_out, settings, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    curve = [r["validation_loss"] for r in run.metrics() if "validation_loss" in r]
    best = int(np.argmin(curve)) + 1
    assert result["best_epoch"] == best
    assert result["epochs"] == len(curve) == best + 2 < 60
    (checkpoint,) = run.checkpoints()
    assert checkpoint.name == f"step-{3 * best:08d}"


def test_examples_that_do_not_fit_are_refused_before_anything_is_written(
    pretrained: Path, task: Path, tmp_path: Path
) -> None:
    train = read_e2e(find_split(task, "train"))
    settings = dataclasses.replace(SETTINGS, sequence_length=10)
    with pytest.raises(InputError, match="more than the 10 that fit. Raise `finetune."):
        finetune(Run.open(pretrained), train, train, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_task_of_long_inputs_is_cut_in_training_and_in_decoding(
    pretrained: Path, tmp_path: Path
) -> None:
    base = Run.open(pretrained)
    rows = [f"{n} {'news of the town ' * 60},Sum {n}" for n in range(4)]
    (tmp_path / "train.csv").write_text("\n".join(["article,summary", *rows]))
    task = get_task("curation")
    examples = task.read(tmp_path, "train")
    settings = dataclasses.replace(SETTINGS, epochs=1, sequence_length=48)
    with pytest.raises(InputError, match="more than the 48 that fit"):
        finetune(base, examples, examples, settings, tmp_path / "run")
    cut = task.cut_context
    result = finetune(
        base, examples, examples, settings, tmp_path / "run", cut_context=cut
    )
    assert result["cut_contexts"] == 2 * 4  # four in each split
    config = dataclasses.replace(
        Run.open(tmp_path / "run").config(), decode=DecodeConfig(max_new_tokens=8)
    )
    assert context_room(config) == 40
    evaluated = evaluate(base.load_model(), base.tokenizer(), examples, config, task)
    assert evaluated.cut_contexts == len(evaluated.hypotheses) == 4


def test_every_input_is_decoded_once_and_scored(
    pretrained: Path, task: Path, tmp_path: Path
) -> None:
    run = Run.open(pretrained)
    examples = read_e2e(find_split(task, "validation"))
    done: list[int] = []
    settings = DecodeConfig(max_new_tokens=8, batch_size=2)
    config = dataclasses.replace(run.config(), decode=settings)
    model, tokenizer = run.load_model(), run.tokenizer()
    e2e = get_task("e2e")
    result = evaluate(model, tokenizer, examples, config, e2e, done.append)
    assert len(result.hypotheses) == len(examples) == done[-1] == 5
    assert 0 <= (result.scores.values["bleu"] or 0) < 0.5
    write_lines(tmp_path / "out.txt", ["one\ntwo", "three"])
    assert (tmp_path / "out.txt").read_text() == "one two\nthree\n"
