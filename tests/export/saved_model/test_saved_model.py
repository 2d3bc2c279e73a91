import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from plain_tensorflow import in_plain_tensorflow

from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.config import DecodeConfig
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.evaluation.texts import generate_texts
from spdf_keras.export import ExportCard, ExportError, to_saved_model, to_text_model
from spdf_keras.export.saved_model import signatures as saved_model_signatures

# One process runs both with the same operators; only fusions differ.
TOLERANCE = 1e-5

BEAMS = saved_model_signatures.BEAM_SEARCH

IN_PLAIN_TENSORFLOW = """
import json, sys
import tensorflow as tf
signatures = tf.saved_model.load(sys.argv[1]).signatures
prompt, rows, lengths = json.loads(sys.argv[2])
logits = signatures["serving_default"](token_ids=tf.constant([prompt]))["logits"]
result = {"logits": logits.numpy().tolist()}
for name in ("generate", "generate_beam"):
    found = signatures[name](
        token_ids=tf.constant(rows),
        lengths=tf.constant(lengths),
        max_new_tokens=tf.fill([len(rows)], 32),
    )
    result[name] = {key: value.numpy().tolist() for key, value in found.items()}
result["loaded"] = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps(result))
"""

PROMPTS = [[5, 17, 3, 200, 42], [7], list(range(100, 116))]


@pytest.fixture(scope="module")
def card(model: GPT, tmp_path_factory: Any) -> ExportCard:
    return to_saved_model(model, tmp_path_factory.mktemp("export") / "gpt")


def test_it_runs_in_plain_tensorflow_as_the_keras_model_does(
    model: GPT, card: ExportCard
) -> None:
    # Padding may be anything.
    rows = [[*prompt, *[-1] * (16 - len(prompt))] for prompt in PROMPTS]
    given = PROMPTS[0], rows, [len(prompt) for prompt in PROMPTS]
    result = in_plain_tensorflow(IN_PLAIN_TENSORFLOW, card.path, json.dumps(given))
    expected = model(np.array([PROMPTS[0]])).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(result["logits"], expected, atol=TOLERANCE * scale)
    for name, settings in (("generate", DecodeConfig()), ("generate_beam", BEAMS)):
        found = result[name]
        received = [
            row[:count]
            for row, count in zip(found["token_ids"], found["lengths"], strict=True)
        ]
        options = dataclasses.replace(settings, max_new_tokens=32)
        assert received == model.generate(PROMPTS, **vars(options))
        assert all(
            set(row[count:]) <= {-1}
            for row, count in zip(found["token_ids"], found["lengths"], strict=True)
        )
    assert len(result["generate_beam"]["scores"]) == 3


def test_continuations_end_at_an_end_token_and_at_the_context(
    small_model: GPT, tmp_path: Path
) -> None:
    model = small_model
    free = model.generate([[1, 2]], max_new_tokens=8)[0]
    end = free[3]
    card = to_saved_model(
        model, tmp_path / "gpt", signatures=["generate"], end_token_ids=[end]
    )
    assert card.max_abs_error is None and card.row()[5] == "not run"
    signatures = tf.saved_model.load(card.path).signatures
    assert list(signatures) == ["generate"]
    generate = signatures["generate"]

    def run(length: int, count: int, width: int = 62) -> Any:
        token_ids = tf.ones((1, width), tf.int32)
        return generate(
            token_ids=tf.concat([token_ids[:, :1], 1 + token_ids[:, 1:]], 1),
            lengths=tf.constant([length]),
            max_new_tokens=tf.constant([count]),
        )

    expected = model.generate([[1, 2]], max_new_tokens=8, end_token_ids=[end])[0]
    found = run(2, 8)
    assert (
        found["token_ids"][0, : int(found["lengths"][0])].numpy().tolist() == expected
    )
    assert len(expected) < 8
    assert run(62, 8)["token_ids"].shape[1] == 2  # the context is 64
    for length, new, told in ((0, 1, "lengths"), (63, 1, "lengths"), (2, 0, "max_new")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"`{told}"):
            run(length, new)


def test_the_saved_model_command_line_runs_it(card: ExportCard) -> None:
    arguments = "--tag_set", "serve", "--signature_def", "generate", "--input_exprs"
    inputs = "token_ids=[[1,2,3],[4,5,0]];lengths=[3,2];max_new_tokens=[4,4]"
    done = subprocess.run(
        [str(Path(sys.executable).with_name("saved_model_cli")), "run"]
        + ["--dir", card.path, *arguments, inputs],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Result for output key lengths:\n[4 4]" in done.stdout


IN_PLAIN_TENSORFLOW_TEXT = """
import json, sys
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
texts = tf.constant(json.loads(sys.argv[2]))
found = serve(text=texts, max_new_tokens=tf.fill(texts.shape, 8))["text"]
loaded = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"text": [t.decode() for t in found.numpy()], "loaded": loaded}))
"""


@pytest.mark.parametrize(
    "separator", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_text_goes_in_and_comes_out_in_plain_tensorflow(
    small_model: GPT, tmp_path: Path, separator: bool
) -> None:
    model = small_model
    corpus = ["name : Blue Spice | food : English | area : riverside \n\n"] * 3
    tokenizer = Tokenizer.train(corpus, 300)
    settings = DecodeConfig(num_beams=2) if separator else DecodeConfig()
    card = to_text_model(
        model, tokenizer, tmp_path / "text", separator=separator, settings=settings
    )
    assert card.format == "saved_model_text" and card.relative_error == 0
    texts = ["name : Blue Spice", "food", "riverside " * 100]
    result = in_plain_tensorflow(IN_PLAIN_TENSORFLOW_TEXT, card.path, json.dumps(texts))
    # The context of 64 tokens cuts the last one.
    room = 64 - 8 - separator
    cut = [tokenizer.decode(tokenizer.encode(text)[:room]) for text in texts]
    assert len(cut[2]) < len(texts[2])
    settings = dataclasses.replace(settings, max_new_tokens=8)
    assert result["text"] == generate_texts(
        model, tokenizer, cut, settings, separator=separator
    )


def test_what_a_saved_model_cannot_have_is_refused(model: GPT, tmp_path: Path) -> None:
    path = tmp_path / "gpt"
    with pytest.raises(InputError, match="of serving_default, .* Received: train"):
        to_saved_model(model, path, signatures=["train"])
    with pytest.raises(InputError, match="`num_beams` must be at most"):
        to_saved_model(model, path, beam_search=DecodeConfig(num_beams=513))
    with pytest.raises(InputError, match="does not sample"):
        to_saved_model(model, path, beam_search=DecodeConfig(sample=True))
    tokenizer = Tokenizer.train([str(n) for n in range(900)], 600)
    with pytest.raises(InputError, match="512 tokens. Received: a tokenizer of 600"):
        to_text_model(model, tokenizer, path)
    assert not list(tmp_path.iterdir())


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
    files = [
        path
        for path in Path(card.path).rglob("*")
        if path.is_file() and path.name != "card.json"
    ]
    assert card.size_bytes == sum(path.stat().st_size for path in files)
    assert card.size_bytes == card.dense_size_bytes
    assert card.sparsity == pytest.approx(0.75, abs=1e-4)
    assert card.relative_error is not None and card.max_abs_logit is not None
    assert 0 <= card.relative_error < TOLERANCE < 1 < card.max_abs_logit
    assert card.bound_size_bytes < card.size_bytes
    assert not any(runtime.skips_zeros for runtime in card.runtimes)
    assert json.loads(card.to_json())["format"] == "saved_model"
    row = dict(zip(card.columns, card.row(), strict=True))
    assert row["of dense"] == "1.00x" and row["sparsity"] == "75.00%"


def test_a_mixed_precision_model_becomes_a_float32_file(
    sizes: GPTConfig, tmp_path: Path
) -> None:
    mixed = build_gpt(sizes, 0.75, mask_seed=7, precision="mixed_bfloat16")
    card = to_saved_model(mixed, tmp_path / "gpt", signatures=["serving_default"])
    note = r"model itself computes in mixed_bfloat16, .* differ by (\S+) of the largest"
    found = re.search(note, card.notes[0])
    assert found and 1e-4 < float(found[1]) < 0.02
    serve = tf.saved_model.load(card.path).signatures["serving_default"]
    token_ids = tf.constant([[1, 2, 3, 4]])
    # bfloat16 has 8 bits: it is the same model, not the same rounding.
    np.testing.assert_allclose(
        serve(token_ids=token_ids)["logits"], mixed(token_ids), atol=0.05
    )


def test_only_a_saved_model_is_replaced_and_only_on_demand(
    sizes: GPTConfig, tmp_path: Path
) -> None:
    model = build_gpt(sizes)
    path = tmp_path / "new" / "gpt"
    to_saved_model(model, path, signatures=["serving_default"])
    before = (path / "saved_model.pb").stat().st_ino
    with pytest.raises(
        InputError, match="`path` must be new. Received: .* which exists"
    ):
        to_saved_model(model, path)
    assert (path / "saved_model.pb").stat().st_ino == before
    to_saved_model(model, path, True, ["serving_default"])
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
    small_model: GPT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off_by_a_little(model: GPT, hidden: tf.Tensor) -> tf.Tensor:
        return 1.001 * model.embedding(hidden, reverse=True)

    monkeypatch.setattr(saved_model_signatures, "project", off_by_a_little)
    with pytest.raises(ExportError, match="logits differ from the Keras model's by"):
        to_saved_model(small_model, tmp_path / "gpt", False, ["serving_default"])
    assert not list(tmp_path.iterdir())


def test_another_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a GPT .* Received: dict"):
        to_saved_model({}, tmp_path / "gpt")  # type: ignore[arg-type]
