"""No command writes over, moves or removes a person's files around or in `--out`."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spdf_keras.cli import main
from spdf_keras.config import Config, to_toml
from spdf_keras.data.shards.reader import Shards

# Names that the commands give to files of their own, and others.
NAMES = [
    *("config.toml", "result.json", "metrics.jsonl", "provenance.json"),
    *("checkpoints/model_best.pt", "checkpoints/step-00000001/weights.pt"),
    *("tokenizer/vocab.json", "tensorboard/events.out.tfevents.1.me.1.v2"),
    *("index.json", "journal.json", "train-00000.npy", "shards/x", "s0/x"),
    *("report.md", "report/report.html", "data/pretraining.txt", "saved_model.pb"),
    *("variables/variables.index", "card.json", "artefact.json", "notes.txt"),
    *(".hidden", "empty.txt"),
]

Files = dict[str, bytes]


def write(folder: Path, files: Files) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def content(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def commands(
    config: Config,
    shards: Shards,
    pretrained: Path,
    task: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[str]]:
    """Command lines that work, but for `--out`, which comes last."""
    inputs = tmp_path_factory.mktemp("inputs")
    (inputs / "config.toml").write_text(to_toml(config))
    (inputs / "corpus.txt").write_text("".join(f"Harbour {n}.\n\n" for n in range(99)))
    shutil.copy(task / "devset.csv", task / "testset_w_refs.csv")
    sizes = ["--context-length", "8", "--vocabulary-size", "300"]
    run, data = str(pretrained), str(task)
    study = ["--shards", str(shards.folder), "--data", data]
    return {
        "pretrain": ["pretrain", str(inputs / "config.toml"), "--data", study[1]],
        "finetune": ["finetune", run, "--data", data],
        "prepare": ["prepare", str(inputs / "corpus.txt"), *sizes],
        "study": ["study", str(inputs / "config.toml"), *study],
        "quickstart": ["quickstart", "--set", "model.num_layers=1"],
        "export saved_model": ["export", run, "--format", "saved_model"],
        "export xla": ["export", run, "--format", "xla"],
        "overwrite saved_model": [
            *("export", run, "--format", "saved_model", "--overwrite")
        ],
        "overwrite xla": ["export", run, "--format", "xla", "--overwrite"],
    }


@pytest.mark.parametrize(
    "name",
    ["pretrain", "finetune", "prepare", "study", "quickstart"]
    + ["export saved_model", "export xla", "overwrite saved_model", "overwrite xla"],
)
@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    inside=st.dictionaries(
        st.sampled_from(NAMES), st.binary(min_size=1, max_size=8), min_size=1
    ),
    around=st.dictionaries(
        st.sampled_from(["out.unfinished/x", "out.lock", ".out-1/x", "other/y"]),
        st.binary(max_size=8),
    ),
)
def test_a_persons_tree_is_byte_identical_after_a_refusal(
    commands: dict[str, list[str]],
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    name: str,
    inside: Files,
    around: Files,
) -> None:
    root = tmp_path_factory.mktemp("tree")
    write(root / "out", {**inside, "mine/thesis.txt": b"years of work"})
    write(root, around)
    before = content(root)
    assert main([*commands[name], "--out", str(root / "out")]) == 2
    told = capsys.readouterr().err
    assert "choose another" in told.lower() and "Traceback" not in told
    assert content(root) == before


def test_an_input_inside_the_output_folder_stays(
    commands: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "e"
    folder.mkdir()
    given = Path(commands["pretrain"][1]).read_text()
    (folder / "config.toml").write_text(given)
    data = commands["pretrain"][2:]
    monkeypatch.chdir(folder)
    for arguments in (
        ["config.toml", "--out", "."],
        ["./config.toml", "--out", "../e"],
    ):
        assert main(["pretrain", *arguments, *data]) == 2
        assert "is in use: choose another. It holds 'config" in capsys.readouterr().err
    assert content(folder) == {"config.toml": given.encode()}


@pytest.mark.parametrize(
    "form",
    [
        "link",
        "working folder",
        pytest.param("empty", marks=pytest.mark.slow),
        pytest.param("lost+found", marks=pytest.mark.slow),
    ],
)
def test_an_empty_place_serves_and_what_lies_beside_it_stays(
    commands: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    write(tmp_path, {"place.unfinished/x": b"mine", ".place": b"mine"})
    out = {
        "empty": str(place),
        "link": str(tmp_path / "link"),
        "working folder": ".",
        "lost+found": str(place),
    }[form]
    if form == "link":
        (tmp_path / "link").symlink_to(place)
    if form == "lost+found":
        (place / "lost+found").mkdir()
    monkeypatch.chdir(place)
    inode = place.stat().st_ino
    steps = ["--set", "train.tokens=128", "--set", "train.warmup_tokens=0"]
    results: list[tuple[Callable[[], int], str]] = [
        (lambda: main([*commands["prepare"], "--out", out]), "index.json"),
        (lambda: main([*commands["pretrain"], *steps, "--out", out]), "result.json"),
        (lambda: main([*commands["export xla"], "--out", out]), "artefact.json"),
    ]
    for run, made in results:
        assert run() == 0 and (place / made).is_file()
        assert place.stat().st_ino == inode
        for path in place.iterdir():  # as a container empties its volume
            if path.name != "lost+found":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert (tmp_path / "place.unfinished" / "x").read_bytes() == b"mine"
    assert (tmp_path / ".place").read_bytes() == b"mine"
    assert os.listdir(place) == (["lost+found"] if form == "lost+found" else [])


def test_a_persons_files_inside_a_run_outlive_its_restart_and_its_checkpoints(
    commands: dict[str, list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    mine = {
        "notes.txt": b"mine",
        "checkpoints/model_best.pt": b"mine",
        "checkpoints/step-00000005/notes.txt": b"mine",
        "tensorboard/events.out.tfevents.1.me.1.v2": b"mine",
        "tokenizer/readme": b"mine",
    }
    command = [*commands["pretrain"], "--out", str(out)]
    # Stopped before its first checkpoint, as far as the folder tells.
    (out / "tokenizer").mkdir(parents=True)
    (out / ".spdf_keras.json").write_text('{"written_by": "spdf_keras", "kind": "run"}')
    write(out, {**mine, "metrics.jsonl": b"old", "tokenizer/vocab.json": b"old"})
    assert main(command) == 0  # its checkpoints are of steps 5, 10, 15 and 20
    for name, data in mine.items():
        assert (out / name).read_bytes() == data, name
    kept = {path.name for path in (out / "checkpoints").glob("step-*/state.json")}
    assert kept == {"state.json"}
    left = sorted(p.name for p in (out / "checkpoints" / "step-00000005").iterdir())
    assert left == ["notes.txt"]


def test_exports_replace_what_an_export_wrote_and_nothing_else(
    commands: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.tflite"
    card = tmp_path / "m.tflite.card.json"
    run = commands["export xla"][1]
    card.write_text("mine")
    assert main(["export", run, "--format", "tflite", "--out", str(out)]) == 2
    assert "m.tflite.card.json', which exists" in capsys.readouterr().err
    assert content(tmp_path) == {"m.tflite.card.json": b"mine"}

    place = tmp_path / "xla"
    assert main([*commands["export xla"], "--out", str(place)]) == 0
    before = content(place)
    assert main([*commands["export xla"], "--out", str(place)]) == 2
    assert content(place) == before
    assert main([*commands["overwrite xla"], "--out", str(place)]) == 0
    (place / "notes.txt").write_text("mine")
    before = content(place)
    assert main([*commands["overwrite xla"], "--out", str(place)]) == 2
    assert "with 'notes.txt'. Move that away" in capsys.readouterr().err
    assert content(place) == before


def test_a_report_is_written_over_a_report_alone(
    commands: dict[str, list[str]],
    pretrained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["report", str(pretrained), "--out", str(tmp_path)]
    (tmp_path / "notes.md").write_text("mine")
    for _ in range(2):
        assert main(command) == 0
    for name in ("report.md", "runs.csv"):
        ours = (tmp_path / name).read_bytes()
        (tmp_path / name).write_text("run,time\nmine,1\n")
        before = content(tmp_path)
        assert main(command) == 2
        assert f"{name}' is in the way: spdf-keras writes a" in capsys.readouterr().err
        assert content(tmp_path) == before
        (tmp_path / name).write_bytes(ours)
