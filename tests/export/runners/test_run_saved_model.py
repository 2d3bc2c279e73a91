"""The stand-alone runner of SavedModels."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.export import to_saved_model
from spdf_keras.export.runners.run_saved_model import RunError, SavedModel, main


@pytest.fixture(scope="module")
def gpt(sizes: GPTConfig) -> GPT:
    return build_gpt(sizes)


@pytest.fixture(scope="module")
def folder(gpt: GPT, tmp_path_factory: Any) -> Path:
    path = tmp_path_factory.mktemp("export") / "gpt"
    to_saved_model(gpt, path, signatures=["generate"])
    return Path(path)


def test_it_continues_a_prompt(
    gpt: GPT, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = str(folder), "--token-ids", "1,2,3", "--max-new-tokens", "5"
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {
        "token_ids": [1, 2, 3],
        "new_token_ids": gpt.generate([[1, 2, 3]], 5)[0],
        "skips_zeros": False,
    }


@pytest.mark.parametrize(
    ("token_ids", "sentence"),
    [
        ("", "`lengths` must be in [1, 15], and no more than the tokens."),
        ("1,-2", "`token_ids` must be those of the model's tokens, from 0 on."),
        ("1,64", "`token_ids` must be in [0, 64). Received: 64"),
        (f"1,{2**40}", "`token_ids` must be those of"),
        ("1,a", "`--token-ids` must be numbers, as in 1,2,3. Received: 1,a."),
    ],
)
def test_a_prompt_that_cannot_be_is_one_sentence(
    folder: Path, token_ids: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), f"--token-ids={token_ids}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(sentence) and len(error.splitlines()) == 1


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize(
    "name", ["variables/variables.index", "variables/variables.data-00000-of-00001"]
)
def test_damaged_variables_are_one_sentence(
    folder: Path,
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy / name)
    assert main([str(copy), "--token-ids", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"Cannot load '{copy}': ")
    assert len(error.splitlines()) == 1 and "Graph execution error" not in error


def test_a_folder_that_is_no_such_export_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="Cannot load 'nowhere'"):
        SavedModel("nowhere")
    shutil.copytree(folder, tmp_path / "copy")
    cut(tmp_path / "copy" / "saved_model.pb")
    with pytest.raises(RunError, match="Cannot load "):
        SavedModel(tmp_path / "copy")
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "other"))
    with pytest.raises(RunError, match="must have the signature generate"):
        SavedModel(tmp_path / "other")


def test_a_folder_of_an_earlier_version_takes_one_limit(tmp_path: Path) -> None:
    matrix, vector = (tf.TensorSpec([None] * rank, tf.int32) for rank in (2, 1))
    limit = tf.TensorSpec((), tf.int32)

    @tf.function(input_signature=[matrix, vector, limit])
    def generate(token_ids: Any, lengths: Any, max_new_tokens: Any) -> Any:
        new = tf.tile(token_ids[:, :1], [1, max_new_tokens])
        return {"token_ids": new, "lengths": lengths * 0 + max_new_tokens}

    module, path = tf.Module(), str(tmp_path / "gpt")
    tf.saved_model.save(module, path, signatures={"generate": generate})
    assert SavedModel(path).generate([5, 6], 3) == [5, 5, 5]


def test_logits_that_are_not_finite_are_told(tmp_path: Path) -> None:
    matrix, vector = (tf.TensorSpec([None] * rank, tf.int32) for rank in (2, 1))

    @tf.function(input_signature=[matrix, vector, vector])
    def generate(token_ids: Any, lengths: Any, max_new_tokens: Any) -> Any:
        return {"token_ids": token_ids, "lengths": lengths * 0 - 1}

    module, path = tf.Module(), str(tmp_path / "gpt")
    tf.saved_model.save(module, path, signatures={"generate": generate})
    with pytest.raises(RunError, match="logits must be finite"):
        SavedModel(path).generate([5, 6], 3)
