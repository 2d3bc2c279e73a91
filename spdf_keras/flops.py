"""Counts a model's operations, and computes Tables 2 and 3 of the paper with them.

The count has the products of the six linear layers, of attention (full, not causal) and
of the output projection, and three operations per attention score for the softmax. It
leaves out LayerNorm, GELU, biases, embedding lookups, the optimizer and the masking
itself. Masked weights count as skipped, which no ordinary processor fully achieves: see
`spdf-keras benchmark` for measured times.

This module needs no TensorFlow.
"""

from dataclasses import asdict, dataclass
from typing import Any

from spdf_keras.config import KERNELS, PRESETS, GPTConfig, LoRAConfig, check_sparsity
from spdf_keras.errors import InputError
from spdf_keras.values import as_type

# Backward passes cost twice the forward pass: gradients of inputs and weights.
TRAINING_FACTOR = 3

SPARSITIES = (0.0, 0.5, 0.75)
MODELS = {"gpt2_small": "GPT-2 Small", "gpt3_xl": "GPT-3 XL"}

# Table 3 fine-tunes at the sequence length of the LoRA recipe.
FINETUNE_SEQUENCE_LENGTH = 512

# Training pairs of each corpus times the epochs that give the printed counts.
# The number of Curation Corpus is not in the paper; 33,750 gives its totals.
FINETUNE_SEQUENCES = {
    "E2E": 3 * 42_061,
    "WebNLG": 3 * 18_025,
    "DART": 2 * 62_659,
    "Curation Corpus": 33_750,
}


@dataclass(frozen=True)
class PrintedPretraining:
    """A row of Table 2 as printed."""

    sequences: float
    flops_per_sequence: float
    total_flops: float
    exaflops: float
    ratio: float


@dataclass(frozen=True)
class PrintedFinetuning:
    """A row of Table 3 as printed; its FLOPs per sequence are forward only."""

    sequences: float
    flops_per_sequence: float
    total_flops: float
    exaflops: float


PRINTED_TABLE_2 = {
    ("gpt2_small", 0.0): PrintedPretraining(1.22e6, 1.99e12, 2.43e18, 2.43, 1.0),
    ("gpt2_small", 0.5): PrintedPretraining(1.22e6, 1.47e12, 1.79e18, 1.79, 0.737),
    ("gpt2_small", 0.75): PrintedPretraining(1.22e6, 1.20e12, 1.46e18, 1.46, 0.601),
    ("gpt3_xl", 0.0): PrintedPretraining(1.27e7, 1.86e13, 2.36e20, 236.10, 1.0),
    ("gpt3_xl", 0.5): PrintedPretraining(1.27e7, 1.12e13, 1.42e20, 141.87, 0.601),
    ("gpt3_xl", 0.75): PrintedPretraining(1.27e7, 7.46e12, 9.48e19, 94.76, 0.401),
}

PRINTED_TABLE_3 = {
    ("E2E", "gpt2_small"): PrintedFinetuning(1.26e5, 1.36e11, 5.15e16, 0.052),
    ("E2E", "gpt3_xl"): PrintedFinetuning(1.26e5, 1.39e12, 5.27e17, 0.524),
    ("WebNLG", "gpt2_small"): PrintedFinetuning(0.54e5, 1.36e11, 2.21e16, 0.022),
    ("WebNLG", "gpt3_xl"): PrintedFinetuning(0.54e5, 1.39e12, 2.26e17, 0.226),
    ("DART", "gpt2_small"): PrintedFinetuning(1.25e5, 1.36e11, 5.12e16, 0.051),
    ("DART", "gpt3_xl"): PrintedFinetuning(1.25e5, 1.39e12, 5.24e17, 0.524),
    ("Curation Corpus", "gpt2_small"): PrintedFinetuning(
        0.34e5, 1.36e11, 1.38e16, 0.014
    ),
    ("Curation Corpus", "gpt3_xl"): PrintedFinetuning(0.34e5, 1.39e12, 1.41e17, 0.141),
}


def forward_flops(
    model: GPTConfig, sequence_length: int, sparsity: float = 0.0
) -> float:
    """Counts the operations of one forward pass over one sequence.

    Args:
        model: The sizes.
        sequence_length: Tokens in the sequence.
        sparsity: Fraction of zeros in the six matrices of each block; their
            products are counted as skipped.

    Raises:
        InputError: If `sparsity` is outside `[0, 1)` or the length not positive.

    Example:
        >>> round(forward_flops(PRESETS["gpt2_small"].model, 512) / 1e11, 2)
        1.36

    Reference:
        Appendix A.4 of [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464);
        the formula reproduces its Tables 2 and 3.
    """
    sparsity = check_sparsity(sparsity)
    # NumPy's integers would overflow silently.
    sequence_length = as_type("sequence_length", int, sequence_length)
    if sequence_length < 1:
        raise InputError(
            "`sequence_length` must be positive. Received: "
            f"sequence_length={sequence_length}."
        )
    length, layers, d = sequence_length, model.num_layers, model.hidden_dim
    weights = layers * (4 * d * d + 2 * d * model.intermediate_dim)
    linear = 2 * length * weights * (1.0 - sparsity)
    attention = 4 * layers * length**2 * d
    softmax = 3 * layers * model.num_heads * length**2
    logits = 2 * length * d * model.vocabulary_size
    return linear + attention + softmax + logits


def decode_flops(model: GPTConfig, cache_length: int, sparsity: float = 0.0) -> float:
    """Counts the operations of one token that attends to a cache.

    Args:
        model: The sizes.
        cache_length: Number of slots of the cache; all of them are computed.
        sparsity: As in `forward_flops`.

    Example:
        >>> small = PRESETS["gpt2_small"].model
        >>> decode_flops(small, 1) == forward_flops(small, 1)
        True
    """
    layers, d = model.num_layers, model.hidden_dim
    attention = 4 * layers * d + 3 * layers * model.num_heads
    return forward_flops(model, 1, sparsity) + (cache_length - 1) * attention


def training_flops(
    model: GPTConfig,
    sequence_length: int,
    sparsity: float = 0.0,
    lora: LoRAConfig | None = None,
) -> float:
    """Counts the operations of the forward and backward pass over one sequence.

    With an adapter, the gradients of the frozen matrices are left out, and the products
    of the adapter come in.

    Args:
        model: The sizes.
        sequence_length: Tokens in the sequence.
        sparsity: As in `forward_flops`.
        lora: The settings of the adapter that is trained, if one is.

    Example:
        >>> xl = PRESETS["gpt3_xl"].model
        >>> dense, sparse = (training_flops(xl, 2048, s) for s in (0.0, 0.75))
        >>> round(dense / sparse, 1)
        2.5
    """
    whole = TRAINING_FACTOR * forward_flops(model, sequence_length, sparsity)
    if lora is None:
        return whole
    d, inner = model.hidden_dim, model.intermediate_dim
    sides = dict.fromkeys(KERNELS, 2 * d) | dict.fromkeys(KERNELS[-2:], d + inner)
    blocks = 4 * d * d + 2 * d * inner
    frozen = model.num_layers * blocks * (1.0 - sparsity) + d * model.vocabulary_size
    trained = model.num_layers * lora.rank * sum(sides[name] for name in lora.targets)
    return whole + 2 * sequence_length * (TRAINING_FACTOR * trained - frozen)


def table_2() -> list[dict[str, Any]]:
    """Computes Table 2, pre-training, beside the printed values.

    Each row is a model at one sparsity. `ratio` is the sparse model's FLOPs divided by
    the dense model's. The paper prints it as "FLOPs Reduction": 0.401 means 2.5 times
    fewer.
    """
    rows = []
    for (name, sparsity), printed in PRINTED_TABLE_2.items():
        model, train = PRESETS[name].model, PRESETS[name].train
        length = model.max_sequence_length
        sequences = train.total_steps(model) * train.batch_size
        per_sequence = training_flops(model, length, sparsity)
        rows.append(
            {
                "model": name,
                "sparsity": sparsity,
                "sequences": sequences,
                "flops_per_sequence": per_sequence,
                "total_flops": sequences * per_sequence,
                "exaflops": sequences * per_sequence / 1e18,
                "ratio": per_sequence / training_flops(model, length),
                **_printed(printed),
            }
        )
    return rows


def table_3() -> list[dict[str, Any]]:
    """Computes Table 3, dense fine-tuning: a row per corpus and model.

    `flops_per_sequence` counts the forward pass only, as the paper's values do although
    its caption says forward and backward. `training_flops_per_sequence` counts both
    passes, and `total_flops` is that times `sequences`, as in the paper. `ratio` is the
    fraction of the dense pre-training total of Table 2; the paper does not print it.
    """
    pretraining = {
        row["model"]: row["total_flops"] for row in table_2() if not row["sparsity"]
    }
    rows = []
    for (dataset, name), printed in PRINTED_TABLE_3.items():
        model, sequences = PRESETS[name].model, FINETUNE_SEQUENCES[dataset]
        training = training_flops(model, FINETUNE_SEQUENCE_LENGTH)
        total = sequences * training
        rows.append(
            {
                "model": name,
                "dataset": dataset,
                "sequences": sequences,
                "flops_per_sequence": training / TRAINING_FACTOR,
                "training_flops_per_sequence": training,
                "total_flops": total,
                "exaflops": total / 1e18,
                "ratio": total / pretraining[name],
                **_printed(printed),
                "printed_ratio": None,
            }
        )
    return rows


def _printed(row: PrintedPretraining | PrintedFinetuning) -> dict[str, float]:
    return {f"printed_{key}": value for key, value in asdict(row).items()}
