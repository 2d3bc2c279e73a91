"""Large memory pages for programs that compute.

Linux zeroes and maps memory in pages of 4 KiB, unless a program asks for pages of
2 MiB. A training step allocates gigabytes anew, and takes less time with large ones.
The C library of Linux asks for them if the variable `GLIBC_TUNABLES` says so when a
program starts.
"""

import os
import re
import sys
from pathlib import Path

_SETTING = "glibc.malloc.hugetlb"
_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_large_pages() -> None:
    """Starts this program again, with large pages, unless it has them or cannot.

    It changes nothing where the variable already says something of large pages, the
    system decides by itself (`always` or `never`), or the C library is another one or
    older than 2.35.
    """
    before = os.environ.get("GLIBC_TUNABLES", "")
    if _SETTING in before or not sys.executable or not _are_offered():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (before, f"{_SETTING}=1")))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _are_offered() -> bool:
    """Whether programs may ask for large pages, and this C library can."""
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
        policy = _POLICY.read_text()
    except (AttributeError, OSError, ValueError):
        return False
    version = re.fullmatch(r"glibc (\d+)\.(\d+)", library)
    return (
        version is not None
        and (int(version[1]), int(version[2])) >= (2, 35)
        and "[madvise]" in policy
    )
