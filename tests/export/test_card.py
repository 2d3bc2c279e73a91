import json
from pathlib import Path

import numpy as np
import pytest

from spdf_keras.export import ExportCard, ExportError
from spdf_keras.export.card import card_path, logit_error


def test_the_error_is_the_largest_of_all_pairs() -> None:
    first = np.array([3, -4], np.float32), np.array([3, -4.0001], np.float32)
    second = np.array([1, 2], np.float32), np.array([1.0002, 2], np.float32)
    error, scale = logit_error([first, second])
    assert error == pytest.approx(2e-4, rel=1e-3) and scale == 4


@pytest.mark.parametrize("received", [[3, -4.0005], [3, np.nan], [np.inf, -4]])
def test_logits_that_are_off_or_not_finite_are_refused(received: list[float]) -> None:
    exact = np.array([3, -4], np.float32)
    wrong = exact, np.array(received, np.float32)
    # A good pair after a bad one does not hide it.
    for pairs in ([wrong, (exact, exact)], [(exact, exact), wrong]):
        with pytest.raises(
            ExportError, match="logits differ from the Keras model's by"
        ):
            logit_error(pairs)


def test_a_model_that_is_not_finite_is_not_exported() -> None:
    for value in (np.nan, np.inf):
        broken = np.array([1, value], np.float32)
        with pytest.raises(ExportError, match="model's logits must be finite"):
            logit_error([(broken, broken)])


def test_shapes_are_not_broadcast() -> None:
    with pytest.raises(ExportError, match=r"shape \(1,\), the Keras model's \(2,\)"):
        logit_error([(np.zeros(2, np.float32), np.zeros(1, np.float32))])


def test_a_row_has_the_columns_of_the_table() -> None:
    card = ExportCard("tflite_sparse", "m.tflite", 375, 1000, 300, 0.75, 2e-6, 4.0, 9)
    assert dict(zip(card.columns, card.row(), strict=True)) == {
        "format": "tflite_sparse",
        "size (MB)": "0.00",
        "of dense": "0.38x",
        "of the bound": "1.25x",
        "sparsity": "75.00%",
        "max error": "2.0e-06",
        "relative error": "5.0e-07",
        "path": "m.tflite",
    }


def test_a_card_is_stored_and_says_what_was_not_run(tmp_path: Path) -> None:
    card = ExportCard("xla", "m", 375, 1000, 300, 0.75, None, None, 9)
    assert card.row()[5:7] == ("not run", "not run")
    card.save(tmp_path / "card.json")
    stored = json.loads((tmp_path / "card.json").read_text())
    assert stored["relative_error"] is None and stored["bound_size_bytes"] == 300
    assert card_path(tmp_path) == tmp_path / "card.json"
    assert card_path("a/m.tflite") == Path("a/m.tflite.card.json")
