"""The request for an XLA export, checked before any work."""

from collections.abc import Sequence
from dataclasses import dataclass

from spdf_keras.config import PRECISIONS
from spdf_keras.errors import InputError
from spdf_keras.export.graphs import checked_lengths
from spdf_keras.export.weights import WeightSource
from spdf_keras.export.xla.programs import SIGNATURES
from spdf_keras.values import as_type, check_integers

_CHECKED_TOKENS = 64


@dataclass(frozen=True)
class XLAPlan:
    """Options of an XLA export, with every default filled in.

    Attributes:
        signatures: Programs to write, of `SIGNATURES`.
        sparse: Whether kernels are stored as bitmasks.
        unpack: `load` or `step`; see `to_xla`.
        precision: Precision that the programs compute in.
        batch_size: Rows of a batch.
        sequence_length: Tokens of `forward` and `train_step`.
        prompt_length: Tokens of `prefill`.
        cache_length: Slots of the caches.
        skip_zeros: `cpu` for further programs that skip zeros there; see `to_xla`.
    """

    signatures: tuple[str, ...]
    sparse: bool
    unpack: str
    precision: str
    batch_size: int
    sequence_length: int
    prompt_length: int
    cache_length: int
    skip_zeros: str | None = None

    @classmethod
    def of(
        cls,
        source: WeightSource,
        *,
        signatures: Sequence[str],
        sparse: bool,
        unpack: str,
        precision: str | None,
        batch_size: int,
        sequence_length: int,
        prompt_length: int,
        cache_length: int,
        skip_zeros: str | None,
    ) -> "XLAPlan":
        """Checks the arguments of `to_xla`, and fills in the defaults.

        Raises:
            InputError: If an argument cannot be used.
        """
        precision = precision or source.precision
        _one_of("signatures", signatures, SIGNATURES)
        _one_of("unpack", (unpack,), ("load", "step"))
        _one_of("precision", (precision,), PRECISIONS)
        if "train_step" in signatures:
            _check_training(source, precision, in_step=sparse and unpack == "step")
        if skip_zeros is not None:
            _one_of("skip_zeros", (skip_zeros,), ("cpu",))
            _check_skipping(sparse, precision)
        context = source.sizes.max_sequence_length
        prompt_length, cache_length = checked_lengths(
            context, prompt_length, cache_length
        )
        sequence_length = as_type("sequence_length", int, sequence_length) or context
        if not 1 <= sequence_length <= context:
            raise InputError(
                f"`sequence_length` must be in [1, {context}], the context. Received: "
                f"sequence_length={sequence_length}."
            )
        batch_size = as_type("batch_size", int, batch_size)
        check_integers("batch_size", batch_size)
        if batch_size < 1:
            raise InputError(
                f"`batch_size` must be positive. Received: batch_size={batch_size}."
            )
        return cls(
            signatures=tuple(signatures),
            sparse=sparse,
            unpack=unpack,
            precision=precision,
            batch_size=batch_size,
            sequence_length=sequence_length,
            prompt_length=prompt_length,
            cache_length=cache_length,
            skip_zeros=skip_zeros,
        )

    @property
    def compute_dtype(self) -> str:
        """The dtype of products, such as `bfloat16`."""
        return self.precision.removeprefix("mixed_")

    def weight_dtype(self, path: str) -> str:
        """The dtype that a weight is stored in: for training and LayerNorm, float32."""
        is_norm = path.endswith(("/gamma", "/beta"))
        keeps = is_norm or "train_step" in self.signatures
        return "float32" if keeps else self.compute_dtype

    @property
    def checked_tokens(self) -> int:
        """Length of the sequences that check the programs."""
        return min(_CHECKED_TOKENS, self.sequence_length, self.cache_length)

    @property
    def check_prompt(self) -> int:
        """Tokens of such a sequence that are prefilled; the others are decoded."""
        return max(1, min(self.prompt_length, self.checked_tokens // 2))


def _check_training(source: WeightSource, precision: str, in_step: bool) -> None:
    if source.optimizer is None:
        raise InputError("`train_step` needs a model compiled with spdf_keras' AdamW.")
    if precision == "mixed_float16":
        raise InputError(
            "`train_step` does not scale the loss, which float16 needs. Take "
            "precision='mixed_bfloat16'."
        )
    if in_step:
        raise InputError(
            "`unpack` must be 'load' for `train_step`: it moves dense weights. "
            "Received: unpack='step'."
        )


def _check_skipping(sparse: bool, precision: str) -> None:
    if not sparse:
        raise InputError(
            "`skip_zeros` needs sparse=True: it packs the bits and values of kernels."
        )
    if precision != "float32":
        raise InputError(
            "`skip_zeros` needs precision='float32', in which the library computes. "
            f"Received: precision='{precision}'."
        )


def _one_of(name: str, values: Sequence[str], known: tuple[str, ...]) -> None:
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise InputError(
            f"`{name}` must be of {', '.join(known)}. Received: "
            f"{', '.join(map(str, unknown)) or 'nothing'}."
        )
