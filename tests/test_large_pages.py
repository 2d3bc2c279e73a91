import os
import sys
from pathlib import Path

import pytest

from spdf_keras import large_pages
from spdf_keras.large_pages import restart_with_large_pages


@pytest.fixture
def started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> list[tuple[str, list[str], str]]:
    """A system that offers large pages; programs that were started are recorded."""
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    monkeypatch.setattr(large_pages, "_POLICY", policy)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.35", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    calls: list[tuple[str, list[str], str]] = []
    monkeypatch.setattr(
        os,
        "execv",
        lambda path, words: calls.append((path, words, os.environ["GLIBC_TUNABLES"])),
    )
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "spdf_keras", "pretrain"])
    return calls


def test_a_program_starts_again_once_with_its_own_arguments(
    started: list[tuple[str, list[str], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
    for _ in range(2):  # the second is the program that was started
        restart_with_large_pages()
    words = [sys.executable, "-m", "spdf_keras", "pretrain"]
    setting = "glibc.malloc.check=3:glibc.malloc.hugetlb=1"
    assert started == [(sys.executable, words, setting)]


@pytest.mark.parametrize(
    ("policy", "library", "setting"),
    [
        ("[always] madvise never", "glibc 2.36", ""),
        ("always madvise [never]", "glibc 2.36", ""),
        ("always [madvise] never", "glibc 2.34", ""),
        ("always [madvise] never", "", ""),
        ("always [madvise] never", "glibc 2.36", "glibc.malloc.hugetlb=0"),
    ],
)
def test_a_program_goes_on_where_that_changes_nothing(
    started: list[tuple[str, list[str], str]],
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    library: str,
    setting: str,
) -> None:
    large_pages._POLICY.write_text(policy)
    monkeypatch.setattr(os, "confstr", lambda name: library, raising=False)
    monkeypatch.setenv("GLIBC_TUNABLES", setting)
    restart_with_large_pages()
    monkeypatch.setattr(large_pages, "_POLICY", Path("/nowhere/enabled"))
    restart_with_large_pages()
    assert started == []
