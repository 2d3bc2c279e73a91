"""The invariant, and equal mathematics, in every mode that a user would train in."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras.native.build import NotBuiltError
from spdf_keras.native.tensorflow.operations import load_operations

PRECISIONS = {
    # Tolerances of losses over five steps of Adam at 1e-2, relative; the mixed ones
    # are those of their 8 and 11 bits.
    "float32": 2e-5,
    "mixed_bfloat16": 5e-3,
    "mixed_float16": 1e-3,
}


# Eager and compiled steps take two minutes more.
@pytest.fixture(
    scope="module",
    params=[
        ("graph",),
        pytest.param(("eager", "graph", "xla"), marks=pytest.mark.slow),
    ],
    ids="+".join,
)
def cells(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """What each cell of mode, precision, micro-batches and replicas did."""
    found = run_cells(*request.param)
    axes = itertools.product(request.param, PRECISIONS, (1, 4), (1, 2))
    assert set(found) == {"-".join(map(str, cell)) for cell in axes}
    return found


@pytest.fixture(
    scope="module",
    params=[("graph",), ("eager", "xla")],
    ids="+".join,
)
def sparse_cells(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """What each cell did with dense and sparse products, and with `recompute`."""
    try:
        load_operations()
    except NotBuiltError as error:
        pytest.skip(str(error))
    return run_cells("--sparse", *request.param)


def run_cells(*arguments: str) -> dict[str, dict[str, Any]]:
    program = Path(__file__).with_name("mode_cells.py")
    done = subprocess.run(
        [sys.executable, program, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return {result.pop("cell"): result for result in results}


def test_masks_hold_in_every_mode(cells: dict[str, dict[str, Any]]) -> None:
    check_masks(cells)


# `test_methods.py` has some of these cells in the fast tests.
@pytest.mark.slow
def test_masks_hold_in_every_mode_with_sparse_products(
    sparse_cells: dict[str, dict[str, Any]],
) -> None:
    check_masks(sparse_cells)
    for name, cell in sparse_cells.items():
        if "refused" not in cell:
            assert cell["skipped"] == (6 if "sparse" in name else 0), name


@pytest.mark.slow
def test_sparse_products_give_the_losses_of_masked_ones(
    sparse_cells: dict[str, dict[str, Any]],
) -> None:
    compared = 0
    for name, cell in sparse_cells.items():
        if "sparse" in name and "refused" not in cell:
            mode, precision, parts, replicas = name.split("-")[:4]
            masked = sparse_cells[f"{mode}-{precision}-{parts}-{replicas}"]
            np.testing.assert_allclose(
                cell["losses"],
                masked["losses"],
                rtol=PRECISIONS[precision],
                err_msg=name,
            )
            compared += 1
    # Precisions, micro-batches, replicas, recomputation; XLA has no replicas on CPUs.
    modes = {name.split("-")[0] for name in sparse_cells}
    assert compared == sum(8 if mode == "xla" else 16 for mode in modes)


def check_masks(cells: dict[str, dict[str, Any]]) -> None:
    for name, cell in cells.items():
        if "refused" in cell:
            continue
        assert (cell["steps"], cell["violations"]) == (5, 0), name
        assert cell["masks_unchanged"] and cell["only_kept_moved"], name
        assert cell["same_everywhere"] and cell["gradients_seen"], name


def test_every_mode_gives_the_same_losses(cells: dict[str, dict[str, Any]]) -> None:
    first = "eager" if "eager-float32-1-1" in cells else "graph"
    for name, cell in cells.items():
        if "refused" not in cell:
            np.testing.assert_allclose(
                cell["losses"],
                cells[f"{first}-float32-1-1"]["losses"],
                rtol=PRECISIONS[name.split("-")[1]],
                err_msg=name,
            )


def test_what_tensorflow_cannot_do_is_refused(cells: dict[str, dict[str, Any]]) -> None:
    for name, cell in cells.items():
        refused = name.startswith("xla") and name.endswith("2")
        assert ("refused" in cell) == refused, name
        if refused:
            assert cell["refused"] == (
                "`jit_compile` must be false with several replicas on CPUs, which "
                "TensorFlow's XLA cannot run. Received: jit_compile=True with 2 "
                "replicas. Set it to false, or use one replica."
            )
