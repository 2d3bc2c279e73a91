"""Builds, compiles and loads GPTs."""

import dataclasses
import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from spdf_keras.adapters.block import AdaptedBlock, check_rank
from spdf_keras.config import (
    PRECISIONS,
    Config,
    GPTConfig,
    LoRAConfig,
    SparsityConfig,
    TrainConfig,
    check_seed,
    config_from_tables,
    get_preset,
)
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras, refuse_keras3
from spdf_keras.model.block import GPTBlock
from spdf_keras.model.embedding import TiedEmbedding
from spdf_keras.model.gpt import GPT
from spdf_keras.model.paths import block_name, masked_shapes
from spdf_keras.optimization.recipes import pretraining_optimizer
from spdf_keras.sparsity.algorithms.registry import make_method
from spdf_keras.sparsity.updating import initial_counts
from spdf_keras.sparsity.wrapper import PruneFixedRandom


def build_gpt(
    model: str | GPTConfig,
    sparsity: float | SparsityConfig = 0.0,
    *,
    mask_seed: int | None = None,
    train: TrainConfig | None = None,
    **settings: Any,
) -> GPT:
    """Builds a GPT with masks, fixed and random by default, compiled for pre-training.

    The initial weights depend on the seed and on each weight's path alone, so
    the kept weights of a sparse model start where the dense model's start.

    Args:
        model: A preset (`gpt_nano`, `gpt_mini`, `gpt2_small`, `gpt3_xl`) or sizes.
        sparsity: Fraction of zeros in the six matrices of each block, in `[0, 1)`; 0
            builds the plain dense model. A `SparsityConfig` says more: how masks are
            distributed, structured and updated in `fit`.
        mask_seed: Seed of the masks; if None that of the `SparsityConfig`, or else of
            the weights.
        train: Pre-training settings; the preset's if None. They set the
            optimizer, its schedule, the precision and the compilation.
        **settings: Fields of `TrainConfig` to change, such as `seed=1`,
            `learning_rate=1e-3` or `jit_compile=True`. Without `precision`, here or
            in `train`, Keras' global mixed-precision policy holds.

    Returns:
        A compiled model for `fit` on a dataset of `(token_ids, labels)` or
        `(token_ids, labels, sample_weight)`, each `(batch, length)`.

    Raises:
        InputError: If the preset, a setting or the sparsity is not valid.

    Example:
        >>> model = build_gpt("gpt_nano", sparsity=0.75, seed=1)
        >>> model(keras.backend.ones((2, 8), "int32")).shape
        TensorShape([2, 8, 2048])

    Reference:
        Table 1 and appendix A.1 of
        [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464).
    """
    refuse_keras3(model=model)
    if train is None and "precision" not in settings:
        settings["precision"] = _global_precision()
    if isinstance(model, str):
        preset = get_preset(model)
        sizes, train = preset.model, train or preset.train
    elif isinstance(model, GPTConfig):
        sizes, train = model, train or TrainConfig()
    else:
        raise InputError(
            f"`model` must be a preset's name or a GPTConfig. Received: {model!r}."
        )
    if settings:
        defaults = config_from_tables({"train": dataclasses.asdict(train)})
        train = config_from_tables({"train": settings}, base=defaults).train
    if not isinstance(sparsity, SparsityConfig):
        sparsity = SparsityConfig(sparsity, train.seed)
    sparsity.check_has_zeros()
    if mask_seed is not None:
        mask_seed = check_seed(mask_seed, "mask_seed")
        sparsity = dataclasses.replace(sparsity, seed=mask_seed)
    config = Config(sizes, sparsity, train)
    gpt = configured_gpt(config)
    compile_for_pretraining(gpt, train)
    return gpt


def configured_gpt(config: Config, lora: LoRAConfig | None = None) -> GPT:
    """Builds the model of a run's settings without compiling it.

    Args:
        config: The settings of the run.
        lora: The settings of its adapter; None without one.
    """
    return functional_gpt(
        config.model,
        config.sparsity,
        seed=config.train.seed,
        precision=config.train.precision,
        compute=_compute(config.train),
        lora=lora,
        tokens=_tokens_of_micro_batch(config),
        micro_batches=config.train.micro_batches,
    )


def _compute(train: TrainConfig) -> str:
    # With XLA each product lays its kernel out again, so dense ones are faster.
    return "dense" if train.compute == "auto" and train.jit_compile else train.compute


def _tokens_of_micro_batch(config: Config) -> int:
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    sequences = config.train.batch_size // config.train.micro_batches // replicas
    return max(sequences, 1) * config.model.max_sequence_length


def _global_precision() -> str:
    policy = keras.mixed_precision.global_policy().name
    if policy not in PRECISIONS:
        raise InputError(
            f"`precision` must be one of {', '.join(PRECISIONS)}. Received: {policy}, "
            "Keras' global policy. Set another one, or give `precision`."
        )
    return policy


def compile_for_pretraining(
    model: GPT, train: TrainConfig, sequence_length: int = 0
) -> None:
    """Compiles `model` with the recipe of appendix A.1.

    Args:
        model: The model.
        train: Its pre-training settings.
        sequence_length: Tokens per sequence, which with the batch size turns
            tokens into steps; 0 is the model's context.
    """
    total_steps = train.total_steps(model.sizes, sequence_length)
    model.compile(
        pretraining_optimizer(model.sizes, train, sequence_length),
        total_steps=total_steps,
        micro_batches=train.micro_batches,
        recompute=train.recompute,
        jit_compile=train.jit_compile,
    )


def load_model(path: str | Path) -> GPT:
    """Loads a model that its method `save` wrote, with masks, compiled as it was.

    A `.keras` file also has the optimizer's state. `keras.models.load_model` does
    the same once this module is imported, which makes its classes known.

    Args:
        path: A `.keras` file, or the folder of a Keras SavedModel.

    Raises:
        InputError: If there is no such file, or it holds no GPT.
    """
    if not Path(path).exists():
        raise InputError(f"There is no model at '{path}'.")
    try:
        model = keras.models.load_model(path)
    except (OSError, ValueError, TypeError) as error:
        first = str(error).strip().split("\n")[0]
        raise InputError(f"Cannot load a model from '{path}': {first}") from error
    if not isinstance(model, GPT):
        raise InputError(f"'{path}' holds no GPT. Received: {type(model).__name__}.")
    return model


# AutoGraph would take a second, and no layer needs its control flow.
@tf.autograph.experimental.do_not_convert
def functional_gpt(
    sizes: GPTConfig,
    sparsity: SparsityConfig | None = None,
    *,
    seed: int = 0,
    precision: str = "float32",
    compute: str = "dense",
    lora: LoRAConfig | None = None,
    **work: Any,
) -> GPT:
    """Builds the model of `build_gpt` without compiling it.

    Args:
        sizes: Its sizes.
        sparsity: Its masks; none if None or if its sparsity is 0.
        seed: Seed of the initial weights.
        precision: See `TrainConfig.precision`.
        compute: See `TrainConfig.compute`.
        lora: Adapters of its blocks, beside weights that are frozen; none if None.
        **work: `tokens` and `micro_batches`, for its timings; see `PruneFixedRandom`.
    """
    embedding = TiedEmbedding(
        sizes.vocabulary_size,
        sizes.hidden_dim,
        sizes.max_sequence_length,
        seed=_path_seed(seed, "embedding"),
        name="embedding",
        dtype=precision,
    )
    kept: dict[str, int] = {}
    if sparsity is not None and sparsity.sparsity:
        kept = initial_counts(masked_shapes(sizes), make_method(sparsity))
    block: Callable[..., GPTBlock] = GPTBlock
    if lora is not None:
        check_rank(lora, sizes)
        block = partial(AdaptedBlock, lora=lora)
    token_ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = embedding(token_ids)
    for index in range(sizes.num_layers):
        name = block_name(index)
        layer: keras.layers.Layer = block(
            sizes.num_heads,
            sizes.intermediate_dim,
            sizes.layer_norm_epsilon,
            residual_scale=(2 * sizes.num_layers) ** -0.5,
            seed=_path_seed(seed, name),
            activation=sizes.activation,
            name=name,
            dtype=precision,
        )
        if sparsity is not None and sparsity.sparsity:
            layer = PruneFixedRandom(
                layer, sparsity, compute=compute, kept=kept, **work
            )
        x = layer(x)
    norm = keras.layers.LayerNormalization(
        epsilon=sizes.layer_norm_epsilon, name="final_norm", dtype=precision
    )
    for frozen in (embedding, norm) if lora is not None else ():
        frozen.trainable = False
    logits = embedding(norm(x), reverse=True)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(logits)
    return GPT(token_ids, logits, name="gpt")


def _path_seed(seed: int, path: str) -> int:
    """Returns the seed of one layer, which depends on no other layer."""
    digest = hashlib.sha256(f"initial:{seed}:{path}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1
