import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from spdf_keras import GPT
from spdf_keras.cli import main
from spdf_keras.errors import ExportError, InputError
from spdf_keras.export import (
    ExportCard,
    compare_artefacts,
    to_saved_model,
    to_tflite,
    to_xla,
)
from spdf_keras.measuring.artefacts.artefact import artefact_kind
from spdf_keras.measuring.artefacts.measure import Row
from spdf_keras.measuring.artefacts.process import ArtefactProcess
from spdf_keras.measuring.artefacts.store import saving
from spdf_keras.measuring.turns import Spread


@pytest.fixture(scope="module")
def artefacts(model: GPT, files: dict[str, ExportCard], tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("benchmark")
    xla = to_xla(
        model,
        folder / "xla",
        ("prefill", "decode"),
        sparse=True,
        skip_zeros="cpu",
        prompt_length=16,
        cache_length=48,
    )
    saved = to_saved_model(
        model, folder / "saved", signatures=["generate"], skip_zeros="cpu"
    )
    return [files["dense"].path, files["sparse"].path, xla.path, saved.path]


def test_all_formats_are_measured_in_turns_and_give_the_same_tokens(
    artefacts: list[str], tmp_path: Path
) -> None:
    reports: list[tuple[int, int]] = []
    rows = compare_artefacts(
        artefacts,
        rounds=2,
        prompt_tokens=4,
        new_tokens=6,
        report=lambda *turn: reports.append(turn),
    )
    assert reports == [(1, 2), (2, 2)]
    # Each artefact runs with its library too.
    formats = ("tflite", "tflite_sparse", "xla_sparse", "saved_model")
    delegate, calls = "libspdf_delegate.so", "libspdf_ffi.so"
    libraries = (delegate, delegate, calls, "libspdf_operations.so")
    assert [(row.format, row.library) for row in rows] == [
        (name, used)
        for name, library in zip(formats, libraries, strict=True)
        for used in ("", library)
    ]
    assert [row.cells()[2] for row in rows] == ["multiplied", "skipped"] * 4
    assert len({tuple(row.token_ids) for row in rows}) == 1
    assert len(rows[0].token_ids) == 6
    for row in rows:
        assert row.size_bytes > 0 and row.memory_bytes > 0
        for spread in (row.load_s, row.first_token_s):
            assert 0 < spread.low <= spread.median <= spread.high
    with saving(tmp_path / "out") as write:
        write(rows)
    stored = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert stored["hardware"] and len(stored["artefacts"]) == 8
    with (tmp_path / "out" / "benchmark.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["load_s_median"]) for line in lines] == [
        row.load_s.median for row in rows
    ]
    picture = (tmp_path / "out" / "benchmark.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_an_artefact_that_does_not_run_is_told_in_one_sentence(
    artefacts: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model" * 8)
    with pytest.raises(
        ExportError, match="broken.tflite' cannot be measured: Cannot load"
    ):
        compare_artefacts([broken], rounds=1)
    # The artefact takes shorter prompts than this.
    with pytest.raises(ExportError, match="1 to 16 tokens"):
        compare_artefacts(artefacts[:1], rounds=1, prompt_tokens=17)


def copied(file: str, folder: Path, name: str) -> Path:
    """A copy of a file and its card."""
    shutil.copy(f"{file}.card.json", folder / f"{name}.card.json")
    return Path(shutil.copy(file, folder / name))


def test_bad_artefacts_get_a_sentence_each_and_good_ones_their_rows(
    artefacts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad: dict[Path, str] = {}
    for name, content in {
        "text": "{no card",
        "list": "[]",
        "number": '{"vocabulary_size": "512"}',
        "nothing": '{"vocabulary_size": 0}',
        "format": '{"format": 3}',
        "deep": "[" * 100_000,
    }.items():
        path = copied(artefacts[0], tmp_path, f"card_{name}.tflite")
        Path(f"{path}.card.json").write_text(content)
        bad[path] = "is damaged: "
    path = copied(artefacts[0], tmp_path, "flipped.tflite")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    bad[path] = "its checksum is not that of its card"
    path = tmp_path / "cut.tflite"
    path.write_bytes(Path(artefacts[0]).read_bytes()[:9000])
    bad[path] = "cannot be measured: Cannot load"
    bad[tmp_path / "none.tflite"] = "An artefact must be a .tflite file"
    bad[tmp_path] = "An artefact must be a .tflite file"
    bad[tmp_path / ("n" * 300)] = "Cannot read "
    for name, content in {
        "xla_text": "{no",
        "xla_list": "[1]",
        "xla_none": "{}",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "artefact.json").write_text(content)
        bad[tmp_path / name] = "artefact.json' is damaged: "
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"no graph")
    bad[tmp_path / "saved"] = "cannot be measured: "
    paths = [artefacts[1], *map(str, bad), artefacts[0]]
    out = tmp_path / "out"
    options = ["--rounds", "1", "--prompt-tokens", "4", "--new-tokens", "8", "--json"]
    options.append("--no-libraries")
    assert main(["benchmark", *paths, *options, "--out", str(out)]) == 1
    printed = capsys.readouterr()
    objects = {o["path"]: o for o in json.loads(printed.out.splitlines()[-1])}
    assert [*objects] == [artefacts[1], artefacts[0], *map(str, bad)]
    lines = [line for line in printed.err.splitlines() if "error: " in line]
    assert len(lines) == len(bad) and "Traceback" not in printed.err
    for line, (path, sentence) in zip(lines, bad.items(), strict=True):
        assert sentence in objects[str(path)]["error"], path
        assert sentence in line and str(path)[:200] in line
    for good in artefacts[:2]:
        assert objects[good]["token_s"]["median"] > 0
        assert len(objects[good]["token_ids"]) == 8
    stored = json.loads((out / "benchmark.json").read_text())
    assert [row["path"] for row in stored["artefacts"]] == [artefacts[1], artefacts[0]]
    assert len(stored["failures"]) == len(bad)
    # Without a good one there is no table, and bad input has its own status.
    none, new = str(tmp_path / "none.tflite"), tmp_path / "new"
    assert main(["benchmark", none, "--json", "--out", str(new)]) == 2
    assert not new.exists()
    assert "Traceback" not in capsys.readouterr().err


def test_a_prompt_that_leaves_no_room_for_two_tokens_gives_no_speed(
    model: GPT, artefacts: list[str], tmp_path: Path
) -> None:
    short = to_tflite(
        model, tmp_path / "short.tflite", prompt_length=8, cache_length=9
    ).path
    saved = artefacts[3]  # its context has 64 tokens
    for path, tokens in ((short, 8), (saved, 63)):
        with pytest.raises(ExportError, match=f"adds 1 of 2 tokens to a .* {tokens}:"):
            compare_artefacts([path], rounds=1, prompt_tokens=tokens)
    failures: list[Any] = []
    rows = compare_artefacts(
        [short, artefacts[0]],
        rounds=1,
        prompt_tokens=8,
        new_tokens=4,
        on_failure=lambda path, error: failures.append((path, str(error))),
    )
    # Each runs with the delegate too, and a sentence says which way has failed.
    assert [row.path for row in rows] == [artefacts[0]] * 2
    assert [path for path, _ in failures] == [short] * 2
    assert sum("with libspdf_delegate.so cannot" in told for _, told in failures) == 1
    # Two tokens fit: fewer than were asked for, and a time for the second.
    (row, _) = compare_artefacts([short], rounds=1, prompt_tokens=7, new_tokens=32)
    assert len(row.token_ids) == 2 and row.token_s.low > 0


def test_a_process_that_dies_costs_its_own_row_alone(
    artefacts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = ArtefactProcess.measure

    def die_once(self: Any, *arguments: Any) -> Any:
        if str(self.artefact.path) == artefacts[1]:
            self._process.kill()
            self._process.wait()
        return measure(self, *arguments)

    monkeypatch.setattr(ArtefactProcess, "measure", die_once)
    failures: list[str] = []
    rows = compare_artefacts(
        artefacts[:2],
        rounds=2,
        prompt_tokens=4,
        new_tokens=8,
        with_libraries=False,
        on_failure=lambda _, error: failures.append(str(error)),
    )
    assert [row.path for row in rows] == artefacts[:1]
    assert len(failures) == 1 and "its process has ended with SIGKILL" in failures[0]


def test_what_cannot_be_measured_is_refused(
    model: GPT, artefacts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="must be a .tflite file, or a folder"):
        compare_artefacts([tmp_path])
    with pytest.raises(InputError, match="`rounds` must be positive"):
        compare_artefacts(artefacts, rounds=0)
    with pytest.raises(InputError, match="`new_tokens` must be at least 2"):
        compare_artefacts(artefacts, new_tokens=1)
    folder = tmp_path / "xla"
    shutil.copytree(artefacts[2], folder)
    about = json.loads((folder / "artefact.json").read_text())
    about["programs"] = {"forward": about["programs"]["decode"]}
    (folder / "artefact.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="must have prefill and decode.*with forward"):
        artefact_kind(folder)
    text = tmp_path / "text"
    shutil.copytree(artefacts[3], text)
    card = json.loads((text / "card.json").read_text())
    (text / "card.json").write_text(json.dumps({**card, "format": "saved_model_text"}))
    with pytest.raises(InputError, match="takes text"):
        artefact_kind(text)


def test_a_row_shows_medians_with_quartiles() -> None:
    spread = Spread.of([0.1, 0.2, 0.3, 0.4, 0.5])
    sizes = 5_000_000, None, spread, 7e6, spread, spread
    row = Row("a/m.tflite", "tflite", "libspdf_delegate.so", *sizes, [1])
    assert dict(zip(Row.columns, row.cells(), strict=True)) == {
        "artefact": "m.tflite",
        "format": "tflite",
        "zeros": "skipped",
        "size (MB)": "5.0",
        "load (s)": "0.3 (0.2-0.4)",
        "memory (MB)": "7",
        "first token (ms)": "300 (200-400)",
        "ms per token": "300 (200-400)",
        "tokens/s": "3.3",
        "error": "unknown",
    }
