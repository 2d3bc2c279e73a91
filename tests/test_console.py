import pytest

from spdf_keras.console import corpus_progress


def test_a_corpus_is_shown_in_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("spdf_keras.console.monotonic", lambda: now)
    with corpus_progress("prepare") as report:
        for part, now in enumerate((10.0, 12.0, 50.0)):  # noqa: B007
            # What the first report tells was done by an earlier run.
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
