"""The command line: quick help, one sentence for bad input, JSON at the end."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from spdf_keras.cli import COMMANDS, main

TASK = "mr,ref\n" + "".join(
    f'"name[Cafe {n}], area[{a}]",Cafe {n} is in the {a}.\n'
    for n in range(8)
    for a in ("harbour", "park")
)
DECODE = ["--set", "decode.max_new_tokens=4"]
SMALL = [
    *("--set", "model.num_layers=1", "--set", "model.hidden_dim=32"),
    *("--set", "model.vocabulary_size=300", "--set", "model.max_sequence_length=96"),
    *("--set", "train.tokens=1536", "--set", "train.batch_size=4"),
    *("--set", "train.warmup_tokens=0", "--set", "model.num_heads=2"),
    *("--set", "finetune.epochs=1", *DECODE),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder in the layout of the real data, with texts of our own."""
    folder = tmp_path / "data"
    (folder / "wikitext2").mkdir(parents=True)
    for name in ("trainset.csv", "devset.csv"):
        (folder / name).write_text(TASK)
    lines = [f"The harbour has {n} boats and the park {n} trees." for n in range(200)]
    (folder / "wikitext2" / "train.txt").write_text("\n\n".join(lines))
    return folder


def json_of(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_whole_path_command_by_command(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, run, tuned = (str(tmp_path / n) for n in ("shards", "run", "tuned"))
    text, task = str(data / "wikitext2" / "train.txt"), ["--data", str(data)]
    config = tmp_path / "config.toml"
    config.write_text("[sparsity]\nsparsity = 0.75\n")

    def call(*arguments: str) -> Any:
        assert main([*arguments, "--json"]) == 0
        return json_of(capsys)

    sizes = ["--context-length", "32", "--vocabulary-size", "300"]
    assert call("prepare", text, "--out", shards, *sizes)["context_length"] == 32
    pretrain = ["pretrain", str(config), "--data", shards, "--out", run, *SMALL]
    result = call(*pretrain)
    assert result["steps"] == 12 and call(*pretrain) == result  # nothing left to do
    # A file with one table leaves the run's other settings: one epoch, not five.
    decode = tmp_path / "decode.toml"
    decode.write_text("[decode]\nmax_new_tokens = 4\n")
    tune = ["finetune", run, *task, "--out", tuned, "--config", str(decode)]
    assert main([*tune, "--set", "model.num_layers=7"]) == 2
    assert "`--set model.num_layers` changes nothing" in capsys.readouterr().err
    assert call(*tune)["epochs"] == 1
    out = tmp_path / "out.txt"
    evaluated = call("evaluate", tuned, *task, "--out", str(out), *DECODE)
    assert evaluated["protocol"] == "e2e-metrics" and evaluated["inputs"] == 16
    references = tmp_path / "references.txt"
    rows = [line.split('",')[1] for line in TASK.splitlines()[1:]]
    references.write_text("\n\n".join(rows))
    files = ["--hypotheses", str(out), "--references", str(references)]
    assert call("score", *files)["bleu"] == evaluated["scores"]["bleu"]
    prompt = ["--task", "e2e", "--prompt", "name[Cafe 1], area[park]"]
    (generated,) = call("generate", tuned, *prompt)
    assert generated["output"] == out.read_text().splitlines()[3]
    for kind, extra in (
        ("saved_model", ["--signature", "generate", "--skip-zeros", "cpu"]),
        ("tflite", ["--sparse", "--quantize", "fp16"]),
        ("xla", ["--sparse", "--signature", "decode", "--no-check"]),
    ):
        target = tmp_path / kind
        card = call("export", run, "--format", kind, *extra, "--out", str(target))
        assert target.exists() and 0.74 < card["sparsity"] < 0.76
    texts = ["--format", "saved_model", "--signature", "generate_text"]
    card = call("export", tuned, *texts, "--out", str(tmp_path / "text"))
    assert card["format"] == "saved_model_text" and card["sparsity"] < 0.01


def test_quickstart_on_real_files_resumes_and_reports(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quickstart"
    command = ["quickstart", "--data", str(data), "--out", str(out), "--json", *SMALL]
    assert main(command) == 0
    printed = capsys.readouterr().out
    results = json.loads(printed.splitlines()[-1])
    assert [r["sparsity"] for r in results] == [0.0, 0.75]
    columns = ("Sparsity", "Pre-train loss", "FLOPs", "time", "BLEU", "TFLite, sparse")
    for column in columns:
        assert column in printed
    dense, sparse = results
    assert sparse["pretrain_flops"] < dense["pretrain_flops"]
    key = "tflite_pretrained_sparse_bytes"
    assert key not in dense and sparse[key] < sparse["tflite_bytes"]
    report = (out / "report.md").read_text()
    assert "nrefs:1|case:lc" in report and "](loss.png)" in report
    assert report.count("    - Reference: ") == report.count("    - 75%: ") == 3
    rows = [line for line in report.splitlines() if line.startswith("| 75% |")]
    assert f"| {sparse['pretrain_seconds']:.0f} s |" in rows[0]
    stages = [float(cell) for cell in rows[1].split("|")[2:-1]]
    assert stages[-1] == pytest.approx(sum(stages[:-1]), abs=0.2)
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    # A quickstart that stopped after pre-training repeats the rest, to the same end.
    for stage in ("finetune", "evaluate", "export"):
        (out / "s75" / f"{stage}.json").unlink()
    assert main(command) == 0
    again = json_of(capsys)
    for first, second in zip(results, again, strict=True):
        # The process numbers the names of its functions.
        sizes = [result.pop("saved_model_bytes") for result in (first, second)]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
        assert first.pop("seconds") and second.pop("seconds")
    assert again == results
    assert main([*command, "--set", "finetune.seed=1"]) == 2
    assert "holds a quickstart with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("quickstart --out {tmp}/q --sparsity 1.0", "`--sparsity` must be in [0, 1)"),
        ("quickstart --out {tmp}/q --data {tmp}", "expected trainset.csv"),
        ("quickstart --out {tmp}/q --set model.preset=x", "Unknown preset 'x'"),
        ("prepare {tmp}/no.txt --out {tmp}/q --vocabulary-size 300", "Cannot read"),
        ("prepare {data}/bad.csv --out {tmp}/q --tokenizer {tmp}", "No tokenizer in"),
        ("pretrain {tmp}/no.toml --data {tmp} --out {tmp}/q", "Cannot read the config"),
        ("pretrain {toml} --data {tmp} --out {tmp}/q", "No token shards in"),
        (
            "pretrain {toml} --data . --out . --set train.x=1",
            "Unknown setting `train.x`",
        ),
        ("finetune {tmp} --data {tmp} --out {tmp}/q", "No run in"),
        ("generate {tmp} --prompt hello", "No run in"),
        ("evaluate {tmp} --data {bad}", "line 3: a row must have"),
        ("score --hypotheses {toml} --references {tmp}/no", "Cannot read"),
        ("export {tmp} --format saved_model --sparse --out {tmp}/q", "Leave it out"),
        ("export gpt_nano --format xla --quantize int8 --out {tmp}/q", "--precision"),
        ("export gpt_nano --format tflite --signature x --out {tmp}/q", "prefill and"),
        (
            "export gpt_nano --format tflite --skip-zeros cpu --out {tmp}/q",
            "saved_model",
        ),
        ("export gpt_nano --format saved_model --skip-zeros cpu --out {tmp}/q", "40% "),
        ("export gpt_nano --format xla --logits all --out {tmp}/q", "is for tflite"),
        (
            "export gpt_nano --format litertlm --cache-outputs row --out {tmp}/q",
            "`--cache-outputs` is for tflite",
        ),
        ("export gpt_nano --format litertlm --out {tmp}/q", "must end in .litertlm"),
        (
            "export gpt_nano --format saved_model --signature generate "
            "--signature generate_text --out {tmp}/q",
            "a folder of its own",
        ),
        (
            "export gpt_nano --format saved_model --signature generate_text "
            "--out {tmp}/q",
            "needs a run",
        ),
        ("export {tmp} --sparsity 0.5 --format xla --out {tmp}/q", "is for presets"),
        ("benchmark {tmp}", "must be a .tflite file"),
        ("export {tmp} --format tflite --out {tmp}/q", "No run in"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, sentence: str
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "devset.csv").write_text("mr,ref\nname[A],x\nname[B]\n")
    (tmp_path / "c.toml").write_text('[model]\npreset = "gpt_nano"\n')
    names = {"tmp": tmp_path, "toml": tmp_path / "c.toml", "bad": tmp_path / "bad"}
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments.format(data=tmp_path, **names).split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("spdf-keras ") and sentence in error
    assert error.count("\n") == 1 and "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_flops_prints_both_tables_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--json"]) == 0
    tables = json_of(capsys)
    assert [len(tables[name]) for name in ("table_2", "table_3")] == [6, 8]
    common = {"model", "sequences", "flops_per_sequence", "total_flops", "ratio"}
    for row in (*tables["table_2"], *tables["table_3"]):
        assert common <= row.keys()
        assert {f"printed_{key}" for key in common - {"model"}} <= row.keys()


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_there_for_every_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0 and "usage: spdf-keras" in capsys.readouterr().out


def test_help_needs_no_tensorflow() -> None:
    code = (
        "import sys\nfrom spdf_keras.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print({'tensorflow', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.stdout.splitlines()[-1] == "set()"


@pytest.mark.slow
def test_help_answers_in_under_a_second() -> None:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "spdf_keras", "--help"], check=True)
    assert time.perf_counter() - start < 1.0
