import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

import spdf_keras.export
from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.errors import ExportError, InputError
from spdf_keras.export import ExportCard, to_xla
from spdf_keras.export.bitmask import Bitmask
from spdf_keras.export.runners import run_xla
from spdf_keras.export.runners.run_xla import RunError, XLAModel
from spdf_keras.export.runners.xla_artefact import exported
from spdf_keras.export.weights import WeightSource
from spdf_keras.export.xla import check as xla_check

RUNNER = Path(spdf_keras.export.__path__[0]) / "runners" / "run_xla.py"

# Sums of 64 to 256 float32 products in another order: 1e-6 of the largest logit.
TOLERANCE = 1e-5

ALL = ("forward", "prefill", "decode", "train_step")
SIZES: dict[str, Any] = {"sequence_length": 32, "prompt_length": 16, "cache_length": 64}
PROMPTS = ([7], [1, 2, 3, 4, 5], list(range(100, 116)))

# Runs where TensorFlow is not: logits, greedy tokens and 20 steps of training.
WITHOUT_TENSORFLOW = """
import json, sys
import numpy as np
folder, given = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, sys.argv[3])
from run_xla import XLAModel
model, result = XLAModel(folder), {}
if "forward" in model.programs:
    tokens = np.array(given["token_ids"], np.int32)
    result["logits"] = model.run("forward", token_ids=tokens)["logits"].tolist()
    result["new"] = [model.generate(p, given["count"]) for p in given["prompts"]]
if "train_step" in model.programs:
    batches = np.array(given["batches"], np.int32)
    steps = [model.train_step(b[:, :-1], b[:, 1:]) for b in batches]
    result["losses"] = [step["loss"] for step in steps]
    result["norms"] = [step["gradient_norm"] for step in steps]
    result["zeros_kept"] = all(
        not np.asarray(model.state[part + name[5:]])[~np.asarray(mask)].any()
        for name, mask in model.state.items() if name.startswith("mask/")
        for part in ("", "m/", "v/")
    )
    result["num_masks"] = sum(name.startswith("mask/") for name in model.state)
ours = {"spdf_keras", "tensorflow", "tf_keras", "keras"}
result["loaded"] = sorted(ours & {name.partition(".")[0] for name in sys.modules})
print(json.dumps(result))
"""


def in_jax(folder: str, **given: Any) -> dict[str, Any]:
    arguments = (
        "-I",
        "-c",
        WITHOUT_TENSORFLOW,
        folder,
        json.dumps(given),
        str(RUNNER.parent),
    )
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def models(model: GPT, small_model: GPT) -> dict[str, GPT]:
    """The model behind each of `cards`."""
    return {"dense": model, "load": model, "step": small_model}


@pytest.fixture(scope="module")
def cards(models: dict[str, GPT], tmp_path_factory: Any) -> dict[str, ExportCard]:
    """Dense, sparse unpacked at load (with a training step), and inside each step."""
    options: dict[str, dict[str, Any]] = {
        "dense": {"signatures": ALL[:3]},
        "load": {"signatures": ALL, "sparse": True},
        "step": {"signatures": ALL[:3], "sparse": True, "unpack": "step"},
    }
    folder = tmp_path_factory.mktemp("xla")
    return {
        name: to_xla(models[name], folder / name, **chosen, **SIZES)
        for name, chosen in options.items()
    }


@pytest.mark.parametrize("name", ["dense", "load", "step"])
def test_jax_alone_gives_the_keras_models_logits_and_32_greedy_tokens(
    models: dict[str, GPT], cards: dict[str, ExportCard], name: str
) -> None:
    model = models[name]
    token_ids = np.random.default_rng(1).integers(512, size=(1, 32))
    result = in_jax(
        cards[name].path,
        token_ids=token_ids.tolist(),
        prompts=PROMPTS,
        count=32,
        batches=[],
    )
    assert result["loaded"] == []
    expected = model(token_ids).numpy()
    atol = TOLERANCE * np.abs(expected).max()
    np.testing.assert_allclose(result["logits"], expected, atol=atol)
    assert result["new"] == model.generate(PROMPTS, max_new_tokens=32)


@pytest.mark.parametrize("sparse", [pytest.param(False, marks=pytest.mark.slow), True])
def test_20_steps_in_jax_give_keras_losses_and_keep_every_mask(
    one_block: GPTConfig, tmp_path: Path, sparse: bool
) -> None:
    settings: dict[str, Any] = {
        "warmup_tokens": 1000,
        "tokens": 10_000,
        "learning_rate": 3e-3,
    }
    model = build_gpt(one_block, 0.75, seed=2, **settings)
    card = to_xla(
        model,
        tmp_path / "train",
        ("train_step",),
        sparse=sparse,
        batch_size=4,
        sequence_length=16,
        check=False,
    )
    batches = np.random.default_rng(0).integers(512, size=(20, 4, 17))
    batches %= 64  # something to learn
    result = in_jax(card.path, batches=batches.tolist())
    step = tf.function(model.train_step)
    losses, norms = [], []
    for batch in tf.constant(batches, tf.int32):
        logs = step((batch[:, :-1], batch[:, 1:]))
        losses.append(float(logs["batch_loss"]))
        norms.append(float(logs["gradient_norm"]))
    np.testing.assert_allclose(result["losses"], losses, rtol=0, atol=1e-4)
    np.testing.assert_allclose(result["norms"], norms, rtol=1e-3)
    assert losses[-1] < losses[0] - 0.5
    assert result["zeros_kept"] and result["num_masks"] == 6
    assert result["loaded"] == []


def test_programs_are_portable_and_take_weights_as_arguments(
    model: GPT, cards: dict[str, ExportCard]
) -> None:
    folder = Path(cards["load"].path)
    about = json.loads((folder / "artefact.json").read_text())
    paths = list(model.named_weights())
    for name, program in about["programs"].items():
        blob = (folder / f"{name}.stablehlo").read_bytes()
        assert b"StableHLO_v1.0.0" in blob[:32]
        text = exported(name, program, blob).mlir_module()
        # Six products a block, two of attention, and the projection to tokens.
        products = 2 * (6 + 2) + 1
        trained = 3 * products if name == "train_step" else products
        assert text.count("stablehlo.dot") == trained, name
        assert "custom_call" not in text
        assert "@main" in text
        names = [argument["name"] for argument in program["arguments"]]
        assert set(paths) < set(names) and len(set(names)) == len(names)
        # Nothing of a size of weights is a constant.
        assert len(blob) < 200_000
    decode = about["programs"]["decode"]
    assert [a for a in decode["arguments"] if a["role"] in ("input", "cache")] == [
        {"name": "token_ids", "role": "input", "shape": [1, 1], "dtype": "int32"},
        {"name": "position", "role": "input", "shape": [1], "dtype": "int32"},
        *(
            {"name": n, "role": "cache", "shape": [1, 4, 64, 16], "dtype": "float32"}
            for n in ("k_0", "v_0", "k_1", "v_1")
        ),
    ]
    assert [r["name"] for r in decode["results"]] == [
        "logits",
        "k_0",
        "v_0",
        "k_1",
        "v_1",
    ]


def test_weights_are_plain_safetensors_and_bitmasks_decode_to_them(
    model: GPT, cards: dict[str, ExportCard]
) -> None:
    source = WeightSource.of(model)
    dense, sparse = (
        load_file(Path(cards[name].path, "weights.safetensors"))
        for name in ("dense", "load")
    )
    kernel_bytes = code_bytes = 0
    for path, shape in source.shapes.items():
        np.testing.assert_array_equal(dense[path], source.read(path))
        if path in sparse:
            np.testing.assert_array_equal(sparse[path], dense[path])
            continue
        code = Bitmask(shape, sparse[f"{path}.bits"], sparse[f"{path}.values"])
        np.testing.assert_array_equal(code.decode(), dense[path])
        kernel_bytes += dense[path].nbytes
        code_bytes += code.size_bytes
    assert kernel_bytes == 4 * 98304
    assert code_bytes <= 0.29 * kernel_bytes
    for card in cards.values():
        files = [p for p in Path(card.path).iterdir() if p.name != "card.json"]
        assert card.size_bytes == sum(p.stat().st_size for p in files)
        assert card.sparsity == pytest.approx(0.75, abs=1e-4)
        assert card.relative_error is not None and card.relative_error < TOLERANCE
    assert cards["load"].size_bytes < 1.1 * cards["load"].bound_size_bytes
    # The dense twin has a header too.
    assert cards["dense"].size_bytes == cards["dense"].dense_size_bytes


def test_half_of_the_weights_take_at_most_054_of_their_bytes(
    one_block: GPTConfig, tmp_path: Path
) -> None:
    model = build_gpt(one_block, 0.5)
    card = to_xla(model, tmp_path / "x", ("decode",), sparse=True, check=False)
    assert "take 0.531 of their dense bytes" in card.notes[1]
    assert card.max_abs_error is None and "Not run" in card.notes[0]


def test_bfloat16_is_stored_and_computed_as_the_keras_model_does(
    one_block: GPTConfig, tmp_path: Path
) -> None:
    model = build_gpt(one_block, 0.75, precision="mixed_bfloat16")
    card = to_xla(model, tmp_path / "x", ALL[:1], sparse=True, batch_size=2, **SIZES)
    runner = XLAModel(card.path)
    assert runner.about["compute_dtype"] == "bfloat16"
    token_ids = np.random.default_rng(1).integers(512, size=(2, 32))
    logits = runner.run("forward", token_ids=token_ids)["logits"]
    expected = model(token_ids).numpy()
    # 8 bits of every product and sum, which XLA may round at other places.
    np.testing.assert_allclose(logits, expected, atol=0.03 * np.abs(expected).max())
    weights = Path(card.path, "weights.safetensors").stat().st_size
    assert weights < 0.5 * 4 * model.sizes.num_parameters


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("weights.safetensors", "has the wrong checksum"),
        ("forward.stablehlo", "'forward' has the wrong checksum"),
        ("artefact.json", "is no XLA artefact"),
    ],
)
def test_a_damaged_file_is_detected(
    cards: dict[str, ExportCard], tmp_path: Path, file: str, told: str
) -> None:
    folder = tmp_path / "x"
    shutil.copytree(cards["load"].path, folder)
    content = bytearray((folder / file).read_bytes())
    content[-3] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(RunError, match=told):
        XLAModel(folder).run("forward", token_ids=np.zeros((1, 32), np.int32))
    shutil.copytree(cards["load"].path, folder, dirs_exist_ok=True)
    with (folder / "weights.safetensors").open("r+b") as cut:
        cut.truncate(1000)
    with pytest.raises(RunError, match="cut short"):
        XLAModel(folder)


def test_the_command_line_checks_generates_and_times(
    small_model: GPT, cards: dict[str, ExportCard]
) -> None:
    done = subprocess.run(
        [sys.executable, str(RUNNER), cards["step"].path, "--check", "--benchmark"]
        + ["--rounds", "1", "--token-ids", "1,2,3", "--max-new-tokens", "4"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    generated, checked, timed = map(json.loads, done.stdout.splitlines())
    (expected,) = small_model.generate([[1, 2, 3]], max_new_tokens=4)
    assert generated["new_token_ids"] == expected
    assert checked["passed"] and 0 < checked["error"] < TOLERANCE
    assert set(timed["programs"]) == set(ALL[:3])
    for result in timed["programs"].values():
        assert result["latency_ms"] > 0 and 0 < result["share_of_peak"] < 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--token-ids", ""], "1 to 16 tokens, .* Received: 0 tokens"),
        (["--token-ids", "1,600"], r"in \[0, 512\). Received: 1 to 600"),
        (["--token-ids", "1,x"], "must be integers"),
    ],
)
def test_a_bad_prompt_is_told_in_one_sentence(
    cards: dict[str, ExportCard], arguments: list[str], told: str
) -> None:
    with pytest.raises(RunError, match=told):
        run_xla.XLAModel(cards["load"].path).generate(run_xla._token_ids(arguments[1]))


def test_inputs_of_a_program_are_checked(cards: dict[str, ExportCard]) -> None:
    runner = XLAModel(cards["dense"].path)
    with pytest.raises(
        RunError, match=r"`token_ids` of forward .* \[1, 32\].*\[1, 3\]"
    ):
        runner.run("forward", token_ids=np.zeros((1, 3)))
    with pytest.raises(RunError, match="`position` of decode .* Received: nothing"):
        runner.run("decode", token_ids=np.zeros((1, 1), np.int32))
    with pytest.raises(RunError, match="must be one of forward, .* Received: back"):
        runner.run("back")
    with pytest.raises(RunError, match="is no XLA artefact"):
        XLAModel("nowhere")


def test_a_wrong_program_is_not_delivered(
    small_model: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = xla_check.reference_logits
    monkeypatch.setattr(xla_check, "reference_logits", lambda *a: 1.001 * right(*a))
    with pytest.raises(ExportError, match="differ from the Keras model's by 0.001"):
        to_xla(small_model, tmp_path / "x", ("forward",), **SIZES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"signatures": ("backward",)}, "`signatures` must be of forward, .* backward"),
        ({"signatures": ()}, "Received: nothing"),
        ({"unpack": "never"}, "`unpack` must be of load, step. Received: never"),
        ({"precision": "int8"}, "`precision` must be of float32, .* Received: int8"),
        ({"cache_length": 65}, r"`cache_length` must be in \[1, 64\]"),
        ({"prompt_length": 65}, r"`prompt_length` must be in \[1, 64\]"),
        ({"batch_size": 0}, "`batch_size` must be positive"),
        (
            {"signatures": ("train_step",), "sparse": True, "unpack": "step"},
            "`unpack` must be 'load' for `train_step`",
        ),
        (
            {"signatures": ("train_step",), "precision": "mixed_float16"},
            "does not scale the loss",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused(
    model: GPT, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        to_xla(model, tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())


def test_a_model_without_our_optimizer_has_no_training_step(
    sizes: GPTConfig, tmp_path: Path
) -> None:
    model = build_gpt(sizes)
    model.compile("sgd")
    with pytest.raises(InputError, match="compiled with spdf_keras' AdamW"):
        to_xla(model, tmp_path / "x", ("train_step",))
