"""SavedModels with a second graph, which skips zeros."""

import json
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
from spdf_keras.export import ExportCard, to_saved_model, to_text_model
from spdf_keras.export.runners import run_saved_model
from spdf_keras.native.build import NotBuiltError, library_path
from spdf_keras.native.tensorflow.operations import load_operations

PLAIN, SKIPPING = ["serve"], ["serve", "spdf"]
# Sums run in other orders.
TOLERANCE = 1e-5
BEAMS = DecodeConfig(num_beams=3, no_repeat_ngram_size=3)
PROMPTS = [[5, 17, 3, 200, 42], [7, 8]]


@pytest.fixture(scope="module", autouse=True)
def library() -> str:
    try:
        return str(library_path())
    except NotBuiltError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def card(small_model: GPT, tmp_path_factory: Any) -> ExportCard:
    path = tmp_path_factory.mktemp("export") / "gpt"
    return to_saved_model(small_model, path, beam_search=BEAMS, skip_zeros="cpu")


IN_BOTH_LOADERS = """
import json, sys
import numpy as np
import tensorflow as tf
folder, tags, library, prompts = sys.argv[1], *map(json.loads, sys.argv[2:])
if library:
    tf.load_op_library(library)
rows = np.array([[*p, *[-1] * (5 - len(p))] for p in prompts], np.int32)
batch = {"token_ids": rows, "lengths": np.array([len(p) for p in prompts], np.int32),
         "max_new_tokens": np.array([9, 3], np.int32)}
calls = {"serving_default": {"token_ids": rows[:1]}, "generate": batch,
         "generate_beam": batch}
result = {}
loaded = tf.saved_model.load(folder, tags=tags)
for name, inputs in calls.items():
    found = loaded.signatures[name](**{k: tf.constant(v) for k, v in inputs.items()})
    result[name] = {k: v.numpy().tolist() for k, v in found.items()}
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    graph = tf.compat.v1.saved_model.loader.load(session, tags, folder)
    for name, inputs in calls.items():
        signature = graph.signature_def[name]
        fed = {signature.inputs[k].name: v for k, v in inputs.items()}
        fetched = {k: v.name for k, v in signature.outputs.items()}
        for k, v in session.run(fetched, fed).items():
            np.testing.assert_allclose(v, result[name][k], rtol=1e-5, atol=1e-5)
functions = loaded.graph.as_graph_def().library.function
names = {node.op for function in functions for node in function.node_def}
result["operations"] = sorted(name for name in names if "Spdf" in name)
result["loaded"] = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps(result))
"""


@pytest.mark.parametrize("tags", [PLAIN, SKIPPING])
def test_both_graphs_run_in_both_loaders_of_tensorflow_as_the_model_does(
    small_model: GPT, card: ExportCard, library: str, tags: list[str]
) -> None:
    model = small_model
    named = library if tags == SKIPPING else ""
    arguments = json.dumps(tags), json.dumps(named), json.dumps(PROMPTS)
    result = in_plain_tensorflow(IN_BOTH_LOADERS, card.path, *arguments)
    expected = model(np.array(PROMPTS[:1])).numpy()
    atol = TOLERANCE * np.abs(expected).max()
    received = result["serving_default"]["logits"]
    np.testing.assert_allclose(received, expected, atol=atol)
    for name, settings in (("generate", DecodeConfig()), ("generate_beam", BEAMS)):
        found = result[name]
        options = {**vars(settings), "max_new_tokens": 9}
        whole = model.generate(PROMPTS[:1], **options)
        # Each row has a limit of its own.
        short = model.generate(PROMPTS[1:], **{**options, "max_new_tokens": 3})
        rows = zip(found["token_ids"], found["lengths"], strict=True)
        assert [row[:count] for row, count in rows] == whole + short
    skipping = ["SpdfGelu", "SpdfIndex", "SpdfKeep", "SpdfLayOut", "SpdfSparseLinear"]
    assert result["operations"] == (skipping if named else [])


WITHOUT_THE_LIBRARY = """
import json, sys
import tensorflow as tf
try:
    tf.saved_model.load(sys.argv[1], tags=["serve", "spdf"])
except Exception as error:
    print(json.dumps({"error": str(error), "loaded": list(sys.modules)}))
"""


def test_without_the_library_tensorflow_names_the_operation(card: ExportCard) -> None:
    result = in_plain_tensorflow(WITHOUT_THE_LIBRARY, card.path)
    assert "Op type not registered 'Spdf" in result["error"]


def test_the_command_line_of_tensorflow_lists_both(card: ExportCard) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("saved_model_cli")), "show"]
        + ["--dir", card.path],
        capture_output=True,
        text=True,
    )
    assert "'serve'\n'serve, spdf'" in done.stdout, done.stderr


def test_the_card_tells_of_both(card: ExportCard) -> None:
    assert "skips the zeros of 6 kernels" in card.notes[-1]
    assert [r.skips_zeros for r in card.runtimes] == [False, True]
    assert card.relative_error is not None and card.relative_error < TOLERANCE


def test_both_graphs_read_one_file_of_variables(
    card: ExportCard, tmp_path: Path
) -> None:
    # Each value becomes one of its own, so that no two variables are alike.
    prefix = f"{card.path}/variables/variables"
    reader, random = tf.train.load_checkpoint(prefix), np.random.default_rng(0)
    shapes = reader.get_variable_to_shape_map()
    names = [name for name in shapes if not name.startswith("_CHECKPOINTABLE")]
    values = {name: reader.get_tensor(name) for name in shapes}
    for name in names:
        values[name] *= random.uniform(0.5, 1.5, shapes[name]).astype(np.float32)
    folder = tmp_path / "altered"
    (folder / "variables").mkdir(parents=True)
    content = (Path(card.path) / "saved_model.pb").read_bytes()
    (folder / "saved_model.pb").write_bytes(content)
    tf.raw_ops.SaveV2(
        prefix=f"{folder}/variables/variables_part",
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values.values()],
    )
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[f"{folder}/variables/variables_part"],
        destination_prefix=f"{folder}/variables/variables",
    )
    load_operations()
    token_ids = tf.constant(random.integers(512, size=(2, 20)), tf.int32)
    plain, skipping, before = (
        tf.saved_model.load(str(path), tags=tags)
        .signatures["serving_default"](token_ids=token_ids)["logits"]
        .numpy()
        for path, tags in ((folder, PLAIN), (folder, SKIPPING), (card.path, PLAIN))
    )
    scale = np.abs(plain).max()
    np.testing.assert_allclose(skipping, plain, atol=TOLERANCE * scale)
    assert np.abs(plain - before).max() > 0.1 * scale


def test_a_text_model_has_both_too(small_model: GPT, tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["name : Blue Spice | food : English \n\n"], 300)
    path = tmp_path / "text"
    card = to_text_model(small_model, tokenizer, path, skip_zeros="cpu")
    limits = {"name : Blue Spice": 8, "food": 4}
    expected = [
        generate_texts(small_model, tokenizer, [text], DecodeConfig(max_new_tokens=n))
        for text, n in limits.items()
    ]
    for tags in (PLAIN, SKIPPING):
        loaded = tf.saved_model.load(card.path, tags=tags)
        found = loaded.signatures["serving_default"](
            text=tf.constant(list(limits)),
            max_new_tokens=tf.constant(list(limits.values())),
        )
        assert [[text.decode()] for text in found["text"].numpy()] == expected


def test_the_runner_says_which_graph_ran(
    small_model: GPT, card: ExportCard, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = small_model.generate([[1, 2, 3]], 5)
    plain = run_saved_model.SavedModel(card.path, "")
    assert not plain.skips_zeros and "names no library" in plain.products
    monkeypatch.setenv("SPDF_TENSORFLOW_LIBRARY", library)
    skipping = run_saved_model.SavedModel(card.path)
    assert skipping.skips_zeros and library in skipping.products
    assert [m.generate([1, 2, 3], 5) for m in (plain, skipping)] == expected * 2
    with pytest.raises(run_saved_model.RunError, match="Cannot load 'no.so': "):
        run_saved_model.SavedModel(card.path, "no.so")


def test_a_second_graph_that_cannot_be_is_refused(
    sizes: GPTConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gpt"
    with pytest.raises(InputError, match="a kernel with 40% zeros. Received: a model"):
        to_saved_model(build_gpt(sizes, 0.3), path, skip_zeros="cpu")
    sparse = build_gpt(sizes, 0.75)
    with pytest.raises(InputError, match="must be cpu, .* Received: skip_zeros=gpu"):
        to_saved_model(sparse, path, skip_zeros="gpu")
    load_operations.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NotBuiltError, match="need a C\\+\\+17 compiler"):
        to_saved_model(sparse, path, skip_zeros="cpu")
    assert not list(tmp_path.iterdir())
