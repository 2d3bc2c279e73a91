"""The programs of an XLA export with their arguments and results in order."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import tensorflow as tf

from spdf_keras.export.graphs import cache_names
from spdf_keras.export.weights import WeightSource
from spdf_keras.export.xla import programs
from spdf_keras.export.xla.calls import TARGETS, PackedCall
from spdf_keras.export.xla.lowering import Argument, Program, Tensors, lower
from spdf_keras.export.xla.plan import XLAPlan
from spdf_keras.export.xla.weights import WrittenWeights
from spdf_keras.flops import decode_flops, forward_flops, training_flops
from spdf_keras.model.binding import skeleton
from spdf_keras.model.gpt import GPT


@dataclass(frozen=True)
class Signatures:
    """Lowers the programs of one export.

    Attributes:
        source: The weights.
        plan: Options of the export.
        weights: The weights as they were written.
    """

    source: WeightSource
    plan: XLAPlan
    weights: WrittenWeights

    def lower(self, name: str, skipping: bool = False) -> Program:
        """Lowers one of `SIGNATURES`.

        Args:
            name: The program.
            skipping: Skip the zeros of the kernels in `skipped(name)`, by custom calls.
        """
        function, inputs = self._function(name)
        skipped = self.skipped(name) if skipping else ()
        arguments = [
            argument
            for path, shape in self.source.shapes.items()
            for argument in self._weight_arguments(path, shape, name, skipped)
        ]
        roles = dict.fromkeys(cache_names(len(self._model.blocks)), "cache")
        if name == "train_step":
            state = list(self._training_state(skipped))
            arguments += state
            roles |= {argument.name: argument.role for argument in state}
            roles |= dict.fromkeys(self.source.shapes, "weight")

        def run(named: Tensors) -> Tensors:
            kernels: Tensors = {}
            for path, (shape, _) in self.weights.encoded.items():
                if f"packed/{path}" in named:
                    packed = named[f"packed/{path}"]
                    kernels[path] = PackedCall(packed, tf.TensorShape(shape))
                elif f"{path}.bits" in named:
                    bits, values = named[f"{path}.bits"], named[f"{path}.values"]
                    kernels[path] = programs.unpack(bits, values, shape)
            return function({**named, **kernels})

        calls = TARGETS if skipping else ()
        return lower(run, [*arguments, *inputs], roles, name=name, calls=calls)

    def skipped(self, name: str) -> list[str]:
        """Paths of the kernels whose zeros a program can skip.

        A training step moves weights, so only zeros that a mask keeps stay zeros.
        """
        encoded = self.weights.encoded
        return [
            path
            for path in encoded
            if name != "train_step" or path in self.weights.masked
        ]

    def lower_unpack(self, shape: tuple[int, ...], stored: int) -> Program:
        """Lowers the program that makes an encoded kernel dense.

        Args:
            shape: Shape of the kernel.
            stored: Number of its values.
        """

        def run(named: Tensors) -> Tensors:
            return {"dense": programs.unpack(named[".bits"], named[".values"], shape)}

        arguments = list(self._code_arguments("", shape, stored))
        return lower(run, arguments, name="unpack")

    def flops(self, name: str) -> float:
        """Operations of a call of a program, zeros counted."""
        sizes, plan = self.source.sizes, self.plan
        if name == "decode":
            flops = decode_flops(sizes, plan.cache_length)
        elif name == "prefill":
            # Only the last token of a prompt is projected to logits.
            projections = (plan.prompt_length - 1) * sizes.vocabulary_size
            flops = forward_flops(sizes, plan.prompt_length)
            flops -= projections * 2 * sizes.hidden_dim
        elif name == "forward":
            flops = forward_flops(sizes, plan.sequence_length)
        else:
            flops = training_flops(sizes, plan.sequence_length)
        return plan.batch_size * flops

    @cached_property
    def _model(self) -> GPT:
        return skeleton(self.source.sizes, self.plan.precision)

    def _function(self, name: str) -> tuple[Any, list[Argument]]:
        """Returns the function of a program, and its inputs and caches."""
        batch, sizes, plan = self.plan.batch_size, self.source.sizes, self.plan
        if name == "prefill":
            function = partial(programs.prefill_program, self._model, plan.cache_length)
            return function, [
                Argument("token_ids", "input", (batch, plan.prompt_length), "int32"),
                Argument("lengths", "input", (batch,), "int32"),
            ]
        if name == "decode":
            head_dim = sizes.hidden_dim // sizes.num_heads
            cache = batch, sizes.num_heads, plan.cache_length, head_dim
            return partial(programs.decode_program, self._model), [
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
            return partial(programs.forward, self._model), [tokens]
        return partial(programs.train_step, self._model, self.source.optimizer), [
            tokens,
            Argument("labels", "input", shape, "int32"),
            Argument("sample_weight", "input", shape, "float32"),
        ]

    def _weight_arguments(
        self,
        path: str,
        shape: tuple[int, ...],
        program: str,
        skipped: Collection[str],
    ) -> Iterator[Argument]:
        if path in skipped and program != "train_step":
            yield Argument(f"packed/{path}", "packed", (), "int32")
        elif path in self.weights.encoded and self.plan.unpack == "step":
            yield from self._code_arguments(path, *self.weights.encoded[path])
        else:
            yield Argument(path, "weight", shape, self.plan.weight_dtype(path))

    def _code_arguments(
        self, path: str, shape: tuple[int, ...], stored: int
    ) -> Iterator[Argument]:
        dtype, num_bytes = self.plan.weight_dtype(path), -(-math.prod(shape) // 8)
        yield Argument(f"{path}.bits", "bits", (num_bytes,), "uint8")
        yield Argument(f"{path}.values", "values", (stored,), dtype)

    def _training_state(self, skipped: Collection[str]) -> Iterator[Argument]:
        for path, shape in self.source.shapes.items():
            for moment in "mv":
                yield Argument(f"{moment}/{path}", "moment", shape, "float32")
        for path in self.weights.masked:
            if path in skipped:
                yield Argument(f"structure/{path}", "structure", (), "int32")
            else:
                yield Argument(f"mask/{path}", "mask", self.source.shapes[path], "bool")
        yield Argument("step", "step", (), "int32")
