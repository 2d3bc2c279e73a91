import bz2
import gzip
import json
import lzma
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backports import zstd

from spdf_keras.data.corpus import pieces
from spdf_keras.data.shards import pipeline
from spdf_keras.data.shards.prepare import prepare, training_sample
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError

TEXTS = [
    f"document number {i} has {i * i} words,\nand {i % 7} cats" for i in range(600)
]
TOKENIZER = Tokenizer.train(TEXTS, 300)

# Prepares argv's corpus in steps so small that a state is saved after each chunk,
# and ends itself with SIGKILL after argv's number of calls in this package's code.
SMALL_STEPS = """
import os, signal, sys
from spdf_keras.data.shards import journal, layout, pipeline, prepare, writer
from spdf_keras.data.tokenizers.bpe import Tokenizer

inputs, tokenizer, out, calls = *sys.argv[1:4], int(sys.argv[4])
pipeline._CHUNK_CHARACTERS, pipeline._JOURNAL_SECONDS = 300, 0
writer._SEQUENCES_PER_SHARD, writer._BUFFER_TOKENS = 150, 256
modules = (journal, layout, pipeline, prepare, writer)
files = {module.__file__ for module in modules}

def count(frame, event, argument):
    global calls
    if frame.f_code.co_filename in files:
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)

tokenizer = int(tokenizer) if tokenizer.isdigit() else Tokenizer.load(tokenizer)
sys.setprofile(count)
prepare.prepare([inputs], tokenizer, 16, out, 0.1, "skip")
sys.setprofile(None)
print(-calls)
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of all formats, some damaged."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (tmp_path / "tokenizer").mkdir()
    TOKENIZER.save(tmp_path / "tokenizer")
    parts = [TEXTS[i::7] for i in range(7)]
    lines = [json.dumps({"text": text, "meta": {}}) for text in parts[0]]
    (folder / "a.jsonl.zst").write_bytes(zstd.compress("\n".join(lines).encode()))
    lines = [json.dumps({"text": text}) for text in parts[1]]
    lines[3:3] = ['{"text": ""}', "{}", "broken"]
    (folder / "b.jsonl").write_text("\r\n".join(lines), newline="")
    text = "\n\n".join(parts[2]).encode() + b"\n\nlost " * 300
    (folder / "z.txt.gz").write_bytes(gzip.compress(text)[:-3])
    (folder / "d.txt").write_text("\n\n".join(parts[3]))
    # Endings in capitals, compressed data under another name, and no ending.
    lines = [json.dumps({"text": text}) for text in parts[4]]
    (folder / "e.JL.BZ2").write_bytes(bz2.compress("\r\r\n".join(lines).encode()))
    (folder / "f.txt").write_bytes(lzma.compress("\n\n".join(parts[5]).encode()))
    lines = [json.dumps({"text": text}) for text in parts[6]]
    (folder / "g").write_text("\n".join(lines))
    (folder / "._b.jsonl").write_text("hidden")
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def run(corpus: Path, tokenizer: str, out: Path, calls: int) -> int:
    """Calls that the program made, or 0 if it was killed."""
    arguments = [str(corpus), tokenizer, str(out), str(calls)]
    command = [sys.executable, "-c", SMALL_STEPS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGKILL:
        return 0
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def check_kills(corpus: Path, tokenizer: str, folder: Path, kills: int) -> None:
    """Kills one preparation again and again, at calls spread over all of it."""
    undisturbed, out = folder / "undisturbed", folder / "out"
    (corpus / "h.jsonl").write_text('[\n{"text": "an array is no JSON lines"}\n]')
    long: dict[int, int] = {zstd.CompressionParameter.window_log: 31}
    compressor = zstd.ZstdCompressor(options=long)
    content = "\n\n".join(TEXTS[:50]).encode()
    (corpus / "i.txt.zst").write_bytes(
        compressor.compress(content) + compressor.flush()
    )
    calls = run(corpus, tokenizer, undisturbed, 0)
    expected = content_of(undisturbed)
    assert len([name for name in expected if name.startswith("train-")]) > 3
    rng = random.Random(kills)
    states = set()
    for _ in range(kills):
        # Some hundred calls pass until a start has something to save.
        if run(corpus, tokenizer, out, rng.randint(1, 2 * calls // kills + 1500)):
            break
        journal = folder / "out" / "journal.json"
        states.add(journal.read_bytes() if journal.exists() else b"")
    run(corpus, tokenizer, out, 0)
    assert len(states) > kills // 3
    assert content_of(out) == expected
    assert not (folder / "out" / "journal.json").exists()


def test_a_killed_preparation_goes_on_to_the_same_bytes(
    corpus: Path, tmp_path: Path
) -> None:
    check_kills(corpus, str(tmp_path / "tokenizer"), tmp_path, kills=4)


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True])
def test_many_kills_lead_to_the_same_bytes(
    corpus: Path, tmp_path: Path, trained: bool
) -> None:
    tokenizer = "300" if trained else str(tmp_path / "tokenizer")
    check_kills(corpus, tokenizer, tmp_path, kills=40)


@pytest.mark.slow
def test_ten_kills_at_random_moments_lead_to_the_same_bytes(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rng = random.Random(0)
    with corpus.open("w") as file:
        for i in range(120_000):
            words = [TEXTS[rng.randrange(600)] for _ in range(rng.randrange(1, 9))]
            file.write(json.dumps({"text": f"{i}: {' '.join(words)}"}) + "\n")
    TOKENIZER.save(tmp_path / "tokenizer")
    code = "from spdf_keras.data.shards import pipeline as p, writer as w; import sys;"
    code += "p._JOURNAL_SECONDS = 0.2; w._SEQUENCES_PER_SHARD = 2000;"
    code += "from spdf_keras.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["prepare", str(corpus), "--tokenizer", str(tmp_path / "tokenizer")]
    command = [sys.executable, "-c", code, *arguments, "--context-length", "128"]

    def start(out: str) -> subprocess.Popen[bytes]:
        to = subprocess.DEVNULL
        return subprocess.Popen([*command, "--out", str(tmp_path / out)], stdout=to)

    began = time.monotonic()
    assert start("undisturbed").wait() == 0
    seconds = time.monotonic() - began
    expected, resumed = content_of(tmp_path / "undisturbed"), 0
    for kill in range(10):
        process = start(f"out{kill}")
        time.sleep(rng.random() * seconds)
        process.kill()
        process.wait()
        resumed += (tmp_path / f"out{kill}" / "journal.json").exists()
        assert start(f"out{kill}").wait() == 0
        assert content_of(tmp_path / f"out{kill}") == expected
    assert resumed >= 4


def test_every_document_is_in_the_shards_once_and_all_else_is_counted(
    corpus: Path, tmp_path: Path
) -> None:
    records: list[dict[str, Any]] = []
    out = tmp_path / "out"
    index = prepare([corpus], TOKENIZER, 16, out, 0.1, "skip", records.append)
    counted = index["corpus"]
    skipped = {kind: found["count"] for kind, found in counted["skipped"].items()}
    assert skipped == {"no document": 2, "broken file": 1}
    assert counted["empty_documents"] == 1 and counted["files"] == 7
    hidden = {"count": 1, "first": str(corpus / "._b.jsonl")}
    assert counted["files_left_out"] == {"hidden": hidden}
    assert counted["skipped"]["broken file"]["unit"] == "files"
    opened = Shards.open(out)
    opened.verify()
    documents, left_out = [], 0
    for split, found in index["splits"].items():
        rows = opened.rows(split)[np.arange(opened.num_sequences(split))]
        documents += TOKENIZER.decode(rows.ravel().tolist()).split("<|endoftext|>")[:-1]
        left_out += found["tokens_left_out"]
        assert len(rows) == found["sequences"] and found["documents"] > 50
        assert rows.size + found["tokens_left_out"] == found["tokens"]
    lost = [document for document in documents if document == "lost"]
    documents = [document for document in documents if document != "lost"]
    assert 290 < len(lost) <= 300
    assert len(set(documents)) == len(documents) >= 600 - left_out
    assert set(documents) <= set(TEXTS)
    sizes = sum(file.stat().st_size for file in corpus.glob("[!.]*"))
    assert records[-1]["file_bytes"] == records[-1]["total_bytes"] == sizes
    assert records[-1]["bytes"] == counted["bytes"] > sum(map(len, TEXTS))


def test_a_finished_corpus_is_left_alone_and_another_is_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from spdf_keras.cli import main

    out = tmp_path / "out"
    command = ["prepare", str(corpus), "--out", str(out), "--vocabulary-size", "300"]
    command += ["--context-length", "16", "--json", "--on-error", "skip"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "Left out: 2 lines (no document), the first of them '" in captured.err
    assert "Left out: 1 files (broken file), the first of them '" in captured.err
    assert "Left out as empty: 1 documents." in captured.err
    assert "Not read: 1 files or folders (hidden), the first of them '" in captured.err
    before = content_of(out)
    assert main(command) == 0 and content_of(out) == before
    assert capsys.readouterr().out == captured.out
    (corpus / "d.txt").write_text("something else")
    assert main(command) == 2
    assert "is not empty: choose another" in capsys.readouterr().err


def test_unfinished_work_goes_on_with_the_same_settings_only(
    corpus: Path, tmp_path: Path
) -> None:
    def attempt(out: str, on_error: str, length: int = 16) -> dict[str, Any]:
        return prepare([corpus], TOKENIZER, length, tmp_path / out, 0.1, on_error)

    with pytest.raises(InputError, match="b.jsonl', line 5: it has no `text`"):
        attempt("out", "stop")
    journal = tmp_path / "out" / "journal.json"
    assert json.loads(journal.read_text())["reader"]["place"][0] == 1
    with pytest.raises(InputError, match="was begun with other context length"):
        attempt("out", "stop", 32)
    # What cannot be used may be skipped from here on.
    assert attempt("out", "skip") == attempt("whole", "skip")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")
    with pytest.raises(InputError, match="line 5"):
        attempt("again", "stop")
    (corpus / "b.jsonl").write_text(json.dumps({"text": "repaired"}))
    with pytest.raises(InputError, match="other inputs. .* delete that folder"):
        attempt("again", "skip")
    (tmp_path / "again" / "journal.json").write_text("{")
    with pytest.raises(InputError, match="journal.json' is damaged"):
        attempt("again", "skip")


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    short, bad = tmp_path / "short.txt", tmp_path / "bad.jsonl"
    short.write_text("too short")
    bad.write_text("{}")
    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: prepare([short], TOKENIZER, 99, tmp_path / "out"), "is too short"),
        (lambda: prepare([bad], TOKENIZER, 9, tmp_path / "out"), "line 1: it has no"),
        (
            lambda: prepare([bad], TOKENIZER, 9, tmp_path / "out", on_error="skip"),
            r"is too short: .* Left out: 1 lines \(no document\), the first of them",
        ),
        (lambda: prepare([bad], 300, 9, tmp_path / "out"), "line 1: it has no"),
        (lambda: prepare([short], 256, 9, tmp_path / "out"), "at least 257"),
        (lambda: prepare([short], 300, 0, tmp_path / "out"), "must be positive"),
        (lambda: prepare([short], 300, 9, tmp_path / "out", 1.0), "must be in"),
        (
            lambda: prepare([short], 300, 9, tmp_path / "out", on_error="x"),
            "must be one of stop, skip",
        ),
    ]
    for attempt, sentence in refused:
        with pytest.raises(InputError, match=sentence):
            attempt()
    assert sorted(tmp_path.iterdir()) == [bad, short]


def test_a_long_document_has_the_ids_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 100)
    monkeypatch.setattr("spdf_keras.data.corpus.documents.PIECE_CHARACTERS", 100)
    monkeypatch.setattr("spdf_keras.data.corpus.documents._LONG_LINE_BYTES", 200)
    monkeypatch.setattr(pipeline, "_CHUNK_CHARACTERS", 300)
    long = "\n".join(TEXTS)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": long}))
    (tmp_path / "a.txt").write_text(long)
    for name in ("a.jsonl", "a.txt"):
        out = tmp_path / f"{name}.shards"
        index = prepare([tmp_path / name], TOKENIZER, 16, out, 0.0)
        opened = Shards.open(out)
        rows = opened.rows("train")[np.arange(opened.num_sequences())].ravel()
        ids = [*TOKENIZER.encode(long), TOKENIZER.end_token_id]
        assert rows.tolist() == ids[: len(rows)] and len(ids) - len(rows) < 17
        assert index["splits"]["train"]["documents"] == 1


def test_a_tokenizer_is_trained_on_an_equal_share_of_each_file(tmp_path: Path) -> None:
    for name, count in (("a", 2), ("b", 100), ("c", 100)):
        (tmp_path / f"{name}.txt").write_text("\n\n".join([f"{name} " * 5] * count))
    files = sorted(tmp_path.iterdir())
    sample = "".join(training_sample(files, 318))
    assert [sample.count(name) for name in "abc"] == [10, 85, 85]


# Not `getrusage`: its peak is that of the process that started this one, too.
MEASURED = """
import re, sys
from spdf_keras.data.shards.prepare import prepare
from spdf_keras.data.tokenizers.bpe import Tokenizer
prepare([sys.argv[1]], Tokenizer.load(sys.argv[2]), 1024, sys.argv[3])
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.txt", "one"), ("a.jsonl", "one"), ("a.jsonl", "emoji"), ("a.txt.zst", "many")],
)
def test_memory_stays_below_a_gigabyte(tmp_path: Path, name: str, kind: str) -> None:
    """One document of 100 MB; or many, of 200 MB, compressed to almost nothing."""
    end = "\n\n" if kind == "many" else "\n"
    text = ("\n".join(TEXTS) + end) * (2 * 4000 if kind == "many" else 4000)
    text += "\U0001f600" if kind == "emoji" else ""
    assert len(text) > 100_000_000
    if name.endswith("jsonl"):
        text = json.dumps({"text": text}, ensure_ascii=False)
    content = text.encode()
    compressed = zstd.compress(content) if name.endswith("zst") else content
    (tmp_path / name).write_bytes(compressed)
    TOKENIZER.save(tmp_path / "tokenizer")
    arguments = [tmp_path / name, tmp_path / "tokenizer", tmp_path / "out"]
    del text, content, compressed
    command = [sys.executable, "-c", MEASURED, *map(os.fspath, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    print(name, kind, done.stdout)
    assert int(done.stdout) < 10**9 / 1024


def test_the_text_may_have_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spdf_keras.data.corpus.documents._LONG_LINE_BYTES", 2**15)
    lines = [json.dumps({"text": 7, "inhált": text}) for text in TEXTS[:99]]
    # One is beyond what is parsed at once, and one is no document.
    lines[5:5] = [json.dumps({"inhált": "word " * 20_000}), '{"text": "a"}']
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text(
        "\n".join(json.dumps(json.loads(x), ensure_ascii=False) for x in lines)
    )
    (tmp_path / "in" / "b.json").write_text("\n".join(lines[:4]))
    inputs, out = [tmp_path / "in" / "a"], tmp_path / "out"
    with pytest.raises(InputError, match="line 7: it has no `inhált`"):
        prepare(inputs, TOKENIZER, 16, out, 0, text_key="inhált")
    with pytest.raises(InputError, match="was begun with other text key"):
        prepare(inputs, TOKENIZER, 16, out, 0, "skip")
    index = prepare(inputs, TOKENIZER, 16, out, 0, "skip", text_key="inhált")
    assert index["splits"]["train"]["documents"] == 100
    with pytest.raises(InputError, match="is not empty: choose another"):
        prepare(inputs, TOKENIZER, 16, out, 0, "skip")
