"""Exports programs for XLA, with weights beside them, dense or as bitmasks."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from spdf_keras.config import PRECISIONS
from spdf_keras.errors import ExportError, InputError
from spdf_keras.export import programs
from spdf_keras.export.bitmask import Bitmask, information_bound
from spdf_keras.export.card import ExportCard
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.graphs import exact_float32
from spdf_keras.export.programs import Argument, Program
from spdf_keras.export.runtimes import XLA_RUNTIMES
from spdf_keras.export.safetensors_file import safetensors_writer
from spdf_keras.export.weights import WeightSource, prunable_paths
from spdf_keras.flops import decode_flops, forward_flops, training_flops
from spdf_keras.model.binding import bound, skeleton
from spdf_keras.model.gpt import GPT

SIGNATURES = ("forward", "prefill", "decode", "train_step")

_FORMAT = "spdf-xla 1"
_PROMPT_LENGTH = 64
_CHECKED_TOKENS = 64
_DECODED_TOKENS = 4
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
    plan = _Plan.of(
        source,
        tuple(signatures),
        (sparse, unpack),
        precision or source.precision,
        (batch_size, sequence_length, prompt_length, cache_length),
    )
    with staged(path, overwrite, folder_with="artefact.json") as stage:
        stage.mkdir()
        weights = _write_weights(source, plan, stage / "weights.safetensors")
        about = _write_programs(source, plan, weights, stage)
        checksums = {**weights.checksums, **_write_check(source, plan, stage)}
        about |= {
            "tolerance": _TOLERANCES[plan.compute_dtype],
            "check_prompt": plan.check_prompt,
            "tensors": checksums,
        }
        text = json.dumps(about, indent=1)
        (stage / "artefact.json").write_text(text + "\n", "utf-8")
        result = _run_check(stage) if check else {}
        card = _card(source, plan, weights, result, stage, path)
        card.save(stage / "card.json")
    return card


@dataclass(frozen=True)
class _Plan:
    """What to write, with every default filled in."""

    signatures: tuple[str, ...]
    sparse: bool
    unpack: str
    precision: str
    batch_size: int
    sequence_length: int
    prompt_length: int
    cache_length: int

    @classmethod
    def of(
        cls,
        source: WeightSource,
        signatures: tuple[str, ...],
        encoding: tuple[bool, str],
        precision: str,
        sizes: tuple[int, int, int, int],
    ) -> "_Plan":
        _one_of("signatures", signatures, SIGNATURES)
        _one_of("unpack", encoding[1:], ("load", "step"))
        _one_of("precision", (precision,), PRECISIONS)
        trains = "train_step" in signatures
        if trains and source.optimizer is None:
            raise InputError(
                "`train_step` needs a model compiled with spdf_keras' AdamW."
            )
        if trains and precision == "mixed_float16":
            raise InputError(
                "`train_step` does not scale the loss, which float16 needs. Take "
                "precision='mixed_bfloat16'."
            )
        if trains and encoding == (True, "step"):
            raise InputError(
                "`unpack` must be 'load' for `train_step`: it moves dense weights. "
                "Received: unpack='step'."
            )
        context = source.sizes.max_sequence_length
        batch_size, sequence_length, prompt_length, cache_length = sizes
        cache_length = cache_length or context
        sequence_length = sequence_length or context
        prompt_length = prompt_length or min(_PROMPT_LENGTH, cache_length)
        for name, value, most in (
            ("batch_size", batch_size, 2**16),
            ("sequence_length", sequence_length, context),
            ("cache_length", cache_length, context),
            ("prompt_length", prompt_length, cache_length),
        ):
            if not 1 <= value <= most:
                raise InputError(
                    f"`{name}` must be in [1, {most}]. Received: {name}={value}."
                )
        return cls(
            *(signatures, *encoding, precision),
            *(batch_size, sequence_length, prompt_length, cache_length),
        )

    @property
    def compute_dtype(self) -> str:
        return self.precision.removeprefix("mixed_")

    def weight_dtype(self, path: str) -> str:
        """What a weight is stored in; for training, and of LayerNorm, float32."""
        is_norm = path.endswith(("/gamma", "/beta"))
        keeps = is_norm or "train_step" in self.signatures
        return "float32" if keeps else self.compute_dtype

    @property
    def checked_tokens(self) -> int:
        return min(_CHECKED_TOKENS, self.sequence_length, self.cache_length)

    @property
    def check_prompt(self) -> int:
        """Tokens of the checked sequence that are prefilled; some are decoded."""
        return max(1, min(self.prompt_length, self.checked_tokens // 2))


def _one_of(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise InputError(
            f"`{name}` must be of {', '.join(known)}. Received: "
            f"{', '.join(map(str, unknown)) or 'nothing'}."
        )


@dataclass(frozen=True)
class _Weights:
    """What was written of the weights.

    Attributes:
        encoded: Shape and number of non-zeros of each encoded kernel by its path.
        masked: Paths with a mask.
        checksums: Of each tensor in the file.
        stored_bytes: Bytes of kernels in the file.
        kernel_bytes: Bytes of the same kernels, dense.
        dense_bytes: Bytes of all weights, dense.
        bound_bytes: What no code of all weights goes below.
        kernel_zeros: Zeros among the kernels' entries.
        kernel_size: Entries of the kernels.
    """

    encoded: dict[str, tuple[tuple[int, ...], int]]
    masked: list[str]
    checksums: dict[str, str]
    stored_bytes: int
    kernel_bytes: int
    dense_bytes: int
    bound_bytes: float
    sparsity: float


def _write_weights(source: WeightSource, plan: _Plan, path: Path) -> _Weights:
    """Writes every weight, and the masks that a training step needs."""
    kernels = prunable_paths(source.sizes)
    trains = "train_step" in plan.signatures
    encoded: dict[str, tuple[tuple[int, ...], int]] = {}
    masked, bits = [], {}
    stored = kernel_bytes = dense_bytes = zeros = size = 0
    bound_bytes = 0.0
    with safetensors_writer(path, 2 * len(source.shapes)) as writer:
        for name in source.shapes:
            weight: NDArray[Any] = source.read(name)
            mask = source.mask(name) if trains else None
            dtype = tf.dtypes.as_dtype(plan.weight_dtype(name)).as_numpy_dtype
            weight = weight.astype(dtype, copy=False)
            if mask is not None:
                masked.append(name)
            dense_bytes += weight.nbytes
            if name not in kernels:
                bound_bytes += weight.nbytes
                writer.add(name, weight)
                continue
            code = Bitmask.encode(weight, mask)
            bound_bytes += information_bound(
                weight.size, code.values.size, weight.itemsize
            )
            zeros, size = zeros + weight.size - code.values.size, size + weight.size
            kernel_bytes += weight.nbytes
            if plan.sparse and code.size_bytes < weight.nbytes:
                encoded[name] = weight.shape, code.values.size
                bits[f"{name}.bits"] = code.bits
                writer.add(f"{name}.values", code.values)
                stored += code.size_bytes
            else:
                if mask is not None:
                    bits[f"mask/{name}"] = code.bits
                writer.add(name, weight)
                stored += weight.nbytes
        for name, packed in bits.items():
            writer.add(name, packed)
    return _Weights(
        encoded,
        masked,
        writer.checksums,
        stored,
        kernel_bytes,
        dense_bytes,
        bound_bytes,
        zeros / size,
    )


def _write_programs(
    source: WeightSource, plan: _Plan, weights: _Weights, folder: Path
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
    name: str, model: GPT, source: WeightSource, plan: _Plan, weights: _Weights
) -> Program:
    function, inputs = _function(name, model, source, plan)
    arguments = [
        argument
        for path, shape in source.shapes.items()
        for argument in _weight_arguments(path, shape, plan, weights)
    ]
    in_step = weights.encoded if plan.unpack == "step" else {}
    roles = {
        f"{letter}_{i}": "cache" for i in range(len(model.blocks)) for letter in "kv"
    }
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
    path: str, shape: tuple[int, ...], plan: _Plan, weights: _Weights
) -> Iterator[Argument]:
    if path in weights.encoded and plan.unpack == "step":
        yield from _code_arguments(path, *weights.encoded[path], plan)
    else:
        yield Argument(path, "weight", shape, plan.weight_dtype(path))


def _code_arguments(
    path: str, shape: tuple[int, ...], stored: int, plan: _Plan
) -> Iterator[Argument]:
    size = int(np.prod(shape))
    yield Argument(f"{path}.bits", "bits", (-(-size // 8),), "uint8")
    yield Argument(f"{path}.values", "values", (stored,), plan.weight_dtype(path))


def _lower_unpack(shape: tuple[int, ...], stored: int, plan: _Plan) -> Program:
    def run(given: programs.Tensors) -> programs.Tensors:
        return {"dense": programs.unpack(given[".bits"], given[".values"], shape)}

    return programs.lower(run, list(_code_arguments("", shape, stored, plan)))


def _function(
    name: str, model: GPT, source: WeightSource, plan: _Plan
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
                Argument(f"{letter}_{index}", "cache", cache, plan.compute_dtype)
                for index in range(sizes.num_layers)
                for letter in "kv"
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


def _flops(source: WeightSource, plan: _Plan) -> dict[str, float]:
    """Operations of a call of each program, zeros counted."""
    sizes, batch = source.sizes, plan.batch_size
    unread = (plan.prompt_length - 1) * 2 * sizes.hidden_dim * sizes.vocabulary_size
    return {
        "forward": batch * forward_flops(sizes, plan.sequence_length),
        "prefill": batch * (forward_flops(sizes, plan.prompt_length) - unread),
        "decode": batch * decode_flops(sizes, plan.cache_length),
        "train_step": batch * training_flops(sizes, plan.sequence_length),
    }


def _write_check(source: WeightSource, plan: _Plan, folder: Path) -> dict[str, str]:
    """Writes token ids with the Keras layers' logits and loss; returns checksums."""
    shape, start = (plan.batch_size, plan.checked_tokens), plan.check_prompt
    random = np.random.default_rng(0)
    token_ids = random.integers(
        source.sizes.vocabulary_size, size=shape, dtype=np.int32
    )
    spread = np.linspace(0, shape[1] - 1, 8, dtype=np.int32).tolist()
    decoded = range(start - 1, min(start + _DECODED_TOKENS, shape[1]))
    positions = np.array(sorted({*spread, *decoded}), np.int32)
    logits = reference_logits(source, token_ids, positions, plan.precision)
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
        positions: Places whose logits are wanted.
        precision: What the layers compute in.

    Returns:
        `(batch, len(positions), vocabulary_size)`.
    """
    model = skeleton(source.sizes, precision)

    def read(start: str) -> dict[str, tf.Tensor]:
        return {
            path: tf.constant(source.read(path))
            for path in source.shapes
            if path.startswith(f"{start}/")
        }

    with exact_float32(), bound(model, read("embedding") | read("final_norm")):
        x = model.embedding(token_ids)
        for block in model.blocks:
            with bound(model, read(block.name)):
                x = block(x)
        hidden = model.final_norm(tf.gather(x, positions, axis=1))
        logits = model.embedding(hidden, reverse=True)
    return np.asarray(tf.cast(logits, tf.float32))


def _run_check(folder: Path) -> dict[str, Any]:
    """Runs the artefact in JAX, in a process of its own."""
    if find_spec("jax") is None:
        return {}
    runner = Path(__file__).with_name("run_xla.py")
    done = subprocess.run(
        [sys.executable, str(runner), str(folder), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout.strip():
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise ExportError(f"JAX cannot run the programs: {last}")
    result = json.loads(done.stdout)
    if not result["passed"]:
        raise ExportError(
            "The exported programs' results differ from the Keras model's by "
            f"{result['error']:.2g} of the largest. Allowed is "
            f"{result['tolerance']:g}. Nothing was written."
        )
    return dict(result)


def _card(
    source: WeightSource,
    plan: _Plan,
    weights: _Weights,
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
