"""Exports programs for XLA, with weights beside them, dense or as bitmasks."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spdf_keras.errors import InputError
from spdf_keras.export.card import ExportCard, card_path
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.runtimes import XLA_RUNTIMES, XLA_SKIPPING_RUNTIMES
from spdf_keras.export.targets import KNOWN_BY
from spdf_keras.export.weights import WeightSource
from spdf_keras.export.xla.calls import INTERFACE
from spdf_keras.export.xla.check import Checked, run_checks, write_check
from spdf_keras.export.xla.lowering import Program
from spdf_keras.export.xla.plan import XLAPlan
from spdf_keras.export.xla.signatures import Signatures
from spdf_keras.export.xla.weights import WrittenWeights, write_weights
from spdf_keras.model.gpt import GPT
from spdf_keras.training.run import Run

_FORMAT = "spdf-xla 1"
# The file by which a folder is known as an XLA export.
_FOLDER_WITH = KNOWN_BY["xla"]
# Errors that are allowed, as fractions of the largest logit. bfloat16 keeps 8 bits,
# and every layer rounds to them.
_TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}


def to_xla(
    model: GPT | Run | str | Path,
    path: str | Path,
    signatures: Sequence[str] = ("forward", "prefill", "decode"),
    sparse: bool = False,
    unpack: str = "load",
    *,
    skip_zeros: str | None = None,
    sparsity: float | None = None,
    precision: str | None = None,
    batch_size: int = 1,
    sequence_length: int = 0,
    prompt_length: int = 0,
    cache_length: int = 0,
    check: bool = True,
    overwrite: bool = False,
) -> ExportCard:
    """Writes a folder that JAX or another runtime of StableHLO runs.

    It holds a portable artifact per program, `weights.safetensors`, results to check
    a runtime by (`check.safetensors`), and `artefact.json`: the arguments and results
    of each program in order, with role, shape and dtype, and checksums of all files.
    `run_xla.py` shows how to run it, with JAX and NumPy alone.

    All shapes are fixed. Programs:

    - `forward`: `token_ids` `(batch, sequence_length)` to `logits`.
    - `prefill`: `token_ids` `(batch, prompt_length)`, padded at the right, and their
      `lengths` to the `logits` after each last token, and caches.
    - `decode`: one token of each row, its `position` and the caches to `logits` and
      caches.
    - `train_step`: forward, backward, clipping, AdamW and masks, for `token_ids`,
      `labels` and `sample_weight`. It takes and returns weights, moments and step;
      moments and the step start at zero.

    With `skip_zeros="cpu"`, each program has a twin in `PROGRAM.skipping.stablehlo`,
    whose products skip the zeros by custom calls. A library computes them on CPUs:
    `python -m spdf_keras.native.build --target xla` compiles it. Hosts without it run
    the portable programs.

    No more than one layer is in memory at a time, so a preset or a run of any size
    exports in a few GiB.

    Args:
        model: A GPT, sparse or stripped, a `Run` or its folder (its newest or best
            checkpoint), or a preset's name (its initial weights).
        path: Folder to write; its parents are made.
        signatures: Programs to write.
        sparse: Store kernels as a bit per weight and the non-zeros.
        unpack: With `sparse`, where kernels become dense: `load`, by programs of
            their own that run once, or `step`, inside each program at every call.
        skip_zeros: `cpu` to write the twins too, with `sparse` and in float32; None to
            write the portable programs alone.
        sparsity: For a preset, sparsity of its masks.
        precision: Precision that the programs compute in, such as `mixed_bfloat16`;
            that of the model if None. Weights are stored in it too, unless
            `train_step` is there.
        batch_size: Rows of a batch.
        sequence_length: Tokens of `forward` and `train_step`; 0 is the context.
        prompt_length: Longest prompt; 0 is 64, or the cache where that is shorter.
        cache_length: Longest sequence with a cache; 0 is the context.
        check: Run the programs in JAX and compare, which needs memory for the model.
            The twins run too, unless their library cannot be compiled here.
        overwrite: Replace such a folder that is there.

    Returns:
        The card, with sizes and error.

    Raises:
        InputError: If `model` is unknown, an argument cannot be used, or `path`
            exists.
        ExportError: If a program's results are not the model's.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/nano"
        ...     card = to_xla("gpt_nano", path, ("decode",), sparse=True, sparsity=0.75)
        >>> card.sparsity
        0.75
    """
    if find_spec("jax") is None:
        raise InputError(
            "An XLA export needs JAX, which finishes and checks its programs. Install "
            "jax."
        )
    source = WeightSource.of(model, sparsity)
    plan = XLAPlan.of(
        source,
        signatures=signatures,
        sparse=sparse,
        unpack=unpack,
        precision=precision,
        batch_size=batch_size,
        sequence_length=sequence_length,
        prompt_length=prompt_length,
        cache_length=cache_length,
        skip_zeros=skip_zeros,
    )
    with staged(path, overwrite, folder_with=_FOLDER_WITH) as stage:
        stage.mkdir()
        weights = write_weights(source, plan, stage / "weights.safetensors")
        about = {
            **_head(source, plan, weights),
            **_write_programs(Signatures(source, plan, weights), stage),
            "tolerance": _TOLERANCES[plan.compute_dtype],
            "check_prompt": plan.check_prompt,
            "tensors": {**weights.checksums, **write_check(source, plan, stage)},
        }
        text = json.dumps(about, indent=1)
        (stage / _FOLDER_WITH).write_text(text + "\n", "utf-8")
        checked = run_checks(stage) if check else Checked()
        card = _card(source, plan, weights, stage, path=path, checked=checked)
        card.save(card_path(stage))
    return card


def _head(
    source: WeightSource, plan: XLAPlan, weights: WrittenWeights
) -> dict[str, Any]:
    """Returns the part of `artefact.json` that describes the model and the options."""
    from spdf_keras import __version__

    options = dataclasses.asdict(plan)
    del options["signatures"]
    return {
        "format": _FORMAT,
        "written_by": f"spdf_keras {__version__}",
        "model": dataclasses.asdict(source.sizes),
        **options,
        "compute_dtype": plan.compute_dtype,
        "sparsity": weights.sparsity,
    }


def _write_programs(signatures: Signatures, folder: Path) -> dict[str, Any]:
    """Writes the programs, and returns the part of `artefact.json` about them."""
    plan, encoded = signatures.plan, signatures.weights.encoded
    programs = {name: signatures.lower(name) for name in plan.signatures}
    unpackers: dict[str, Program] = {}
    unpacker_of: dict[str, str] = {}
    if plan.unpack == "load":
        for path, (shape, stored) in encoded.items():
            # Kernels of one shape and number of values share a program.
            name = "unpack_" + "x".join(map(str, (*shape, stored)))
            unpacker_of[path] = name
            if name not in unpackers:
                unpackers[name] = signatures.lower_unpack(shape, stored)
    for name, program in {**programs, **unpackers}.items():
        (folder / f"{name}.stablehlo").write_bytes(program.blob)
    twins = _write_twins(signatures, folder) if plan.skip_zeros else {}
    return {
        **twins,
        "programs": {
            name: {**_about(program), "flops": signatures.flops(name)}
            for name, program in programs.items()
        },
        "unpack_programs": {n: _about(program) for n, program in unpackers.items()},
        "unpack": unpacker_of,
    }


def _write_twins(signatures: Signatures, folder: Path) -> dict[str, Any]:
    """Writes the programs that skip zeros; returns the part of `artefact.json`."""
    programs = {
        name: signatures.lower(name, skipping=True)
        for name in signatures.plan.signatures
        if signatures.skipped(name)
    }
    for name, program in programs.items():
        (folder / f"{name}.skipping.stablehlo").write_bytes(program.blob)
    encoded = signatures.weights.encoded
    skipping = {
        "interface": INTERFACE,
        "kernels": {path: shape for path, (shape, _) in encoded.items()},
        "programs": {name: _about(program) for name, program in programs.items()},
    }
    return {"skipping": skipping} if programs else {}


def _about(program: Program) -> dict[str, Any]:
    return {
        "sha256": hashlib.sha256(program.blob).hexdigest(),
        "arguments": [dataclasses.asdict(argument) for argument in program.arguments],
        "results": [dataclasses.asdict(result) for result in program.results],
    }


def _bytes_beside_weights(stage: Path) -> int:
    """Counts the bytes that the same export has with every zero stored.

    These are all but the weights themselves, the programs that unpack them, and those
    that skip their zeros. The header of the weights counts.
    """
    file = stage / "weights.safetensors"
    with file.open("rb") as content:
        header = 8 + int.from_bytes(content.read(8), "little")
    needless = [*stage.glob("unpack_*.stablehlo"), *stage.glob("*.skipping.stablehlo")]
    weights = file.stat().st_size - header
    return size_bytes(stage) - weights - sum(path.stat().st_size for path in needless)


def _card(
    source: WeightSource,
    plan: XLAPlan,
    weights: WrittenWeights,
    stage: Path,
    *,
    path: str | Path,
    checked: Checked,
) -> ExportCard:
    """Makes the card of a folder at `stage` that will be at `path`."""
    notes = list(checked.notes)
    if plan.sparse and not weights.encoded:
        notes.append("No kernel had enough zeros to become smaller: all are dense.")
    if weights.encoded:
        where = "once at load" if plan.unpack == "load" else "at every call"
        notes.append(
            f"{len(weights.encoded)} kernels take "
            f"{weights.stored_bytes / weights.kernel_bytes:.3f} of their dense bytes; "
            f"they are unpacked {where}, and their zeros are multiplied."
        )
    if twins := list(stage.glob("*.skipping.stablehlo")):
        total = sum(twin.stat().st_size for twin in twins)
        notes.append(
            f"{len(twins)} further programs ({total / 1e6:.2f} MB) skip the zeros on "
            "CPUs, by the library of `python -m spdf_keras.native.build --target xla`."
        )
    size, rest = size_bytes(stage), _bytes_beside_weights(stage)
    return ExportCard(
        format="xla_sparse" if plan.sparse else "xla",
        path=str(path),
        size_bytes=size,
        dense_size_bytes=rest + weights.dense_bytes,
        bound_size_bytes=rest + round(weights.bound_bytes),
        sparsity=weights.sparsity,
        max_abs_error=checked.max_abs_error,
        max_abs_logit=checked.max_abs_logit,
        vocabulary_size=source.sizes.vocabulary_size,
        notes=tuple(notes),
        runtimes=XLA_SKIPPING_RUNTIMES if twins else XLA_RUNTIMES,
    )
