import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import GPT, build_gpt
from spdf_keras.errors import InputError
from spdf_keras.export import ExportCard, ExportError, saved_model, to_saved_model

# One process runs both with the same operators; only fusions differ.
TOLERANCE = 1e-5

IN_PLAIN_TENSORFLOW = """
import json, sys
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
token_ids = json.loads(sys.argv[2])
first = serve(token_ids=tf.constant([token_ids]))["logits"].numpy().tolist()
new = []
for _ in range(10):
    logits = serve(token_ids=tf.constant([token_ids + new]))["logits"]
    new.append(int(tf.argmax(logits[0, -1])))
loaded = {name.partition(".")[0] for name in sys.modules}
print(json.dumps({"logits": first, "new": new, "loaded": sorted(loaded)}))
"""


@pytest.fixture(scope="module")
def card(model: GPT, tmp_path_factory: Any) -> ExportCard:
    return to_saved_model(model, tmp_path_factory.mktemp("export") / "gpt")


def test_it_runs_in_plain_tensorflow_as_the_keras_model_does(
    model: GPT, card: ExportCard
) -> None:
    prompt = [5, 17, 3, 200, 42]
    arguments = "-I", "-c", IN_PLAIN_TENSORFLOW, card.path, json.dumps(prompt)
    # Ours, by which TensorFlow itself would load tf_keras.
    plain = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=plain
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    ours = {"spdf_keras", "tf_keras", "keras_nlp", "tensorflow_model_optimization"}
    assert not ours & set(result["loaded"])
    expected = model(np.array([prompt])).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(result["logits"], expected, atol=TOLERANCE * scale)
    assert [result["new"]] == model.generate([prompt], max_new_tokens=10)


def test_batch_and_length_are_free_up_to_the_context(
    model: GPT, card: ExportCard
) -> None:
    serve = tf.saved_model.load(card.path).signatures["serving_default"]
    ((name, spec),) = serve.structured_input_signature[1].items()
    assert (name, spec.dtype, spec.shape.as_list()) == (
        "token_ids",
        tf.int32,
        [None] * 2,
    )
    for shape in ((1, 1), (3, 7), (1, 64)):
        token_ids = tf.constant(
            np.random.default_rng(0).integers(512, size=shape), "int32"
        )
        logits = serve(token_ids=token_ids)["logits"]
        assert logits.dtype == tf.float32
        expected = model(token_ids).numpy()
        atol = TOLERANCE * np.abs(expected).max()
        np.testing.assert_allclose(logits, expected, atol=atol)
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_sequence_length=64"):
        serve(token_ids=tf.zeros((1, 65), tf.int32))


def test_it_holds_every_weight_once_and_no_mask(model: GPT, card: ExportCard) -> None:
    reader = tf.train.load_checkpoint(f"{card.path}/variables/variables")
    sizes = [
        np.prod(shape)
        for name, shape in reader.get_variable_to_shape_map().items()
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    ]
    assert sum(sizes) == model.sizes.num_parameters


def test_the_card_tells_size_error_and_sparsity(card: ExportCard) -> None:
    files = [path for path in Path(card.path).rglob("*") if path.is_file()]
    assert card.size_bytes == sum(path.stat().st_size for path in files)
    assert card.size_bytes == card.dense_size_bytes
    assert card.sparsity == pytest.approx(0.75, abs=1e-4)
    assert 0 <= card.relative_error < TOLERANCE < 1 < card.max_abs_logit
    assert "neither smaller nor faster" in card.notes[0]
    assert json.loads(card.to_json())["format"] == "saved_model"
    row = dict(zip(card.columns, card.row(), strict=True))
    assert row["of dense"] == "1.00x" and row["sparsity"] == "75.00%"


def test_a_mixed_precision_model_becomes_a_float32_file(
    model: GPT, tmp_path: Path
) -> None:
    mixed = build_gpt(model.sizes, 0.75, mask_seed=7, precision="mixed_bfloat16")
    card = to_saved_model(mixed, tmp_path / "gpt")
    assert card.notes[0] == (
        "Computes in float32; the model itself computes in mixed_bfloat16."
    )
    serve = tf.saved_model.load(card.path).signatures["serving_default"]
    token_ids = tf.constant([[1, 2, 3, 4]])
    # bfloat16 has 8 bits: it is the same model, not the same rounding.
    np.testing.assert_allclose(
        serve(token_ids=token_ids)["logits"], mixed(token_ids), atol=0.05
    )


def test_only_a_saved_model_is_replaced_and_only_on_demand(
    model: GPT, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "gpt"
    to_saved_model(model, path)
    before = (path / "saved_model.pb").stat().st_ino
    with pytest.raises(
        InputError, match="`path` must be new. Received: .* which exists"
    ):
        to_saved_model(model, path)
    assert (path / "saved_model.pb").stat().st_ino == before
    to_saved_model(model, path, overwrite=True)
    assert (path / "saved_model.pb").stat().st_ino != before
    assert [entry.name for entry in path.parent.iterdir()] == ["gpt"]

    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "dear.txt").write_text("you")
    with pytest.raises(InputError, match="only replaced if it holds 'saved_model.pb'"):
        to_saved_model(model, letters, overwrite=True)
    with pytest.raises(InputError, match="must name a folder. Received: .* is a file"):
        to_saved_model(model, letters / "dear.txt", overwrite=True)
    with pytest.raises(InputError, match="Cannot write to '.*': "):
        to_saved_model(model, letters / "dear.txt" / "gpt")


def test_a_wrong_file_is_not_delivered(
    model: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off_by_a_little(model: GPT, hidden: tf.Tensor) -> tf.Tensor:
        return 1.001 * model.embedding(hidden, reverse=True)

    monkeypatch.setattr(saved_model, "project", off_by_a_little)
    with pytest.raises(ExportError, match="logits differ from the Keras model's by"):
        to_saved_model(model, tmp_path / "gpt")
    assert not list(tmp_path.iterdir())


def test_another_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a GPT .* Received: dict"):
        to_saved_model({}, tmp_path / "gpt")  # type: ignore[arg-type]
