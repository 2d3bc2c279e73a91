import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras import GPT, build_gpt
from spdf_keras.cli import main
from spdf_keras.config import Config, DecodeConfig, FinetuneConfig, GPTConfig
from spdf_keras.data.tasks.registry import get_task
from spdf_keras.data.tasks.task import Example
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.evaluation.record import evaluate_run
from spdf_keras.evaluation.scores import (
    NUM_SAMPLES,
    evaluate,
    perplexity,
    score_task,
)
from spdf_keras.evaluation.texts import as_lines, end_token_ids, generate_texts
from spdf_keras.training.run import Run

EXAMPLES = [
    Example("name : Aromi", ("Aromi is a pub.", "Aromi is a coffee shop.")),
    Example("name : Cotto | area : riverside", ("Cotto lies at the river.",)),
]
TEXTS = [text for e in EXAMPLES for text in (e.context, *e.references)]
CONFIG = Config(
    model=GPTConfig(1, 2, 32, vocabulary_size=300, max_sequence_length=64),
    finetune=FinetuneConfig(sequence_length=60),
    decode=DecodeConfig(max_new_tokens=6, batch_size=2),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 300)


@pytest.fixture(scope="module")
def model() -> GPT:
    """A model that was never trained; tests that change its weights build their own."""
    return build_gpt(CONFIG.model)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, model: GPT
) -> Path:
    """The folder of a run as a fine-tuning leaves it."""
    from spdf_keras.training.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("finished") / "run"
    run = Run.create(folder, CONFIG, tokenizer, {"kind": "finetune"})
    save_checkpoint(model, run.checkpoint_folder, 1, keep=1)
    run.finish({})
    return folder


@pytest.fixture
def run(tmp_path: Path, finished: Path) -> Run:
    """A finished run, for a test that may write into its folder."""
    return Run.open(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def loaded(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs load the one model, whose decoding is compiled once for all tests."""
    monkeypatch.setattr(Run, "load_model", lambda self: model)


def test_an_evaluation_is_recorded_in_the_run(run: Run) -> None:
    task = get_task("e2e")
    record = evaluate_run(run, task, "test", EXAMPLES)
    folder = run.folder / "evaluation"
    assert json.loads((folder / "e2e_test.json").read_text()) == record
    outputs = (folder / "e2e_test.txt").read_text().splitlines()
    assert [s["hypothesis"].split() for s in record["samples"]] == [
        line.split() for line in outputs
    ]
    assert {"bleu", "nist", "meteor", "rouge_l", "cider"} <= record["scores"].keys()
    assert record["protocol"] == "e2e-metrics" and record["inputs"] == 2
    assert record["decode"]["max_new_tokens"] == 6
    assert record["versions"]["tensorflow"] and record["hardware"]["cores"]
    # The record does not keep the run from being opened, or from being evaluated anew.
    Run.open(run.folder)
    decode = dataclasses.replace(CONFIG.decode, num_beams=3)
    other = dataclasses.replace(CONFIG, decode=decode)
    again = evaluate_run(run, task, "test", EXAMPLES, other)
    assert again["decode"]["num_beams"] == 3


def test_perplexity_is_that_of_the_target_tokens_alone(tokenizer: Tokenizer) -> None:
    model = build_gpt(CONFIG.model)
    for weight in model.trainable_weights:
        if len(weight.shape) == 2:
            weight.assign(10 * weight)
    total, count = 0.0, 0
    for example in EXAMPLES:
        for reference in example.references:
            context = [*tokenizer.encode(example.context), tokenizer.end_token_id]
            target = [*tokenizer.encode(" " + reference), tokenizer.end_token_id]
            tokens = np.array([context + target])
            logits = model(tokens)[0].numpy().astype(np.float64)
            norms = np.log(np.exp(logits).sum(-1))
            for place, token in enumerate(target, len(context)):
                total += norms[place - 1] - logits[place - 1, token]
                count += 1
    found = perplexity(model, tokenizer, EXAMPLES, 60)
    assert found == pytest.approx(math.exp(total / count), rel=1e-4)


def test_the_curation_corpus_is_judged_by_perplexity(
    tokenizer: Tokenizer, model: GPT
) -> None:
    long = [*EXAMPLES, *(10 * [Example("news of the town " * 40, ("A sum.",))])]
    found = evaluate(model, tokenizer, long, CONFIG, get_task("curation"))
    # All pairs that are scored count, though fewer contexts are decoded.
    assert found.scores.protocol == "perplexity" and found.cut_contexts == 10
    # Weights that were never trained know nothing: all 300 tokens are alike.
    assert 200 < (found.scores.values["perplexity"] or 0) < 450
    assert len(found.hypotheses) == NUM_SAMPLES == 8


def test_the_perplexity_of_a_diverged_model_has_no_value(tokenizer: Tokenizer) -> None:
    model = build_gpt(CONFIG.model)
    for weight in model.trainable_weights:
        if len(weight.shape) == 2:
            weight.assign(1e4 * weight)  # losses of thousands: exp is no float
    found = evaluate(model, tokenizer, EXAMPLES, CONFIG, get_task("curation")).scores
    assert found.values == {"perplexity": None}
    assert "it is inf; the model has diverged" in found.errors["perplexity"]


def test_webnlg_is_scored_in_its_parts() -> None:
    examples = [
        dataclasses.replace(example, seen=seen)
        for example, seen in zip(EXAMPLES, (True, False), strict=True)
    ]
    texts = ["Aromi is a pub.", "Cotto lies at a river."]
    scores = score_task(get_task("webnlg"), texts, examples)
    assert scores.protocol == "generation-eval"
    assert scores.parts.keys() == {"seen", "unseen"}
    assert scores.parts["seen"].values["ter"] == 0.0
    assert (scores.parts["unseen"].values["ter"] or 0) > 0


# What byte-level models say: blanks of all kinds, breaks of other standards, nothing.
ODD_OUTPUTS = [
    "Aromi is\u00a0a pub.",
    "Cotto\nlies\r\nat the\rriver.",
    "",
    "\ufeffA cafe\u2028near\u0085the\x0bbig\x0cblue\x1csea. It's  5\u00a07/8.",
    "\x1d <|endoftext|> \ufffd",
    "  ",
]


def rows_of(task: str) -> str:
    """Six inputs, as a file of the task's validation split."""
    if task == "e2e":
        rows = (f'"name[Cafe {n}]",Cafe {n} lies at the river.\n' for n in range(6))
        return "mr,ref\n" + "".join(rows)
    entries: list[dict[str, Any]] = []
    for n in range(6):
        texts = [f"Cafe {n} is 5\u00a07/8 km away.", f"It's Cafe {n}!"][: 1 + n % 2]
        if task == "dart":
            notes = [{"source": "x", "text": text} for text in texts]
            entries.append({"tripleset": [[f"C{n}", "B", "c"]], "annotations": notes})
            continue
        triple = {"subject": f"C{n}", "property": "b", "object": "c"}
        lexes = [{"comment": "good", "lex": text} for text in texts]
        entry = {"category": ("Food", "Artist")[n % 2], "lexicalisations": lexes}
        entries.append({str(n + 1): {**entry, "modifiedtripleset": [triple]}})
    return json.dumps(entries if task == "dart" else {"entries": entries})


FILES = {"e2e": "devset.csv", "webnlg": "dev.json", "dart": "dart-v1.1.1-full-dev.json"}


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("odd", [True, False])
@pytest.mark.parametrize("task", FILES)
def test_score_gives_the_numbers_of_evaluate_again(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    task: str,
    odd: bool,
) -> None:
    data, out = run.folder.parent / "data", run.folder.parent / "outputs.txt"
    data.mkdir()
    (data / FILES[task]).write_text(rows_of(task), "utf-8")
    if odd:
        made: Any = lambda *args, **settings: ODD_OUTPUTS  # noqa: E731
        monkeypatch.setattr("spdf_keras.evaluation.scores.generate_texts", made)
    common = ["--task", task, "--data", str(data), "--json"]
    assert main(["evaluate", str(run.folder), *common, "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["score", "--hypotheses", str(out), *common]) == 0
    scored = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scored["protocol"] == told["protocol"] and scored["items"] == 6
    assert {name: scored[name] for name in told["scores"]} == told["scores"]
    assert scored["errors"] == told["errors"]
    parts = scored["parts"]
    for part in parts.values():
        assert part.pop("items") == 3
        part.pop("errors")
    assert parts == told["parts"]
    assert set(parts) == ({"seen", "unseen"} if task == "webnlg" else set())


def test_outputs_are_lines_that_keep_their_blanks() -> None:
    assert as_lines(ODD_OUTPUTS) == [
        ODD_OUTPUTS[0],
        "Cotto lies at the river.",
        "",
        ODD_OUTPUTS[3].removeprefix("\ufeff"),
        *ODD_OUTPUTS[4:],
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--data {data} --split test", "No WebNLG test data in"),
        ("--data {data}", "outputs for 6 inputs of"),
        ("--data {data} --protocol dart", "`--protocol` goes with `--references`"),
        ("--data {data} --parts {out}", "`--parts` goes with `--references`"),
        ("--references {out} --split test", "`--split` is that of `--data`"),
    ],
)
def test_score_refuses_what_evaluate_does_not_do(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    sentence: str,
) -> None:
    (tmp_path / "dev.json").write_text(rows_of("webnlg"), "utf-8")
    out = tmp_path / "out.txt"
    out.write_text("a\nb\n")
    words = arguments.format(data=tmp_path, out=out).split()
    command = ["score", "--task", "webnlg", "--hypotheses", str(out), *words]
    assert main(command) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--input", "{file}"],
            "'{file}', line 3 has 70 tokens, and the model sees 64",
        ),
        (["--prompt", "a", "--prompt", "b" * 99], "Prompt 2 has 99 tokens, and the"),
        (["--prompt", "a", "--prompt", " "], "Prompt 2: every prompt must be a line"),
        (
            ["--prompt", "a", "--prompt", "\udcff"],
            "Prompt 2: every prompt must be UTF-8",
        ),
        (
            ["--task", "webnlg", "--prompt", "a | b | c", "--prompt", "a | b"],
            "Prompt 2: ",
        ),
    ],
)
def test_a_prompt_that_cannot_be_used_is_named_as_the_user_finds_it(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    file = str(run.folder.parent / "prompts.txt")
    Path(file).write_text("a\n\u00e9\n" + "z" * 70 + "\n", "utf-8")
    words = [word.format(file=file) for word in arguments]
    assert main(["generate", str(run.folder), *words]) == 2
    error = capsys.readouterr().err
    assert sentence.format(file=file) in error and error.count("\n") == 1


def test_an_example_that_is_too_long_is_named_by_its_number(
    tokenizer: Tokenizer, model: GPT
) -> None:
    long = [*EXAMPLES, Example("name : " + "z" * 90, ("A cafe.",))]
    with pytest.raises(InputError, match=r"Example 3 has \d+ tokens.*'name : zzz"):
        evaluate(model, tokenizer, long, CONFIG, get_task("e2e"))


def test_outputs_end_at_the_end_of_text_or_an_empty_line(real_data: Path) -> None:
    # Those of the LoRA recipe.
    assert end_token_ids(Tokenizer.load(real_data / "gpt2_bpe")) == [50256, 628]


class Parrot:
    """A model that always says the same."""

    def __init__(self, token_ids: list[int]) -> None:
        self._token_ids = token_ids
        self.settings: dict[str, Any] = {}

    def generate(self, prompts: Any, **settings: Any) -> list[list[int]]:
        self.settings = settings
        return [self._token_ids for _ in prompts]


def test_what_comes_after_an_empty_line_is_cut(tokenizer: Tokenizer) -> None:
    parrot: Any = Parrot(tokenizer.encode(" A pub.\n\nAnd more."))
    settings = DecodeConfig(num_beams=4, length_penalty=0.8)
    assert generate_texts(parrot, tokenizer, ["x", "y"], settings) == ["A pub."] * 2
    assert parrot.settings["num_beams"] == 4
    assert parrot.settings["length_penalty"] == 0.8
    (plain,) = generate_texts(parrot, tokenizer, ["x"], settings, separator=False)
    assert plain == "A pub.\n\nAnd more."
