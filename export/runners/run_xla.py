"""Runs an exported XLA artefact; needs JAX and NumPy, nothing else.

    python run_xla.py FOLDER --check
    python run_xla.py FOLDER --token-ids 1,2,3 --max-new-tokens 16
    python run_xla.py FOLDER --benchmark

`--check` compares the programs' results with those that were stored when the folder
was written; `--benchmark` times each program on the device that JAX chooses, in
turns. Each of them prints one JSON object. A folder or a prompt that cannot be used
ends it with one sentence and exit status 2; wrong results end it with status 1.
"""

import argparse
import dataclasses
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import export

FORMAT = "spdf-xla 1"

Arrays = dict[str, Any]

_DTYPES = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
_DTYPES |= {"U8": np.uint8, "I32": np.int32, "BOOL": np.bool_}


class RunError(ValueError):
    """The artefact or the prompt cannot be used; the message is one sentence."""


class XLAModel:
    """A folder that `to_xla` wrote, on one device.

    Args:
        folder: The folder.
        verify: Compare the checksums of all data that is read.

    Attributes:
        about: Content of `artefact.json`.
        programs: Names of the programs.
        vocabulary_size: Token ids run from 0 to `vocabulary_size - 1`.

    Raises:
        RunError: If the folder is no such artefact, or a file is damaged.
    """

    def __init__(self, folder: str | Path, verify: bool = True) -> None:
        self._folder, self._verify = Path(folder), verify
        try:
            self.about = json.loads((self._folder / "artefact.json").read_text())
            if self.about["format"] != FORMAT:
                raise ValueError(f"it is of the format '{self.about['format']}'")
            self.programs = list(self.about["programs"])
            self._stored = read_safetensors(self._folder / "weights.safetensors")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"'{folder}' is no XLA artefact: {error}.") from error
        self.vocabulary_size: int = self.about["model"]["vocabulary_size"]
        self._functions: dict[str, Callable[..., Any]] = {}

    @cached_property
    def state(self) -> Arrays:
        """All arguments except inputs and caches, on the device, by name.

        Where programs take dense weights, encoded weights are unpacked here, once.
        """
        arguments = {
            argument["name"]: argument
            for name in self.programs
            for argument in self.about["programs"][name]["arguments"]
        }
        state: Arrays = {}
        for name, argument in arguments.items():
            if argument["role"] in ("weight", "mask", "bits", "values"):
                state[name] = self._argument(name, argument)
            elif argument["role"] in ("moment", "step"):
                state[name] = jnp.zeros(argument["shape"], argument["dtype"])
        return state

    def _argument(self, name: str, argument: dict[str, Any]) -> Any:
        if argument["role"] == "mask":
            path = name.removeprefix("mask/")
            bits = self._tensor(name if name in self._stored else f"{path}.bits")
            size = int(np.prod(argument["shape"]))
            mask = np.unpackbits(bits, count=size).astype(np.bool_)
            return jnp.asarray(mask.reshape(argument["shape"]))
        if name in self._stored:
            return jnp.asarray(self._tensor(name))
        unpack = self._function(self.about["unpack"][name])
        parts = (self._tensor(f"{name}.{part}") for part in ("bits", "values"))
        return unpack(*map(jnp.asarray, parts))[0]

    def _tensor(self, name: str) -> Any:
        if name not in self._stored:
            raise RunError(f"'{self._folder}' is incomplete: it has no '{name}'.")
        tensor = self._stored[name]
        self._compare(name, self.about["tensors"], tensor)
        return tensor

    def _compare(self, name: str, checksums: dict[str, str], data: Any) -> None:
        is_array = isinstance(data, np.ndarray)
        view = data.reshape(-1).view(np.uint8).data if is_array else data
        if self._verify and hashlib.sha256(view).hexdigest() != checksums.get(name):
            raise RunError(
                f"'{self._folder}' is damaged: '{name}' has the wrong checksum."
            )

    def _function(self, name: str) -> Callable[..., Any]:
        """Returns a program as a function of its arguments in order."""
        if name not in self._functions:
            about = {**self.about["programs"], **self.about["unpack_programs"]}[name]
            blob = (self._folder / f"{name}.stablehlo").read_bytes()
            self._compare(name, {name: about["sha256"]}, blob)
            call = exported(name, about, blob).call
            # A result takes the memory of the argument of the same name.
            replaced = {result["name"] for result in about["results"]}
            donated = [
                index
                for index, argument in enumerate(about["arguments"])
                if argument["name"] in replaced
            ]
            self._functions[name] = jax.jit(call, donate_argnums=donated)
        return self._functions[name]

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
            RunError: If there is no such program, or an input is missing or does not
                fit.
        """
        if name not in self.programs:
            known = ", ".join(self.programs)
            raise RunError(f"The program must be one of {known}. Received: {name}.")
        about = self.about["programs"][name]
        values = [self._value(a, inputs, name) for a in about["arguments"]]
        results = self._function(name)(*values)
        names = (result["name"] for result in about["results"])
        return dict(zip(names, results, strict=True))

    def _value(self, argument: dict[str, Any], inputs: Arrays, name: str) -> Any:
        if argument["role"] not in ("input", "cache"):
            return self.state[argument["name"]]
        value = inputs.get(argument["name"])
        if value is None or list(np.shape(value)) != argument["shape"]:
            received = "nothing" if value is None else f"shape {list(np.shape(value))}"
            raise RunError(
                f"The input `{argument['name']}` of {name} must have the shape "
                f"{argument['shape']}. Received: {received}."
            )
        return jnp.asarray(value, argument["dtype"])

    def shape(self, program: str, argument: str) -> list[int]:
        """Returns the shape of one argument of a program."""
        arguments = self.about["programs"][program]["arguments"]
        (shape,) = (a["shape"] for a in arguments if a["name"] == argument)
        return list(shape)

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
            the loss), `max_abs_error`, `max_abs_logit`, and `passed`.
        """
        expected = read_safetensors(self._folder / "check.safetensors")
        for name, tensor in expected.items():
            self._compare(name, self.about["tensors"], tensor)
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
            counted, as they are computed) and `share_of_peak`.
        """
        calls = {name: self._random_call(name) for name in self.programs}
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
            "programs": results,
        }

    def _random_call(self, name: str) -> Callable[[], None]:
        random = np.random.default_rng(0)
        inputs: Arrays = {}
        caches: Arrays = {}
        for argument in self.about["programs"][name]["arguments"]:
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


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Maps the tensors of a file into memory, without reading them."""
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int(data[:8].view("<u8")[0])
    if start > data.size:
        raise ValueError(f"{path.name} is cut short")
    header = json.loads(data[8:start].tobytes())
    tensors = {}
    for name, about in header.items():
        if name != "__metadata__":
            low, high = about["data_offsets"]
            if not 0 <= low <= high <= data.size - start:
                raise ValueError(f"{path.name} is cut short")
            raw = data[start + low : start + high]
            tensors[name] = raw.view(_DTYPES[about["dtype"]]).reshape(about["shape"])
    return tensors


def exported(name: str, about: dict[str, Any], blob: bytes) -> Any:
    """Wraps a program in JAX's public class for StableHLO."""
    version = export.maximum_supported_calling_convention_version

    def shapes(arguments: list[dict[str, Any]]) -> tuple[Any, ...]:
        make = jax.core.ShapedArray
        return tuple(make(tuple(a["shape"]), np.dtype(a["dtype"])) for a in arguments)

    inputs, outputs = shapes(about["arguments"]), shapes(about["results"])
    fields: dict[str, Any] = {
        "fun_name": name,
        "in_tree": jax.tree.structure((inputs, {})),
        "in_avals": inputs,
        "out_tree": jax.tree.structure(outputs),
        "out_avals": outputs,
        "_has_named_shardings": True,
        "_in_named_shardings": (None,) * len(inputs),
        "_out_named_shardings": (None,) * len(outputs),
        "in_shardings_hlo": (None,) * len(inputs),
        "out_shardings_hlo": (None,) * len(outputs),
        "nr_devices": 1,
        # The program names no platform: it is compiled for the one at hand.
        "platforms": (jax.export.default_export_platform(),),
        "ordered_effects": (),
        "unordered_effects": (),
        "disabled_safety_checks": (),
        "mlir_module_serialized": blob,
        "calling_convention_version": version,
        "module_kept_var_idx": tuple(range(len(inputs))),
        "uses_global_constants": False,
        "_get_vjp": None,
    }
    # Other versions of JAX lack some of these fields.
    known = {field.name for field in dataclasses.fields(export.Exported)}
    return export.Exported(**{k: v for k, v in fields.items() if k in known})


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
    options = parser.parse_args(arguments)
    try:
        model = XLAModel(options.folder)
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
