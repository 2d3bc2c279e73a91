from typing import Any

import numpy as np
import pytest

from spdf_keras.errors import InputError
from spdf_keras.measuring.matmul.backend import UnsupportedError
from spdf_keras.measuring.matmul.backends import BACKENDS
from spdf_keras.measuring.matmul.problem import Problem, Shape, relative_error
from spdf_keras.measuring.matmul.rows import LAYOUT, STRUCTURE
from spdf_keras.native.build import NotBuiltError
from spdf_keras.native.tensorflow.operations import load_operations

OURS = {"training", "inference"}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    if request.param in OURS:
        try:
            load_operations()
        except NotBuiltError as error:
            pytest.skip(str(error))
    return BACKENDS[request.param]


# Sums are float32 numbers; in bfloat16, each result is rounded by up to 2**-9 of its
# size, and the gradient of the kernel is not rounded where it stays float32.
MOST = {"float32": 1e-6, "bfloat16": 2**-8}


@pytest.mark.parametrize("precision", MOST)
@pytest.mark.parametrize("tokens", [1, 5, 70])
def test_every_backend_equals_float64(
    backend: Any, tokens: int, precision: str
) -> None:
    if precision in backend.lacks:
        pytest.skip(backend.lacks[precision])
    problem = Problem(Shape(150, 70), 0.75, precision)
    most = MOST[precision]
    x, dy = problem.activations(tokens)
    kernel = problem.kernel.astype(np.float64)
    assert np.all((kernel != 0) == problem.mask)
    multiplies = backend(problem)
    assert relative_error(multiplies.forward(x)(), x @ kernel) < most
    try:
        to_inputs, to_kernel = multiplies.gradients(x, dy)()
    except UnsupportedError as error:
        assert str(error) == "for inference only"
        return
    assert relative_error(to_inputs, dy @ kernel.T) < most
    # A backend returns the gradients of the kept values in order, or of the kernel.
    whole, received = x.astype(np.float64).T @ dy, np.asarray(to_kernel)
    kept = received[problem.mask] if received.ndim == 2 else received
    assert relative_error(kept, whole[problem.mask]) < most
    assert set(multiplies.costs) in (set(), {STRUCTURE, LAYOUT})


def test_what_cannot_be_done_is_told() -> None:
    dense = Problem(Shape(8, 8), 0.0)
    with pytest.raises(UnsupportedError, match="no smaller than dense"):
        BACKENDS["tflite-sparse"](dense)
    large = BACKENDS["tf.sparse"](Problem(Shape(512, 512), 0.0))
    x = np.zeros((4096, 512), np.float32)
    with pytest.raises(UnsupportedError, match="needs 8 GiB"):
        large.gradients(x, x)


@pytest.mark.parametrize("text", ["", "768", "0x3", "3x-1", "axb", "99999x99999"])
def test_bad_shapes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"must be IN x OUT .*Received"):
        Shape.parse(text)
