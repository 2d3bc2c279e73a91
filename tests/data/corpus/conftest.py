"""What the tests of a corpus share."""

import bz2
import gzip
import lzma
from collections.abc import Callable

from backports import zstd

# Compresses as the ending of a name says.
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd.compress,
}
