"""Stores results of the Keras layers, and compares the programs with them in JAX."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spdf_keras.errors import ExportError
from spdf_keras.export.card import require_finite_logits
from spdf_keras.export.graphs import exact_float32
from spdf_keras.export.weights import WeightSource
from spdf_keras.export.xla.plan import XLAPlan
from spdf_keras.model.binding import bound, skeleton
from spdf_keras.native.build import NotBuiltError, library_path
from spdf_keras.safetensors_file import safetensors_writer

_DECODED_TOKENS = 4


def write_check(source: WeightSource, plan: XLAPlan, folder: Path) -> dict[str, str]:
    """Writes token ids with the Keras layers' logits and loss; returns checksums.

    A runner on another machine compares its own results with these.
    """
    shape, start = (plan.batch_size, plan.checked_tokens), plan.check_prompt
    random = np.random.default_rng(0)
    token_ids = random.integers(
        source.sizes.vocabulary_size, size=shape, dtype=np.int32
    )
    spread = np.linspace(0, shape[1] - 1, 8, dtype=np.int32).tolist()
    decoded = range(start - 1, min(start + _DECODED_TOKENS, shape[1]))
    positions = np.array(sorted({*spread, *decoded}), np.int32)
    logits = reference_logits(source, token_ids, positions, plan.precision)
    require_finite_logits(logits)
    labels = np.concatenate([token_ids[:, 1:], token_ids[:, :1]], 1)[:, positions]
    nll = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    loss = np.array([tf.reduce_mean(nll)], np.float32)
    with safetensors_writer(folder / "check.safetensors", 4) as writer:
        writer.add("token_ids", token_ids)
        writer.add("positions", positions)
        writer.add("logits", logits)
        writer.add("loss", loss)
    return writer.checksums


def reference_logits(
    source: WeightSource,
    token_ids: NDArray[np.int32],
    positions: NDArray[np.int32],
    precision: str = "float32",
) -> NDArray[np.float32]:
    """Logits of the Keras layers, computed with one block in memory at a time.

    Args:
        source: The weights.
        token_ids: `(batch, length)`.
        positions: Positions whose logits are returned.
        precision: Precision that the layers compute in.

    Returns:
        `(batch, len(positions), vocabulary_size)`.
    """
    model = skeleton(source.sizes, precision)

    def read(layer: str) -> dict[str, tf.Tensor]:
        return {
            path: tf.constant(source.read(path))
            for path in source.shapes
            if path.startswith(f"{layer}/")
        }

    with exact_float32(), bound(model, read("embedding") | read("final_norm")):
        x = model.embedding(token_ids)
        for block in model.blocks:
            with bound(model, read(block.name)):
                x = block(x)
        hidden = model.final_norm(tf.gather(x, positions, axis=1))
        logits = model.embedding(hidden, reverse=True)
    return np.asarray(tf.cast(logits, tf.float32))


@dataclass(frozen=True)
class Checked:
    """What running the programs has shown.

    Attributes:
        max_abs_error: Largest difference of the logits, of all programs that ran; None
            if none ran.
        max_abs_logit: Largest of the logits.
        notes: Sentences about what was not run.
    """

    max_abs_error: float | None = None
    max_abs_logit: float | None = None
    notes: tuple[str, ...] = (
        "Not run: `run_xla.py --check` compares it where there is memory for it.",
    )


def run_checks(folder: Path) -> Checked:
    """Runs the portable programs of an artefact, and those that skip zeros.

    The latter need a library, which is compiled if it is not there.

    Raises:
        ExportError: If a program does not run, or its results are not the model's.
    """
    about = json.loads((folder / "artefact.json").read_text("utf-8"))
    results, notes = [run_check(folder)], []
    if "skipping" in about:
        try:
            library = library_path("xla")
        except NotBuiltError as error:
            notes.append(f"The programs that skip zeros were not run. {error}")
        else:
            results.append(run_check(folder, library))
    return Checked(
        max(result["max_abs_error"] for result in results),
        results[0]["max_abs_logit"],
        tuple(notes),
    )


def run_check(folder: Path, library: Path | None = None) -> dict[str, Any]:
    """Runs the artefact in JAX, in a process of its own.

    Args:
        folder: The artefact.
        library: The library that skips zeros; None for the portable programs.

    Returns:
        As `XLAModel.check`.

    Raises:
        ExportError: If a program does not run, or its results are not the model's.
    """
    runner = Path(__file__).parents[1] / "runners" / "run_xla.py"
    arguments = [str(folder), "--check", "--library", str(library or "")]
    # The library computes on CPUs.
    platform = {"JAX_PLATFORMS": "cpu"} if library else {}
    done = subprocess.run(
        [sys.executable, str(runner), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **platform},
    )
    if not done.stdout.strip():
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise ExportError(f"JAX cannot run the programs: {last}")
    result = json.loads(done.stdout)
    if library and not result["skips_zeros"]:
        raise ExportError(
            f"The programs that skip zeros do not run: {result['products']}"
        )
    if not result["passed"]:
        raise ExportError(
            "The exported programs' results differ from the Keras model's by "
            f"{result['error']:.2g} of the largest. Allowed is "
            f"{result['tolerance']:g}. Nothing was written."
        )
    return dict(result)
