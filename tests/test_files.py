"""The folder of files that can be made again."""

from pathlib import Path

import pytest

from spdf_keras.files import cache_folder


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "home/.cache/spdf_keras"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/spdf_keras"),
        ({"XDG_CACHE_HOME": "xdg", "SPDF_CACHE": "own"}, "own"),
        ({"XDG_CACHE_HOME": "", "SPDF_CACHE": ""}, "home/.cache/spdf_keras"),
    ],
)
def test_compiled_code_and_tables_share_one_cache_folder(
    variables: dict[str, str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CACHE_HOME", "SPDF_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value and str(tmp_path / value))
    assert cache_folder() == tmp_path / expected
