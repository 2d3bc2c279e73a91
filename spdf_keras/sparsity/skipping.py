"""Decides which masked kernels skip their zeros, and times both ways for `auto`."""

import time
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import tensorflow as tf

from spdf_keras.kernels import DenseKernel, SkippingKernel
from spdf_keras.native.build import NotBuiltError
from spdf_keras.native.tensorflow.operations import load_operations

# Both ways are timed with at most so many tokens, with fewer if the dense products of
# a training step take more operations than this, but not with fewer than the least.
_MOST_TOKENS, _LEAST_TOKENS, _MOST_FLOPS = 1024, 256, 1.5e10
# Rounds are added until so many seconds have passed.
_ROUNDS_SECONDS, _LEAST_ROUNDS, _MOST_ROUNDS = 0.2, 2, 9
# A way or a precision that saves less may save nothing in the next run.
_CLEAR, _CLEAR_OF_PRECISIONS = 0.95, 0.9
# The policies by their compute dtype.
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}

Shapes = Mapping[str, tuple[int, ...]]


class Workload(NamedTuple):
    """The products that a kernel takes part in, in each step of a run.

    Attributes:
        tokens: Tokens of a micro-batch on one device.
        micro_batches: Micro-batches of a step.
        dtype: Dtype of the products, `float32` or `bfloat16`.
    """

    tokens: int = 1024
    micro_batches: int = 1
    dtype: str = "float32"


class StepTimes(NamedTuple):
    """The duration of a training step of one kernel.

    Attributes:
        skipping: Seconds, with its zeros skipped.
        dense: Seconds, with its zeros multiplied.
    """

    skipping: float
    dense: float

    @property
    def skipping_pays(self) -> bool:
        """Whether skipping takes clearly less time."""
        return self.skipping < _CLEAR * self.dense

    @property
    def chosen(self) -> float:
        """Seconds of the way that `auto` takes."""
        return self.skipping if self.skipping_pays else self.dense


def available() -> bool:
    """Whether this machine can skip zeros; a warning says why, once, if it cannot."""
    try:
        load_operations()
    except NotBuiltError as error:
        warnings.warn(f"{error} Products are dense.", stacklevel=3)
        return False
    return True


def skipping_kernels(
    shapes: Shapes, sparsity: float, compute: str, workload: Workload
) -> tuple[str, ...]:
    """Returns the names of the kernels whose zeros are skipped.

    Args:
        shapes: `(in_features, out_features)` of each kernel by its name.
        sparsity: Fraction of zeros in each kernel.
        compute: `sparse` skips the zeros of all kernels, `dense` of none, `auto` of
            those for which skipping was faster; see `TrainConfig.compute`. Without
            a C++ compiler it is none.
        workload: The products of the run, for `auto`.
    """
    if compute == "dense" or not available():
        return ()
    if compute == "sparse":
        return tuple(shapes)
    times = step_times(shapes, sparsity, workload)
    return tuple(name for name, pair in times.items() if pair.skipping_pays)


def step_times(
    shapes: Shapes, sparsity: float, workload: Workload
) -> dict[str, StepTimes]:
    """Returns the timings on which `auto` decides; empty where nothing can skip zeros.

    Args:
        shapes: As in `skipping_kernels`.
        sparsity: Fraction of zeros in each kernel.
        workload: The products of the run.
    """
    if workload.dtype not in _POLICIES or not available():
        return {}
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return {
        name: time_step(rows, columns, sparsity, workload, threads)
        for name, (rows, columns) in shapes.items()
    }


def describe_times(shapes: Shapes, sparsity: float, workload: Workload) -> str:
    """Says what `auto` has measured, and whether another precision is faster.

    Args:
        shapes: As in `skipping_kernels`.
        sparsity: Fraction of zeros in each kernel.
        workload: The products of the run.

    Returns:
        Text that follows a sentence without its period; empty if nothing was measured.
    """
    times = step_times(shapes, sparsity, workload)
    if not times:
        return ""
    by_shape = {shapes[name]: pair for name, pair in times.items()}
    listed = "; ".join(
        f"{rows} x {columns}: {pair.skipping * 1e3:.1f} ms, dense "
        f"{pair.dense * 1e3:.1f} ms"
        for (rows, columns), pair in by_shape.items()
    )
    text = f" (training in {workload.dtype} takes for {listed})"
    own = sum(pair.chosen for pair in times.values())
    for dtype, policy in _POLICIES.items():
        if dtype != workload.dtype:
            other = step_times(shapes, sparsity, workload._replace(dtype=dtype))
            ratio = sum(pair.chosen for pair in other.values()) / own
            if ratio < _CLEAR_OF_PRECISIONS:
                text += (
                    f". {policy} takes {ratio:.2f} of the time of "
                    f"{_POLICIES[workload.dtype]} for these products on this machine; "
                    f'set precision = "{policy}"'
                )
    return text


@cache
def time_step(
    in_features: int,
    out_features: int,
    sparsity: float,
    workload: Workload,
    threads: int,
) -> StepTimes:
    """Times a training step of one kernel both ways, once per process.

    A step has the forward product and both gradients. The dense way casts and masks the
    kernel for each micro-batch, as the wrapper does; the other way lays it out once for
    all of them. The two ways take turns with a random mask, and the least time counts,
    since other programs can only add to it.

    Args:
        in_features: Rows of the kernel.
        out_features: Its columns.
        sparsity: Fraction of zeros.
        workload: The products of the run. Large batches are timed with fewer tokens.
        threads: Threads of TensorFlow; the timings hold for this number.

    Returns:
        The times of the tokens that were timed, with their share of the layout.
    """
    tokens = timed_tokens(in_features, out_features, workload)
    portions = workload.micro_batches * workload.tokens / tokens
    shape, dtype = (in_features, out_features), workload.dtype
    mask = tf.random.stateless_uniform(shape, (0, 1)) >= sparsity
    kernel = tf.random.stateless_normal(shape, (0, 2))
    bias = tf.zeros(out_features, dtype)
    x, dy = (
        tf.cast(tf.random.stateless_normal((tokens, size), (0, 3)), dtype)
        for size in shape
    )

    def lay_out(kernel: tf.Tensor, mask: tf.Tensor) -> Any:
        return SkippingKernel.lay_out(kernel, mask, dtype)[:2]

    # No tape records while Keras builds a layer, so the gradients are the graph's.
    def skip(x: tf.Tensor, kept: tf.Tensor, layout: tf.Tensor) -> Any:
        y = SkippingKernel(kept, layout, kernel.shape).linear(x, bias)
        return tf.gradients(y, [x, kept], dy)

    def multiply(x: tf.Tensor, kernel: tf.Tensor, mask: tf.Tensor) -> Any:
        masked = tf.cast(kernel, dtype) * tf.cast(mask, dtype)
        y = DenseKernel(masked).linear(x, bias)
        return tf.gradients(y, [x, kernel], dy)

    ways = (
        _compiled(lay_out, kernel, mask),
        _compiled(skip, x, *lay_out(kernel, mask)),
        _compiled(multiply, x, kernel, mask),
    )
    laying_out, skipping, dense = _least_seconds(*ways)
    return StepTimes(skipping + laying_out / portions, dense)


def timed_tokens(in_features: int, out_features: int, workload: Workload) -> int:
    """Returns the number of tokens with which a kernel is timed.

    Example:
        >>> timed_tokens(768, 3072, Workload(tokens=262144))
        1024
    """
    fits = int(_MOST_FLOPS / (6 * in_features * out_features))
    most = min(_MOST_TOKENS, max(_LEAST_TOKENS, fits))
    return max(1, min(workload.tokens, most))


def _compiled(way: Callable[..., Any], *inputs: tf.Tensor) -> Callable[[], Any]:
    """Makes a graph, which is what a training step is, and runs it once."""
    graph = tf.function(way, autograph=False).get_concrete_function(*inputs)
    graph(*inputs)
    return partial(graph, *inputs)


def _least_seconds(*ways: Callable[[], Any]) -> list[float]:
    """Calls functions in turns, and returns the least seconds of each."""
    rounds: list[list[float]] = []
    while len(rounds) < _MOST_ROUNDS and (
        len(rounds) < _LEAST_ROUNDS or sum(map(sum, rounds)) < _ROUNDS_SECONDS
    ):
        rounds.append([_seconds(way) for way in ways])
    return [min(times) for times in zip(*rounds, strict=True)]


def _seconds(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start
