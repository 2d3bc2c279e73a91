"""Perplexity against float64 in NumPy, token by token, and the command."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras import build_gpt
from spdf_keras.cli import main
from spdf_keras.config import Config, GPTConfig
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.evaluation.perplexity import (
    TextLikelihood,
    check_windows,
    perplexities,
    read_texts,
    rolling_windows,
    score_text,
)
from spdf_keras.model.likelihood import Likelihood
from spdf_keras.training.run import Run

TEXT = "The harbour has boats.  The café has guests,\nand the city has both.\n" * 3
SIZES = GPTConfig(1, 2, 32, vocabulary_size=300, max_sequence_length=32)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT], 300)


@pytest.fixture(scope="module")
def model() -> Any:
    model = build_gpt(SIZES)
    for weight in model.trainable_weights:
        if len(weight.shape) == 2:
            weight.assign(10 * weight)
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, model: Any) -> Path:
    from spdf_keras.training.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("perplexity") / "run"
    made = Run.create(folder, Config(model=SIZES), tokenizer, {"kind": "pretrain"})
    save_checkpoint(model, made.checkpoint_folder, 1, keep=1)
    made.finish({})
    return folder


def by_hand(model: Any, ids: list[int], context: int, stride: int) -> float:
    """The reference: every token by a pass of its own, with the context of its window.

    The first window predicts `context` tokens, each later one the next `stride`, or
    fewer at the end, and starts `context` tokens before its last one.
    """
    total, done = 0.0, 0
    while done < len(ids) - 1:
        count = min(context if done == 0 else stride, len(ids) - 1 - done)
        end = done + count
        start = max(end - context, 0)
        for place in range(done, end):
            past = np.array([ids[start : place + 1]])
            logits = model(past)[0, -1].numpy().astype(np.float64)
            total += logits[ids[place + 1]] - np.log(np.exp(logits).sum())
        done = end
    return total


@pytest.mark.parametrize("context, stride", [(32, None), (32, 7), (10, 10), (5, 1)])
def test_each_token_is_predicted_once_in_its_window(
    model: Any, tokenizer: Tokenizer, context: int, stride: int | None
) -> None:
    text = TEXT[:90]
    ids = tokenizer.encode(text)
    found = score_text(Likelihood(model), tokenizer, text, context, stride)
    expected = by_hand(
        model, [tokenizer.end_token_id, *ids], context, stride or context
    )
    # Logits reach 20, in float32; there are tens of tokens.
    assert found.loglikelihood == pytest.approx(expected, rel=1e-6)
    assert found.tokens == len(ids)
    assert found.bytes == len(text.encode()) and found.words == len(text.split())


@pytest.mark.parametrize("tokens", [1, 5, 6, 7, 12, 13, 40])
@pytest.mark.parametrize("stride", [None, 1, 4, 6])
def test_windows_are_those_of_the_harness(tokens: int, stride: int | None) -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="needs the extra `harness`")
    ids = list(range(1, tokens + 1))
    context_len = 6 - (stride or 6) + 1
    expected = [
        utils.make_disjoint_window(window)
        for window in utils.get_rolling_token_windows(ids, 0, 6, context_len)
    ]
    whole = [0, *ids]
    found = [
        (whole[start:first], whole[first:end])
        for start, end, first in rolling_windows(tokens, 6, stride)
    ]
    assert found == expected


def test_more_context_never_leaves_a_token_out() -> None:
    for stride in range(1, 9):
        windows = list(rolling_windows(50, 8, stride))
        predicted = [place for _, end, first in windows for place in range(first, end)]
        assert predicted == list(range(1, 51))
        assert all(0 <= start and end - start <= 9 for start, end, _ in windows)


def test_scores_are_those_of_their_definitions() -> None:
    both = TextLikelihood(-10.0, 2, 30, 5) + TextLikelihood(-6.0, 2, 2, 3)
    assert both == TextLikelihood(-16.0, 4, 32, 8)
    assert both.scores == pytest.approx(
        {
            "word_perplexity": math.exp(4),
            "byte_perplexity": math.exp(0.5),
            "token_perplexity": math.exp(2),
            "bits_per_byte": 0.5 / math.log(2),
        }
    )
    diverging = TextLikelihood(-1e6, 1, 1, 1)
    assert diverging.scores["word_perplexity"] == math.inf
    assert diverging.document()["word_perplexity"] is None


def test_the_command_scores_files_one_by_one_and_together(
    run: Path, model: Any, tokenizer: Tokenizer, tmp_path: Path, capsys: Any
) -> None:
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    files[0].write_text(TEXT)
    files[1].write_text("The city.")
    arguments = ["perplexity", str(run), *map(str, files), "--stride", "8", "--json"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "word_perplexity" in output and "all" in output
    found = json.loads(output.splitlines()[-1])
    texts = read_texts([str(file) for file in files])
    expected = perplexities(Likelihood(model), tokenizer, texts, 32, 8)
    for name, row in expected.items():
        assert found["texts"][name] == pytest.approx(row.document(), rel=1e-6)
    assert found["all"]["tokens"] == sum(row.tokens for row in expected.values())
    assert (found["context_length"], found["stride"]) == (32, 8)


def test_progress_reaches_the_end(model: Any, tokenizer: Tokenizer) -> None:
    told: list[tuple[int, int]] = []
    texts = {"a": TEXT, "b": "The city."}
    perplexities(
        Likelihood(model), tokenizer, texts, 32, report=lambda *n: told.append(n)
    )
    assert told[-1] == (len(TEXT) + 9, len(TEXT) + 9)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_model_that_has_diverged_has_no_perplexity(tokenizer: Tokenizer) -> None:
    broken = build_gpt(SIZES)
    broken.final_norm.gamma.assign(np.full(32, np.nan))
    with pytest.raises(InputError, match="to score 'a'. Received.*has diverged"):
        perplexities(Likelihood(broken), tokenizer, {"a": "The"}, 32)


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--stride", "0"], "`--stride` must be from 1 to 32"),
        (["--stride", "33"], "Received: --stride 33."),
        (["--context-length", "33"], "`--context-length` must be from 1 to 32"),
        (["missing.txt"], "missing.txt"),
        (["EMPTY"], "must hold a text, and it is empty"),
        (["BINARY"], "is not UTF-8 text"),
    ],
)
def test_bad_input_is_one_sentence(
    run: Path, tmp_path: Path, capsys: Any, options: list[str], sentence: str
) -> None:
    files = {"EMPTY": b"", "BINARY": b"\x00\x01\x02" * 400, "good.txt": b"The city."}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    arguments = [str(tmp_path / o) if o in files else o for o in options]
    good = str(tmp_path / "good.txt")
    assert main(["perplexity", str(run), good, *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error and len(error.splitlines()) == 1


def test_a_text_is_named_once() -> None:
    with pytest.raises(InputError, match="must be named once"):
        read_texts([__file__, __file__])
    check_windows(1, 1, 1)
