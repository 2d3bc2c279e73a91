"""Exports programs for XLA, with weights beside them, dense or as bitmasks."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spdf_keras.export.card import ExportCard
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.graphs import cache_names
from spdf_keras.export.runtimes import XLA_RUNTIMES
from spdf_keras.export.weights import WeightSource
from spdf_keras.export.xla import programs
from spdf_keras.export.xla.check import run_check, write_check
from spdf_keras.export.xla.plan import XLAPlan
from spdf_keras.export.xla.programs import Argument, Program
from spdf_keras.export.xla.weights import WrittenWeights, write_weights
from spdf_keras.flops import decode_flops, forward_flops, training_flops
from spdf_keras.model.binding import skeleton
from spdf_keras.model.gpt import GPT

_FORMAT = "spdf-xla 1"
# Of the largest logit. bfloat16 keeps 8 bits, and every layer rounds to them.
_TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}


def to_xla(
    model: Any,
    path: str | Path,
    signatures: tuple[str, ...] = ("forward", "prefill", "decode"),
    sparse: bool = False,
    unpack: str = "load",
    *,
    sparsity: float | None = None,
    precision: str | None = None,
    batch_size: int = 1,
    sequence_length: int = 0,
    prompt_length: int = 0,
    cache_length: int = 0,
    check: bool = True,
    overwrite: bool = False,
) -> ExportCard:
    """Writes a folder that JAX, or whatever takes StableHLO, runs without TensorFlow.

    It holds a portable artifact per program, `weights.safetensors`, results to check
    a runtime by (`check.safetensors`), and `artefact.json`: the arguments and results
    of each program in order, with role, shape and dtype, and checksums of everything.
    `run_xla.py` shows how to run it, with JAX and NumPy alone.

    All shapes are fixed. Programs:

    - `forward`: `token_ids` `(batch, sequence_length)` to `logits`.
    - `prefill`: `token_ids` `(batch, prompt_length)`, padded at the right, and their
      `lengths` to the `logits` after each last token, and caches.
    - `decode`: one token of each row, its `position` and the caches to `logits` and
      caches.
    - `train_step`: forward, backward, clipping, AdamW and masks; weights, moments and
      step in and out, for `token_ids`, `labels` and `sample_weight`. Moments and the
      step start at zero.

    No more than one layer is in memory at a time, so a preset or a run of any size
    exports in a few GiB.

    Args:
        model: A GPT, a `Run` (its newest checkpoint) or a preset's name (its initial
            weights).
        path: Folder to write; its parents are made.
        signatures: Programs to write.
        sparse: Store kernels as a bit per weight and the non-zeros.
        unpack: With `sparse`, where kernels become dense: `load`, by programs of
            their own that run once, or `step`, inside each program at every call.
        sparsity: For a preset, sparsity of its masks.
        precision: What the programs compute in, such as `mixed_bfloat16`; the model's
            own if None. Weights are stored in it too, unless `train_step` is there.
        batch_size: Rows.
        sequence_length: Tokens of `forward` and `train_step`; 0 is the context.
        prompt_length: Longest prompt; 0 is 64, or the cache where that is shorter.
        cache_length: Longest sequence with a cache; 0 is the context.
        check: Run the programs in JAX and compare, which needs memory for the model.
        overwrite: Replace such a folder that is there.

    Returns:
        Its sizes and error.

    Raises:
        InputError: If an argument cannot be used, or `path` exists.
        ExportError: If a program's results are not the model's.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/nano"
        ...     card = to_xla("gpt_nano", path, ("decode",), sparse=True, sparsity=0.75)
        >>> card.sparsity
        0.75
    """
    source = WeightSource.of(model, sparsity)
    plan = XLAPlan.of(
        source,
        tuple(signatures),
        (sparse, unpack),
        precision or source.precision,
        (batch_size, sequence_length, prompt_length, cache_length),
    )
    with staged(path, overwrite, folder_with="artefact.json") as stage:
        stage.mkdir()
        weights = write_weights(source, plan, stage / "weights.safetensors")
        about = _write_programs(source, plan, weights, stage)
        checksums = {**weights.checksums, **write_check(source, plan, stage)}
        about |= {
            "tolerance": _TOLERANCES[plan.compute_dtype],
            "check_prompt": plan.check_prompt,
            "tensors": checksums,
        }
        text = json.dumps(about, indent=1)
        (stage / "artefact.json").write_text(text + "\n", "utf-8")
        result = run_check(stage) if check else {}
        card = _card(source, plan, weights, result, stage, path)
        card.save(stage / "card.json")
    return card


def _write_programs(
    source: WeightSource, plan: XLAPlan, weights: WrittenWeights, folder: Path
) -> dict[str, Any]:
    """Writes the programs, and returns `artefact.json` but for the checks."""
    from spdf_keras import __version__

    model = skeleton(source.sizes, plan.precision)
    lowered = {
        name: _lower(name, model, source, plan, weights) for name in plan.signatures
    }
    flops = _flops(source, plan)
    unpackers, unpacked = {}, {}
    if plan.unpack == "load":
        for path, (shape, stored) in weights.encoded.items():
            name = "unpack_" + "x".join(map(str, (*shape, stored)))
            unpacked[path] = name
            if name not in unpackers:
                unpackers[name] = _lower_unpack(shape, stored, plan)
    for name, program in {**lowered, **unpackers}.items():
        (folder / f"{name}.stablehlo").write_bytes(program.blob)
    return {
        "format": _FORMAT,
        "written_by": f"spdf_keras {__version__}",
        "model": dataclasses.asdict(source.sizes),
        **{k: v for k, v in dataclasses.asdict(plan).items() if k != "signatures"},
        "compute_dtype": plan.compute_dtype,
        "sparsity": weights.sparsity,
        "programs": {
            name: {**_about(program), "flops": flops[name]}
            for name, program in lowered.items()
        },
        "unpack_programs": {n: _about(program) for n, program in unpackers.items()},
        "unpack": unpacked,
    }


def _about(program: Program) -> dict[str, Any]:
    return {
        "sha256": hashlib.sha256(program.blob).hexdigest(),
        "arguments": [dataclasses.asdict(argument) for argument in program.arguments],
        "results": [dataclasses.asdict(result) for result in program.results],
    }


def _lower(
    name: str, model: GPT, source: WeightSource, plan: XLAPlan, weights: WrittenWeights
) -> Program:
    function, inputs = _function(name, model, source, plan)
    arguments = [
        argument
        for path, shape in source.shapes.items()
        for argument in _weight_arguments(path, shape, plan, weights)
    ]
    in_step = weights.encoded if plan.unpack == "step" else {}
    roles = dict.fromkeys(cache_names(len(model.blocks)), "cache")
    if name == "train_step":
        for path, shape in source.shapes.items():
            moments = [
                Argument(f"{m}/{path}", "moment", shape, "float32") for m in "mv"
            ]
            arguments += moments
            roles |= {path: "weight", **{moment.name: "moment" for moment in moments}}
        arguments += [
            Argument(f"mask/{path}", "mask", source.shapes[path], "bool")
            for path in weights.masked
        ]
        arguments.append(Argument("step", "step", (), "int32"))
        roles["step"] = "step"

    def run(given: programs.Tensors) -> programs.Tensors:
        dense = {
            path: programs.unpack(given[f"{path}.bits"], given[f"{path}.values"], shape)
            for path, (shape, _) in in_step.items()
        }
        return function({**given, **dense})

    return programs.lower(run, [*arguments, *inputs], roles)


def _weight_arguments(
    path: str, shape: tuple[int, ...], plan: XLAPlan, weights: WrittenWeights
) -> Iterator[Argument]:
    if path in weights.encoded and plan.unpack == "step":
        yield from _code_arguments(path, *weights.encoded[path], plan)
    else:
        yield Argument(path, "weight", shape, plan.weight_dtype(path))


def _code_arguments(
    path: str, shape: tuple[int, ...], stored: int, plan: XLAPlan
) -> Iterator[Argument]:
    size = int(np.prod(shape))
    yield Argument(f"{path}.bits", "bits", (-(-size // 8),), "uint8")
    yield Argument(f"{path}.values", "values", (stored,), plan.weight_dtype(path))


def _lower_unpack(shape: tuple[int, ...], stored: int, plan: XLAPlan) -> Program:
    def run(given: programs.Tensors) -> programs.Tensors:
        return {"dense": programs.unpack(given[".bits"], given[".values"], shape)}

    return programs.lower(run, list(_code_arguments("", shape, stored, plan)))


def _function(
    name: str, model: GPT, source: WeightSource, plan: XLAPlan
) -> tuple[Any, list[Argument]]:
    """What a program computes, and its inputs and caches."""
    batch, sizes = plan.batch_size, source.sizes
    if name == "prefill":
        return partial(programs.prefill_program, model, plan.cache_length), [
            Argument("token_ids", "input", (batch, plan.prompt_length), "int32"),
            Argument("lengths", "input", (batch,), "int32"),
        ]
    if name == "decode":
        head_dim = sizes.hidden_dim // sizes.num_heads
        cache = batch, sizes.num_heads, plan.cache_length, head_dim
        return partial(programs.decode_program, model), [
            Argument("token_ids", "input", (batch, 1), "int32"),
            Argument("position", "input", (batch,), "int32"),
            *(
                Argument(name, "cache", cache, plan.compute_dtype)
                for name in cache_names(sizes.num_layers)
            ),
        ]
    shape = batch, plan.sequence_length
    tokens = Argument("token_ids", "input", shape, "int32")
    if name == "forward":
        return partial(programs.forward, model), [tokens]
    return partial(programs.train_step, model, source.optimizer), [
        tokens,
        Argument("labels", "input", shape, "int32"),
        Argument("sample_weight", "input", shape, "float32"),
    ]


def _flops(source: WeightSource, plan: XLAPlan) -> dict[str, float]:
    """Operations of a call of each program, zeros counted."""
    sizes, batch = source.sizes, plan.batch_size
    unread = (plan.prompt_length - 1) * 2 * sizes.hidden_dim * sizes.vocabulary_size
    return {
        "forward": batch * forward_flops(sizes, plan.sequence_length),
        "prefill": batch * (forward_flops(sizes, plan.prompt_length) - unread),
        "decode": batch * decode_flops(sizes, plan.cache_length),
        "train_step": batch * training_flops(sizes, plan.sequence_length),
    }


def _card(
    source: WeightSource,
    plan: XLAPlan,
    weights: WrittenWeights,
    result: dict[str, Any],
    stage: Path,
    path: str | Path,
) -> ExportCard:
    notes = []
    if not result:
        notes.append("Not run: `run_xla.py --check` compares it where JAX is.")
    if plan.sparse and not weights.encoded:
        notes.append("No kernel had enough zeros to become smaller: all are dense.")
    if weights.encoded:
        where = "once at load" if plan.unpack == "load" else "at every call"
        notes.append(
            f"{len(weights.encoded)} kernels take "
            f"{weights.stored_bytes / weights.kernel_bytes:.3f} of their dense bytes; "
            f"they are unpacked {where}, and their zeros are multiplied."
        )
    size = size_bytes(stage)
    rest = size - (stage / "weights.safetensors").stat().st_size
    return ExportCard(
        format="xla_sparse" if plan.sparse else "xla",
        path=str(path),
        size_bytes=size,
        dense_size_bytes=rest + weights.dense_bytes,
        bound_size_bytes=rest + round(weights.bound_bytes),
        sparsity=weights.sparsity,
        max_abs_error=result.get("max_abs_error"),
        max_abs_logit=result.get("max_abs_logit"),
        vocabulary_size=source.sizes.vocabulary_size,
        notes=tuple(notes),
        runtimes=XLA_RUNTIMES,
    )
