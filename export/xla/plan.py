"""What an XLA export is asked for, checked before any work."""

from dataclasses import dataclass

from spdf_keras.config import PRECISIONS
from spdf_keras.errors import InputError
from spdf_keras.export.graphs import checked_lengths
from spdf_keras.export.weights import WeightSource
from spdf_keras.values import as_type, check_integers

SIGNATURES = ("forward", "prefill", "decode", "train_step")

_CHECKED_TOKENS = 64


@dataclass(frozen=True)
class XLAPlan:
    """What an XLA export writes, with every default filled in.

    Attributes:
        signatures: Programs to write, of `SIGNATURES`.
        sparse: Whether kernels are stored as bitmasks.
        unpack: `load` or `step`; see `to_xla`.
        precision: What the programs compute in.
        batch_size: Rows.
        sequence_length: Tokens of `forward` and `train_step`.
        prompt_length: Tokens of `prefill`.
        cache_length: Slots of the caches.
    """

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
    ) -> "XLAPlan":
        """Checks what was asked for.

        Args:
            source: The weights.
            signatures: As the attribute.
            encoding: `sparse` and `unpack`.
            precision: As the attribute.
            sizes: The four sizes in order; 0 is the default of the last three.

        Raises:
            InputError: If one of them cannot be had.
        """
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
        lengths = checked_lengths(context, prompt_length, cache_length)
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
            *(signatures, *encoding, precision),
            *(batch_size, sequence_length, *lengths),
        )

    @property
    def compute_dtype(self) -> str:
        """What products are computed in, such as `bfloat16`."""
        return self.precision.removeprefix("mixed_")

    def weight_dtype(self, path: str) -> str:
        """What a weight is stored in; for training, and of LayerNorm, float32."""
        is_norm = path.endswith(("/gamma", "/beta"))
        keeps = is_norm or "train_step" in self.signatures
        return "float32" if keeps else self.compute_dtype

    @property
    def checked_tokens(self) -> int:
        """Tokens of the sequence that checks the programs."""
        return min(_CHECKED_TOKENS, self.sequence_length, self.cache_length)

    @property
    def check_prompt(self) -> int:
        """How many of them are prefilled; those behind are decoded."""
        return max(1, min(self.prompt_length, self.checked_tokens // 2))


def _one_of(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        raise InputError(
            f"`{name}` must be of {', '.join(known)}. Received: "
            f"{', '.join(map(str, unknown)) or 'nothing'}."
        )
