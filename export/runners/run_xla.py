"""Runs an exported XLA artefact; needs JAX and NumPy, nothing else.

`xla_artefact.py` and `xla_library.py` must lie beside this file.

    python run_xla.py FOLDER --check
    python run_xla.py FOLDER --token-ids 1,2,3 --max-new-tokens 16
    python run_xla.py FOLDER --benchmark
    python run_xla.py FOLDER --check --library libspdf_ffi.so

`--check` compares the programs' results with those that were stored when the folder
was written; `--benchmark` times each program on the device that JAX chooses, in
turns. Each of them prints one JSON object. A folder or a prompt that cannot be used
ends it with one sentence and exit status 2; wrong results end it with status 1.

On CPUs, `--library` or the variable `SPDF_XLA_LIBRARY` names a library that skips the
zeros of an artefact that was written with `--skip-zeros cpu`. Without a library the
portable programs run, which multiply zeros.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING or __package__:
    from .xla_artefact import Artefact, RunError
    from .xla_library import PackedKernels, SkippingLibrary
else:  # the files lie in one folder, in no package
    from xla_artefact import Artefact, RunError
    from xla_library import PackedKernels, SkippingLibrary

# The variable that names the library where no argument does.
LIBRARY = "SPDF_XLA_LIBRARY"

Arrays = dict[str, Any]

# Roles of the arguments that a caller gives.
_GIVEN = ("input", "cache")

# What JAX raises for a program that cannot be read, compiled or run.
_JAX_ERRORS = (ValueError, TypeError, RuntimeError, NotImplementedError)


class XLAModel:
    """A folder that `to_xla` wrote, on one device.

    Args:
        folder: The folder.
        verify: Compare the checksums of all data that is read.
        library: The library that skips zeros on CPUs. If None, the variable
            `SPDF_XLA_LIBRARY` names it; an empty string stands for no library.

    Attributes:
        about: Content of `artefact.json`.
        programs: Names of the programs.
        vocabulary_size: Token ids run from 0 to `vocabulary_size - 1`.
        products: A sentence that says whether zeros are skipped, and why.

    Raises:
        RunError: If the folder is no such artefact, a file is damaged, or the library
            cannot be used.
    """

    def __init__(
        self,
        folder: str | Path,
        verify: bool = True,
        library: str | Path | None = None,
    ) -> None:
        self._artefact = Artefact(folder, verify)
        self.about = self._artefact.about
        self.programs = list(self.about["programs"])
        self.vocabulary_size: int = self.about["model"]["vocabulary_size"]
        self._functions: dict[str, Callable[..., Any]] = {}
        self._kernels: PackedKernels | None = None
        named = os.environ.get(LIBRARY, "") if library is None else str(library)
        self.products = self._choose_products(named)
        for name in self.programs:
            self._artefact.require(self._stem(name))

    @property
    def skips_zeros(self) -> bool:
        """Whether the programs skip the zeros."""
        return self._kernels is not None

    @property
    def packed_bytes(self) -> int:
        """Memory of the kernels and masks that the library holds."""
        return self._kernels.size_bytes if self._kernels is not None else 0

    def _choose_products(self, library: str) -> str:
        backend = jax.default_backend()
        if "skipping" not in self.about:
            return "Zeros are multiplied: the artefact has no programs that skip them."
        if not library:
            return f"Zeros are multiplied: neither --library nor {LIBRARY} is given."
        if backend != "cpu":
            return f"Zeros are multiplied: the library is for CPUs, not for {backend}."
        interface = self.about["skipping"]["interface"]
        opened = SkippingLibrary.open(library, interface)
        self._kernels = PackedKernels(self._artefact, opened)
        return f"Zeros are skipped by '{opened.path}'."

    @cached_property
    def state(self) -> Arrays:
        """All weights, masks and moments as arrays on the device, by name.

        Where programs take dense weights, encoded weights are unpacked here, once.
        Kernels whose zeros are skipped are no arrays: the library packs them. It packs
        them anew when a training step, or the caller, has put another array here.
        """
        arguments = {
            argument["name"]: argument
            for name in self.programs
            for argument in self._program(name)["arguments"]
        }
        state: Arrays = {}
        for name, argument in arguments.items():
            if argument["role"] in ("weight", "mask", "bits", "values"):
                state[name] = self._argument(name, argument)
            elif argument["role"] in ("moment", "step"):
                state[name] = jnp.zeros(argument["shape"], argument["dtype"])
        if self._kernels is not None:
            self._kernels.pack(arguments, state)
        return state

    def _argument(self, name: str, argument: dict[str, Any]) -> Any:
        if argument["role"] == "mask":
            size = int(np.prod(argument["shape"]))
            bits = self._artefact.mask_bits(name.removeprefix("mask/"))
            mask = np.unpackbits(bits, count=size).astype(np.bool_)
            return jnp.asarray(mask.reshape(argument["shape"]))
        if name in self._artefact:
            return jnp.asarray(self._artefact.tensor(name))
        unpack = self.about["unpack"].get(name, f"to unpack {name}")
        parts = (self._artefact.tensor(f"{name}.{part}") for part in ("bits", "values"))
        return self._call(unpack, map(jnp.asarray, parts))[0]

    def _program(self, name: str) -> dict[str, Any]:
        """Returns the description of the program that runs under a name."""
        if self._is_skipping(name):
            return dict(self.about["skipping"]["programs"][name])
        known = {**self.about["unpack_programs"], **self.about["programs"]}
        if name not in known:
            raise RunError(f"{self._artefact} is damaged: it has no program '{name}'.")
        return dict(known[name])

    def _is_skipping(self, name: str) -> bool:
        return self.skips_zeros and name in self.about["skipping"]["programs"]

    def _stem(self, name: str) -> str:
        return f"{name}.skipping" if self._is_skipping(name) else name

    def _function(self, name: str) -> Callable[..., Any]:
        """Returns a program as a function of its arguments in order."""
        if name not in self._functions:
            about = self._program(name)
            call = self._artefact.program(self._stem(name), about)
            # A result takes the memory of the argument of the same name.
            replaced = {result["name"] for result in about["results"]}
            donated = [
                index
                for index, argument in enumerate(about["arguments"])
                if argument["name"] in replaced
            ]
            self._functions[name] = jax.jit(call, donate_argnums=donated)
        return self._functions[name]

    def _call(self, name: str, values: Iterable[Any]) -> Sequence[Any]:
        try:
            results: Sequence[Any] = self._function(name)(*values)
            if self.skips_zeros:
                # A call that has failed is told here, and the library may forget a
                # kernel as soon as no call uses it.
                jax.block_until_ready(results)
        except RunError:
            raise
        except _JAX_ERRORS as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RunError(
                f"JAX cannot run the program '{name}' of {self._artefact}: {reason}"
            ) from error
        return results

    def run(self, name: str, **inputs: Any) -> Arrays:
        """Runs a program.

        The call uses up arguments that it also returns: caches, and the state of a
        training step.

        Args:
            name: One of `programs`.
            **inputs: Inputs and caches of the program by name.

        Returns:
            Results of the program by name.

        Raises:
            RunError: If there is no such program, an input is missing, does not fit or
                is out of range, or the program does not run.
        """
        if name not in self.programs:
            known = ", ".join(self.programs)
            raise RunError(f"The program must be one of {known}. Received: {name}.")
        about = self._program(name)
        taken = [a["name"] for a in about["arguments"] if a["role"] in _GIVEN]
        if unknown := sorted(inputs.keys() - set(taken)):
            raise RunError(
                f"The inputs of {name} must be {', '.join(taken)}. Received: "
                f"{', '.join(unknown)}."
            )
        values = [self._value(a, inputs, name) for a in about["arguments"]]
        results = self._call(name, values)
        names = (result["name"] for result in about["results"])
        return dict(zip(names, results, strict=True))

    def _value(self, argument: dict[str, Any], inputs: Arrays, program: str) -> Any:
        name, role = argument["name"], argument["role"]
        if role in _GIVEN:
            label = f"The input `{name}` of {program}"
            return _checked_input(
                label, inputs.get(name), argument, self._range(program, name)
            )
        if self._kernels is not None and role in ("packed", "structure"):
            path = name.partition("/")[2]
            weight = self.state.get(path)  # the first use of the state packs kernels
            return self._kernels.id(name, weight)
        return self.state[name]

    def _range(self, program: str, name: str) -> tuple[int, int]:
        if name == "lengths":
            return 1, self.shape(program, "token_ids")[1] + 1
        if name == "position":
            return 0, self.shape(program, "k_0")[2]
        return 0, self.vocabulary_size

    def shape(self, program: str, argument: str) -> list[int]:
        """Returns the shape of one argument of a program."""
        for described in self._program(program)["arguments"]:
            if described["name"] == argument:
                return list(described["shape"])
        raise RunError(
            f"{self._artefact} is damaged: its program {program} has no '{argument}'."
        )

    def generate(self, token_ids: Sequence[int], max_new_tokens: int = 16) -> list[int]:
        """Continues a prompt with the likeliest tokens.

        Args:
            token_ids: The prompt.
            max_new_tokens: Largest number of tokens to add; the caches bound it too.

        Returns:
            The new token ids.

        Raises:
            RunError: If the artefact has no `prefill` and `decode`, or the prompt's
                length or a token id is out of range.
        """
        if not {"prefill", "decode"} <= set(self.programs):
            raise RunError(
                "To generate, an artefact must have the programs prefill and decode. "
                f"Received: {', '.join(self.programs)}."
            )
        batch, longest = self.shape("prefill", "token_ids")
        if not 1 <= len(token_ids) <= longest:
            raise RunError(
                f"A prompt must have 1 to {longest} tokens, the prompt length of this "
                f"artefact. Received: {len(token_ids)} tokens."
            )
        if not 0 <= min(token_ids) <= max(token_ids) < self.vocabulary_size:
            raise RunError(
                f"Token ids must be in [0, {self.vocabulary_size}). Received: "
                f"{min(token_ids)} to {max(token_ids)}."
            )
        if max_new_tokens < 0:
            raise RunError(
                f"`max_new_tokens` must not be negative. Received: {max_new_tokens}."
            )
        padded = np.zeros((batch, longest), np.int32)
        padded[:, : len(token_ids)] = token_ids
        lengths = np.full(batch, len(token_ids), np.int32)
        caches = self.run("prefill", token_ids=padded, lengths=lengths)
        room = self.shape("decode", "k_0")[2] - len(token_ids)
        new: list[int] = []
        last: Any = None
        for count in range(min(max_new_tokens, room)):
            if count:
                position = np.full(batch, len(token_ids) + count - 1, np.int32)
                caches = self.run(
                    "decode", token_ids=last[:, None], position=position, **caches
                )
            last = jnp.argmax(caches.pop("logits"), -1).astype(jnp.int32)
            new.append(int(last[0]))
        return new

    def train_step(
        self, token_ids: Any, labels: Any, sample_weight: Any = None
    ) -> dict[str, float]:
        """Takes a step of training; `state` holds the weights after it.

        Args:
            token_ids: Token ids, `(batch, length)`.
            labels: The token after each of them, `(batch, length)`.
            sample_weight: Weight of each label's loss; 1 if None.

        Returns:
            `loss` and `gradient_norm`.
        """
        if sample_weight is None:
            sample_weight = np.ones(np.shape(labels), np.float32)
        results = self.run(
            "train_step",
            token_ids=token_ids,
            labels=labels,
            sample_weight=sample_weight,
        )
        measured = {n: float(results.pop(n)) for n in ("loss", "gradient_norm")}
        self.state.update(results)
        return measured

    def check(self) -> dict[str, Any]:
        """Compares every program with the results that were stored with it.

        Returns:
            `error`, the largest difference as a fraction of the largest logit (or of
            the loss), `max_abs_error`, `max_abs_logit`, `passed`, `skips_zeros` and
            `products`.
        """
        expected = self._artefact.expected()
        tokens, places = expected["token_ids"], expected["positions"].tolist()
        logits = dict(zip(places, np.moveaxis(expected["logits"], 1, 0), strict=True))
        scale = float(np.abs(expected["logits"]).max())
        pairs: list[tuple[Any, Any]] = []
        if "forward" in self.programs:
            padded = _padded(tokens, self.shape("forward", "token_ids"))
            received = self.run("forward", token_ids=padded)["logits"]
            pairs += [(logits[place], received[:, place]) for place in places]
        if {"prefill", "decode"} <= set(self.programs):
            pairs += self._check_decoding(tokens, logits)
        error = _largest_difference(pairs)
        relative = error / scale
        if "train_step" in self.programs:
            shape = self.shape("train_step", "token_ids")
            labels = np.concatenate([tokens[:, 1:], tokens[:, :1]], 1)
            weight = np.zeros(tokens.shape, np.float32)
            weight[:, places] = 1
            inputs = (_padded(x, shape) for x in (tokens, labels, weight))
            before = dict(self.state)
            # The step uses up its state, so it gets copies.
            self.state.update({n: jnp.array(v) for n, v in before.items()})
            loss = self.train_step(*inputs)["loss"]
            self.state.update(before)
            target = float(expected["loss"][0])
            relative = max(relative, abs(loss - target) / target)
        passed = bool(relative <= self.about["tolerance"])
        return {
            "passed": passed,
            "error": relative,
            "max_abs_error": error,
            "max_abs_logit": scale,
            "tolerance": self.about["tolerance"],
            "skips_zeros": self.skips_zeros,
            "products": self.products,
        }

    def _check_decoding(self, tokens: Any, logits: Any) -> list[tuple[Any, Any]]:
        start = int(self.about["check_prompt"])
        batch, longest = self.shape("prefill", "token_ids")
        outputs = self.run(
            "prefill",
            token_ids=_padded(tokens[:, :start], [batch, longest]),
            lengths=np.full(batch, start, np.int32),
        )
        pairs = [(logits[start - 1], outputs.pop("logits"))]
        place = start
        while place in logits:
            outputs = self.run(
                "decode",
                token_ids=tokens[:, place, None],
                position=np.full(batch, place, np.int32),
                **outputs,
            )
            pairs.append((logits[place], outputs.pop("logits")))
            place += 1
        return pairs

    def benchmark(self, rounds: int = 5) -> dict[str, Any]:
        """Times all programs in turns.

        Args:
            rounds: Calls of each program that are timed.

        Returns:
            The device, its measured matrix peak in the programs' dtype, and for each
            program `compile_s` (the first call), median and quartiles of
            `latency_ms`, `tokens_per_second`, `flops_per_second` (products with zeros
            counted, also where they are skipped) and `share_of_peak`.

        Raises:
            RunError: If `rounds` is not positive, or a program does not run.
        """
        if rounds < 1:
            raise RunError(f"`rounds` must be positive. Received: {rounds}.")
        calls = {name: self.random_call(name) for name in self.programs}
        first: dict[str, float] = {}
        times: dict[str, list[float]] = {name: [] for name in calls}
        peaks = []
        for turn in range(rounds + 1):
            peaks.append(matrix_peak(self.about["compute_dtype"]))
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                taken = time.perf_counter() - start
                if turn:
                    times[name].append(taken)
                else:
                    first[name] = taken
        peak = statistics.median(peaks)
        results = {}
        for name, seconds in times.items():
            about, median = self.about["programs"][name], statistics.median(seconds)
            low, high = np.quantile(seconds, (0.25, 0.75))
            results[name] = {
                "compile_s": first[name],
                "latency_ms": 1e3 * median,
                "quartiles_ms": [1e3 * low, 1e3 * high],
                "tokens_per_second": np.prod(self.shape(name, "token_ids")) / median,
                "flops_per_second": about["flops"] / median,
                "share_of_peak": about["flops"] / median / peak,
            }
        return {
            "device": jax.devices()[0].device_kind,
            "peak_flops_per_second": peak,
            "dtype": self.about["compute_dtype"],
            "skips_zeros": self.skips_zeros,
            "programs": results,
        }

    def random_call(self, name: str) -> Callable[[], None]:
        """Returns a function that runs a program on random tokens, to time it.

        The state that a call returns is the argument of the next one.

        Args:
            name: One of `programs`.
        """
        random = np.random.default_rng(0)
        inputs: Arrays = {}
        caches: Arrays = {}
        for argument in self._program(name)["arguments"]:
            shape = argument["shape"]
            if argument["role"] == "cache":
                caches[argument["name"]] = jnp.zeros(shape, argument["dtype"])
            elif argument["name"] in ("token_ids", "labels"):
                inputs[argument["name"]] = random.integers(
                    self.vocabulary_size, size=shape
                )
            elif argument["role"] == "input":  # lengths, weights, positions
                last = self.shape("decode", "k_0")[2] - 1 if name == "decode" else 1
                inputs[argument["name"]] = np.full(shape, last)

        def call() -> None:
            if name == "train_step":
                self.train_step(**inputs)
                return
            results = self.run(name, **inputs, **caches)
            jax.block_until_ready(results)
            caches.update({n: results[n] for n in caches})

        return call


def matrix_peak(dtype: str, size: int = 0, repeats: int = 3) -> float:
    """Measures the operations per second of a square matrix product."""
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    factor = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(lambda x: x @ x)
    product(factor).block_until_ready()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(factor).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def _checked_input(
    label: str, value: Any, argument: dict[str, Any], bounds: tuple[int, int]
) -> Any:
    """Returns an input as an array, and refuses what would be computed silently.

    Args:
        label: Beginning of messages.
        value: What a caller has given; None for nothing.
        argument: The argument's description.
        bounds: Range of integers: the least, and the end.
    """
    shape, dtype = argument["shape"], argument["dtype"]
    if value is None:
        raise RunError(f"{label} must have the shape {shape}. Received: nothing.")
    try:
        value = value if hasattr(value, "dtype") else np.asarray(value)
    except ValueError as error:
        raise RunError(f"{label} must be an array. Received: {error}.") from error
    if list(value.shape) != shape:
        raise RunError(
            f"{label} must have the shape {shape}. Received: shape {list(value.shape)}."
        )
    name = np.dtype(value.dtype).name
    if argument["role"] == "cache":
        if name != dtype:
            raise RunError(f"{label} must be {dtype}. Received: {name}.")
    elif dtype != "int32":
        if np.dtype(value.dtype).kind not in "fiu" or not np.isfinite(value).all():
            raise RunError(f"{label} must be finite numbers. Received: {name}.")
    elif np.dtype(value.dtype).kind not in "iu":
        raise RunError(f"{label} must be integers. Received: {name}.")
    else:
        low, end = bounds
        values = np.asarray(value)
        least, most = int(values.min()), int(values.max())
        if not low <= least <= most < end:
            raise RunError(
                f"{label} must be in [{low}, {end}). Received: {least} to {most}."
            )
    return jnp.asarray(value, dtype)


def _padded(array: Any, shape: Sequence[int]) -> Any:
    padded = np.zeros(shape, array.dtype)
    padded[:, : array.shape[1]] = array
    return padded


def _largest_difference(pairs: Sequence[tuple[Any, Any]]) -> float:
    differences = [np.abs(a - np.asarray(b, np.float32)).max() for a, b in pairs]
    # `np.max`, unlike `max`, keeps a NaN.
    return float(np.max(differences, initial=0.0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Runs an exported XLA artefact.")
    parser.add_argument("folder", help="the folder")
    parser.add_argument("--check", action="store_true", help="compare stored results")
    parser.add_argument("--benchmark", action="store_true", help="time each program")
    parser.add_argument("--rounds", type=int, default=5, help="calls that are timed")
    parser.add_argument("--token-ids", help="a prompt to continue, as in 1,2,3")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument(
        "--library",
        metavar="FILE",
        help=f"library that skips zeros on CPUs (default: the variable {LIBRARY})",
    )
    options = parser.parse_args(arguments)
    try:
        model = XLAModel(options.folder, library=options.library)
        if options.token_ids is not None:
            prompt = _token_ids(options.token_ids)
            new = model.generate(prompt, options.max_new_tokens)
            print(json.dumps({"token_ids": prompt, "new_token_ids": new}))
        if options.check:
            result = model.check()
            print(json.dumps(result))
            if not result["passed"]:
                return 1
        if options.benchmark:
            print(json.dumps(model.benchmark(options.rounds), default=float))
        if not (options.check or options.benchmark or options.token_ids):
            parser.error("name at least one of --check, --token-ids, --benchmark")
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _token_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise RunError(
            f"Token ids must be integers with commas between. Received: '{text}'."
        ) from error


if __name__ == "__main__":
    sys.exit(main())
