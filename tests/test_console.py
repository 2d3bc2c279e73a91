import signal
import subprocess
import sys

import pytest

from spdf_keras.console import corpus_progress, file_progress, step_progress


def test_a_corpus_is_shown_in_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("spdf_keras.console.monotonic", lambda: now)
    with corpus_progress("prepare") as report:
        for part, now in enumerate((10.0, 12.0, 50.0)):  # noqa: B007
            # The first record counts the work of an earlier run.
            report(
                {
                    "bytes": (7 + part) * 10**8,
                    "tokens": part * 200_000,
                    "file_bytes": 40 + part,
                    "total_bytes": 80,
                }
            )
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "prepare: 52.5%, 400,000 tokens  5.0 MB/s  10,000 tokens/s"


def test_a_file_is_a_plain_line_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with file_progress() as report:
        for name, done in (("a.csv", 0), ("a.csv", 1500), ("b.csv", 7)):
            report(name, done, 1500)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["a.csv: 1,500 bytes", "b.csv: 1,500 bytes"]


def test_the_last_step_is_one_line_with_all_that_it_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with step_progress("pre-train") as report:
        for step in (1, 2):
            report({"step": step, "total_steps": 2, "loss": 4.0 - step})
        report({"step": 2, "total_steps": 2, "validation_loss": 2.5})
        report({"step": 2, "total_steps": 2, "density": {"a": 0.5}})
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "pre-train: 100.0%, step 2 of 2  loss 2.000  validation 2.500"


both_signals = pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")],
)

# This stands for the import of TensorFlow, and swallows all exceptions.
IMPORT = """
import signal, sys, time
from spdf_keras import cli, console
from types import SimpleNamespace
def start(_):
    print("importing", flush=True)
    try:
        for _ in range(3000):
            time.sleep(0.01)
            if console_request(): break
    except BaseException:
        pass
def console_request():
    return signal.getsignal(signal.SIGINT) is before
before = signal.getsignal(signal.SIGINT)
console._start_tensorflow = start
parser = SimpleNamespace(parse_args=lambda _: SimpleNamespace(
    command="generate", run=lambda _: (console.load_tensorflow(), print("lost"))))
cli.build_parser = lambda: parser
sys.exit(cli.main([]))
"""


@both_signals
def test_a_signal_during_the_import_of_tensorflow_is_not_lost(
    number: signal.Signals, word: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a shell inherit an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout and process.stdout.readline() == "importing\n"
    process.send_signal(number)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number and out == ""
    kept = "what was finished or checkpointed is kept"
    assert told == f"\nspdf-keras generate: {word}; {kept}.\n"


# The signal comes while the garbage collector runs a callback, as libraries set them.
COLLECTED = """
import gc, signal, sys, time
from spdf_keras import cli
from types import SimpleNamespace
def collected(phase, about):
    gc.callbacks.remove(collected)
    signal.raise_signal({number})
    time.sleep(0.01)
def run(args):
    gc.callbacks.append(collected)
    gc.collect()
    time.sleep(30)
    print("lost")
parser = SimpleNamespace(parse_args=lambda _: SimpleNamespace(command="study", run=run))
cli.build_parser = lambda: parser
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(cli.main([]))
"""


@both_signals
def test_a_signal_during_a_callback_that_drops_exceptions_is_not_lost(
    number: signal.Signals, word: str
) -> None:
    code = COLLECTED.format(number=int(number))
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 128 + number and ended.stdout == ""
    kept = "what was finished or checkpointed is kept"
    assert ended.stderr == f"\nspdf-keras study: {word}; {kept}.\n"
