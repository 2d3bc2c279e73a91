import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from spdf_keras import GPT
from spdf_keras.errors import ExportError, InputError
from spdf_keras.export import ExportCard, compare_artefacts, to_saved_model, to_xla
from spdf_keras.measuring.artefacts.artefact import artefact_kind
from spdf_keras.measuring.artefacts.measure import Row
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
        prompt_length=16,
        cache_length=48,
    )
    saved = to_saved_model(model, folder / "saved", signatures=["generate"])
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
    assert [row.format for row in rows] == [
        *("tflite", "tflite_sparse", "xla_sparse", "saved_model")
    ]
    assert len({tuple(row.token_ids) for row in rows}) == 1
    assert len(rows[0].token_ids) == 6
    for row in rows:
        assert row.size_bytes > 0 and row.memory_bytes > 0
        for spread in (row.load_s, row.first_token_s):
            assert 0 < spread.low <= spread.median <= spread.high
    with saving(tmp_path / "out") as write:
        write(rows)
    stored = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert stored["hardware"] and len(stored["artefacts"]) == 4
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
    row = Row("a/m.tflite", "tflite", 5_000_000, None, spread, 7e6, spread, spread, [1])
    assert dict(zip(Row.columns, row.cells(), strict=True)) == {
        "artefact": "m.tflite",
        "format": "tflite",
        "size (MB)": "5.0",
        "load (s)": "0.3 (0.2-0.4)",
        "memory (MB)": "7",
        "first token (ms)": "300 (200-400)",
        "ms per token": "300 (200-400)",
        "tokens/s": "3.3",
        "error": "unknown",
    }
