"""Programs that skip zeros on CPUs, against the portable programs beside them."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spdf_keras.export
from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.errors import InputError
from spdf_keras.export import ExportCard, to_xla
from spdf_keras.export.runners.run_xla import LIBRARY, RunError, XLAModel
from spdf_keras.export.runners.xla_artefact import exported
from spdf_keras.export.runners.xla_library import SkippingLibrary
from spdf_keras.export.xla import calls
from spdf_keras.native.build import library_path

RUNNER = Path(spdf_keras.export.__path__[0]) / "runners" / "run_xla.py"

# Sums of 64 to 256 float32 products in another order: 1e-6 of the largest logit.
TOLERANCE = 1e-5

ALL = ("forward", "prefill", "decode", "train_step")
SIZES: dict[str, Any] = {"sequence_length": 32, "prompt_length": 16, "cache_length": 64}
SKIPPING: dict[str, Any] = {"sparse": True, "skip_zeros": "cpu", **SIZES}
BATCH = 2


@pytest.fixture(scope="session")
def library() -> str:
    """The library's path; it is compiled if it is not there."""
    if not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "c++"))):
        pytest.skip("There is no C++ compiler.")
    return str(library_path("xla"))


@pytest.fixture(scope="module")
def gpt(one_block: GPTConfig) -> GPT:
    """Biases are not zero, and some rows and columns of masks are empty."""
    model = build_gpt(one_block, 0.75, seed=3, learning_rate=3e-3, warmup_tokens=100)
    random = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign_add(random.normal(0, 0.1, weight.shape).astype(np.float32))
    for path, mask in model.named_masks().items():
        bits = mask.numpy()
        bits[:, 3:9] = False
        if path.endswith("output/kernel"):
            bits[10:20] = False
        mask.assign(bits)
    return model


@pytest.fixture(scope="module")
def card(gpt: GPT, tmp_path_factory: Any, library: str) -> ExportCard:
    folder = tmp_path_factory.mktemp("skipping") / "all"
    return to_xla(gpt, folder, ALL, batch_size=BATCH, **SKIPPING)


def pair(card: ExportCard, library: str) -> tuple[XLAModel, XLAModel]:
    """The model that skips zeros, and the portable one."""
    skipping, portable = (XLAModel(card.path, library=name) for name in (library, ""))
    assert skipping.skips_zeros and not portable.skips_zeros
    return skipping, portable


@pytest.fixture(scope="module")
def models(card: ExportCard, library: str) -> tuple[XLAModel, XLAModel]:
    """As `pair`, for tests that leave the weights as they are."""
    return pair(card, library)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(512, size=shape, dtype=np.int32)


def assert_near(received: Any, expected: Any, scale: float | None = None) -> None:
    scale = float(np.abs(expected).max()) if scale is None else scale
    np.testing.assert_allclose(received, expected, rtol=0, atol=TOLERANCE * scale)


def test_logits_are_those_of_the_portable_program_and_of_keras(
    gpt: GPT, card: ExportCard, models: tuple[XLAModel, XLAModel]
) -> None:
    token_ids = draw(1, BATCH, 32)
    expected = gpt(token_ids).numpy()
    for model in models:
        assert_near(model.run("forward", token_ids=token_ids)["logits"], expected)
    assert card.relative_error is not None and card.relative_error < TOLERANCE


def test_32_greedy_tokens_and_all_caches_are_the_same(
    gpt: GPT, models: tuple[XLAModel, XLAModel]
) -> None:
    prompt = [5, 6, 7, 8, 300]
    (expected,) = gpt.generate([prompt], max_new_tokens=32)
    assert [model.generate(prompt, 32) for model in models] == [expected, expected]
    inputs = {"token_ids": draw(2, BATCH, 16), "lengths": np.array([16, 3])}
    first, second = (model.run("prefill", **inputs) for model in models)
    assert first.keys() == second.keys() == {"logits", "k_0", "v_0"}
    for name, value in second.items():
        assert_near(first[name], value)


def test_calls_of_several_threads_at_once_do_not_block_each_other(
    models: tuple[XLAModel, XLAModel],
) -> None:
    model, token_ids = models[0], draw(9, BATCH, 32)
    expected = model.run("forward", token_ids=token_ids)["logits"]
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(model.run, "forward", token_ids=token_ids) for _ in range(40)
        ]
        for call in calls:
            logits = call.result(timeout=120)["logits"]
            np.testing.assert_array_equal(logits, expected)


def test_three_training_steps_move_weights_and_moments_and_other_programs_alike(
    card: ExportCard, library: str
) -> None:
    models = pair(card, library)
    measured: list[list[dict[str, float]]] = [[], []]
    for seed in range(3):
        token_ids = draw(10 + seed, BATCH, 33) % 64
        for model, steps in zip(models, measured, strict=True):
            steps.append(model.train_step(token_ids[:, :-1], token_ids[:, 1:]))
    for first, second in zip(*measured, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
        assert first["gradient_norm"] == pytest.approx(
            second["gradient_norm"], rel=1e-4
        )
    skipping, portable = models
    masks = {n[5:]: np.asarray(m) for n, m in portable.state.items() if "mask/" in n}
    assert len(masks) == 6 and not any("mask/" in name for name in skipping.state)
    for name, value in skipping.state.items():
        # The softmax does not see the bias of keys: its gradient is rounding alone, and
        # Adam makes whole steps of it.
        if name != "block_0/key/bias":
            other = np.asarray(portable.state[name])
            np.testing.assert_allclose(value, other, rtol=1e-4, atol=3e-5)
        path = name.removeprefix("m/").removeprefix("v/")
        if path in masks:
            assert not np.asarray(value)[~masks[path]].any()
        if name in masks:
            assert np.asarray(value)[masks[path]].all()
    # The other programs run with the trained weights.
    inputs = {"token_ids": draw(20, BATCH, 32)}
    first, second = (model.run("forward", **inputs)["logits"] for model in models)
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-3)
    untrained = XLAModel(card.path, library=library).run("forward", **inputs)
    assert np.abs(first - untrained["logits"]).max() > 0.1


def test_a_kernel_that_the_caller_replaces_is_packed_anew(
    models: tuple[XLAModel, XLAModel],
) -> None:
    path, token_ids = "block_0/intermediate/kernel", draw(4, BATCH, 32)
    logits = []
    for model in models:
        before = model.state[path]
        for kernel in (2 * before, before):
            model.state[path] = kernel
            logits.append(model.run("forward", token_ids=token_ids)["logits"])
    doubled, restored, expected, expected_before = logits
    assert_near(doubled, expected)
    assert_near(restored, expected_before)
    assert np.abs(doubled - restored).max() > 0.1


def test_kernels_that_are_unpacked_in_each_step_skip_their_zeros_too(
    gpt: GPT, tmp_path: Path, library: str
) -> None:
    options = {**SKIPPING, "unpack": "step", "check": False}
    card = to_xla(gpt, tmp_path / "x", ALL[:3], **options)
    token_ids = draw(5, 1, 32)
    skipping, portable = pair(card, library)
    assert_near(
        skipping.run("forward", token_ids=token_ids)["logits"],
        portable.run("forward", token_ids=token_ids)["logits"],
    )
    assert not any(name.endswith((".bits", ".values")) for name in skipping.state)
    assert skipping.generate([1, 2], 8) == portable.generate([1, 2], 8)


def test_programs_name_their_calls_and_nothing_of_this_machine(
    gpt: GPT, card: ExportCard, tmp_path: Path
) -> None:
    folder = Path(card.path)
    about = json.loads((folder / "artefact.json").read_text())
    assert about["skipping"]["interface"] == calls.INTERFACE
    for name, program in about["skipping"]["programs"].items():
        blob = (folder / f"{name}.skipping.stablehlo").read_bytes()
        assert b"StableHLO_v1.3.0" in blob[:32]
        text = exported(name, program, blob).mlir_module()
        trains = name == "train_step"
        counts = {target: text.count(f"@{target}(") for target in calls.TARGETS}
        assert counts == {
            calls.LINEAR: 0 if trains else 6,
            calls.MASKED_LINEAR: 6 if trains else 0,
            calls.MASKED_GRADIENTS: 6 if trains else 0,
        }
        assert text.count("api_version = 4") == (12 if trains else 6)
    options = {**SKIPPING, "batch_size": BATCH, "check": False}
    again = to_xla(gpt, tmp_path / "again", ALL, **options)
    for file in folder.glob("*.stablehlo"):
        blob = file.read_bytes()
        assert b"site-packages" not in blob and b"/tensorflow/" not in blob
        assert blob == Path(again.path, file.name).read_bytes(), file.name


def test_the_card_and_the_size_count_both_kinds_of_programs(card: ExportCard) -> None:
    files = [p for p in Path(card.path).iterdir() if p.name != "card.json"]
    assert len([p for p in files if p.name.endswith(".skipping.stablehlo")]) == 4
    assert card.size_bytes == sum(p.stat().st_size for p in files)
    assert any("4 further programs" in note for note in card.notes)
    first, second = card.runtimes[:2]
    assert first.skips_zeros and "with the library" in first.name
    assert not second.skips_zeros
    assert not any("not run" in note.lower() for note in card.notes)


def test_an_export_without_a_compiler_says_that_its_twins_were_not_run(
    gpt: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    card = to_xla(gpt, tmp_path / "x", ("prefill", "decode"), **SKIPPING)
    assert card.max_abs_error is not None
    assert "programs that skip zeros were not run" in card.notes[0]
    assert "no-such-compiler" in card.notes[0]
    # Such a folder is recognised as an export, and replaced.
    options = {**SIZES, "check": False, "overwrite": True}
    to_xla(gpt, tmp_path / "x", ("decode",), sparse=True, **options)
    assert not list((tmp_path / "x").glob("*.skipping.stablehlo"))


def test_without_a_library_the_portable_programs_run_and_say_so(
    card: ExportCard, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(LIBRARY, raising=False)
    assert "neither --library nor SPDF_XLA_LIBRARY" in XLAModel(card.path).products
    monkeypatch.setenv(LIBRARY, library)
    model = XLAModel(card.path)
    assert model.skips_zeros and model.products == f"Zeros are skipped by '{library}'."
    monkeypatch.setattr(jax, "default_backend", lambda: "cuda")
    assert "for CPUs, not for cuda" in XLAModel(card.path).products


def run_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUNNER), *arguments, "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_says_whether_it_skips_zeros(
    card: ExportCard, library: str
) -> None:
    done = run_check(card.path, "--library", library)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["passed"] and result["skips_zeros"]
    assert 0 < result["error"] < TOLERANCE
    # Without the checks of floats and files, the results are compared all the same.
    assert result["products"] == f"Zeros are skipped by '{library}'."


def test_a_library_that_cannot_be_used_is_told_in_one_sentence(
    card: ExportCard, library: str, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.so"
    content = Path(library).read_bytes()
    other = tmp_path / "other.so"
    other.write_bytes(b"text" * 100)
    told = {
        str(tmp_path / "none.so"): "none.so': No such file or directory.",
        str(tmp_path): "Is a directory.",
        str(other): "Cannot load the library",
    }
    for size in (10, 64, 5000, len(content) - 1):
        cut.write_bytes(content[:size])
        done = run_check(card.path, "--library", str(cut))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"The library '{cut}' is cut short.\n"
    for path, sentence in told.items():
        done = run_check(card.path, "--library", path)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert sentence in done.stderr and done.stderr.count("\n") == 1


def test_a_library_of_another_interface_is_refused(
    card: ExportCard, library: str, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    shutil.copytree(card.path, folder)
    about = json.loads((folder / "artefact.json").read_text())
    about["skipping"]["interface"] = 99
    (folder / "artefact.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match=r"of interface 99\. Received: .* interface 1;"):
        XLAModel(folder, library=library)
    assert not XLAModel(folder, library="").skips_zeros


def test_a_damaged_twin_is_detected_and_the_portable_program_still_runs(
    card: ExportCard, library: str, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    shutil.copytree(card.path, folder)
    inputs = {"token_ids": draw(6, BATCH, 32)}
    file = folder / "forward.skipping.stablehlo"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"'forward.skipping' has the wrong checksum"):
        XLAModel(folder, library=library).run("forward", **inputs)
    with pytest.raises(RunError, match="JAX cannot run the program 'forward'"):
        file.write_bytes(content[:500])
        XLAModel(folder, verify=False, library=library).run("forward", **inputs)
    file.unlink()
    with pytest.raises(RunError, match="has no forward.skipping.stablehlo"):
        XLAModel(folder, library=library).run("forward", **inputs)
    XLAModel(folder, library="").run("forward", **inputs)


def test_bits_and_values_that_do_not_fit_are_refused(library: str) -> None:
    opened = SkippingLibrary.open(library, calls.INTERFACE)
    bits, values = np.array([0b10110000], np.uint8), np.ones(3, np.float32)
    assert opened.pack("k", bits, values, [2, 2]).size_bytes > 0
    wrong: list[tuple[Any, Any, list[int]]] = [
        (bits, values[:2], [2, 2]),
        (bits, values, [2, 20]),
        (bits[:0], values, [2, 2]),
        (bits, values, [0, 4]),
        (bits, values, [-2, -2]),
        (bits, values, [1 << 40, 1 << 40]),
    ]
    for parts in wrong:
        with pytest.raises(
            RunError, match=r"'k' of shape .* cannot be packed: [A-Z].*\.$"
        ):
            opened.pack("k", *parts)
    with pytest.raises(RunError, match="must have two axes"):
        opened.pack("k", bits, values, [4])
    with pytest.raises(RunError, match="must be of float32. Received: float64"):
        opened.pack("k", bits, np.ones(3), [2, 2])
    with pytest.raises(RunError, match="The bits do not fit the shape"):
        opened.mask("k", bits, [3, 5])


def call(target: str, shapes: list[tuple[int, ...]], *operands: Any) -> Any:
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.block_until_ready(jax.ffi.ffi_call(target, results)(*operands))


def test_a_wrong_call_is_an_error_of_xla_and_no_crash(library: str) -> None:
    opened = SkippingLibrary.open(library, calls.INTERFACE)
    bits = np.packbits(np.ones(6, np.uint8))
    packed = opened.pack("k", bits, np.arange(6, dtype=np.float32), [2, 3])
    mask = opened.mask("k", bits, [2, 3])
    x, bias, dy = jnp.ones((4, 2)), jnp.ones(3), jnp.ones((4, 3))
    kernel = jnp.arange(6.0).reshape(2, 3)
    (y,) = call(calls.LINEAR, [(4, 3)], x, packed.id, bias)
    np.testing.assert_array_equal(y, x @ kernel + bias)
    dx, dkernel = call(calls.MASKED_GRADIENTS, [(4, 2), (2, 3)], x, kernel, mask.id, dy)
    np.testing.assert_array_equal(dx, dy @ kernel.T)
    np.testing.assert_array_equal(dkernel, x.T @ dy)
    (empty,) = call(calls.LINEAR, [(0, 3)], x[:0], packed.id, bias)
    assert empty.shape == (0, 3)
    wrong: list[Any] = [
        ("no packed kernel with the id 999", calls.LINEAR, [(4, 3)], (x, 999, bias)),
        ("no packed kernel", calls.LINEAR, [(4, 3)], (x, mask.id, bias)),
        ("`x` does not fit", calls.LINEAR, [(4, 3)], (x.T, packed.id, bias)),
        ("`x` does not fit", calls.LINEAR, [(4, 3)], (x[0], packed.id, bias)),
        ("`bias` does not fit", calls.LINEAR, [(4, 3)], (x, packed.id, bias[:2])),
        ("`y` does not fit", calls.LINEAR, [(4, 2)], (x, packed.id, bias)),
        ("`id` must be a scalar", calls.LINEAR, [(4, 3)], (x, jnp.ones(2, int), bias)),
        ("no mask with", calls.MASKED_LINEAR, [(4, 3)], (x, kernel, packed.id, bias)),
        ("`kernel`", calls.MASKED_LINEAR, [(4, 3)], (x, kernel.T, mask.id, bias)),
        (
            "`dy` does not fit",
            *(calls.MASKED_GRADIENTS, [(4, 2), (2, 3)]),
            (x, kernel, mask.id, dy[:2]),
        ),
        (
            "`dkernel` does not fit",
            *(calls.MASKED_GRADIENTS, [(4, 2), (3, 2)]),
            (x, kernel, mask.id, dy),
        ),
    ]
    for told, target, shapes, operands in wrong:
        with pytest.raises((ValueError, RuntimeError), match=told):
            call(target, shapes, *operands)


def test_memory_is_given_back_when_a_model_is_gone(
    card: ExportCard, library: str
) -> None:
    model = XLAModel(card.path, library=library)
    model.run("forward", token_ids=draw(7, BATCH, 32))
    assert model._kernels is not None
    packed = [packed for packed, _ in model._kernels._packed.values()]
    assert len(packed) == 12
    assert model.packed_bytes == sum(one.size_bytes for one in packed) > 0
    sizes = SkippingLibrary.open(library, calls.INTERFACE)._library.spdf_xla_bytes
    ids = [int(one.id) for one in packed]
    assert all(sizes(number) > 0 for number in ids)
    del model, packed
    assert not any(sizes(number) for number in ids)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"skip_zeros": "cpu"}, "`skip_zeros` needs sparse=True"),
        ({"skip_zeros": "gpu", "sparse": True}, "must be of cpu. Received: gpu"),
        (
            {"skip_zeros": "cpu", "sparse": True, "precision": "mixed_bfloat16"},
            "needs precision='float32'",
        ),
    ],
)
def test_what_cannot_skip_zeros_is_refused(
    gpt: GPT, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        to_xla(gpt, tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_wrong_calls_run_clean_under_address_and_undefined_behaviour_sanitizers() -> (
    None
):
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs g++ on Linux")
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    built = library_path("xla", compiler, flags)
    # Python was compiled without the sanitizers, so they must be there before it.
    preloaded = [
        subprocess.run(
            [compiler, f"-print-file-name=lib{name}.so"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in ("asan", "ubsan")
    ]
    program = str(Path(__file__).with_name("damaged_calls.py"))
    done = subprocess.run(
        [sys.executable, program, str(RUNNER.parent), str(built)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "LD_PRELOAD": " ".join(preloaded),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
            "JAX_PLATFORMS": "cpu",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'refused': " in done.stdout
