import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

from spdf_keras.native.build import NotBuiltError, library_path
from spdf_keras.native.tensorflow.operations import load_operations


@pytest.fixture(scope="session")
def operations() -> Any:
    """The operations of the native library."""
    try:
        return load_operations()
    except NotBuiltError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["amx", "bf16", "avx512", "avx2", "portable"])
def instruction_set(request: pytest.FixtureRequest, operations: Any) -> Iterator[str]:
    """Limits the library to each instruction set that this processor has."""
    choose = ctypes.CDLL(str(library_path())).spdf_operations_instruction_set
    choose.restype, choose.argtypes = ctypes.c_char_p, [ctypes.c_char_p]
    best = choose(None)
    chosen = choose(request.param.encode())
    if chosen == request.param.encode():
        yield request.param
    choose(best)
    if chosen != request.param.encode():
        pytest.skip(f"this processor has no {request.param}")
