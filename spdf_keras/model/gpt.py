"""The GPT as a functional Keras model; `build_gpt` makes one."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from spdf_keras.adapters.block import AdaptedBlock
from spdf_keras.config import (
    GPTConfig,
    LoRAConfig,
    SparsityConfig,
    config_from_tables,
)
from spdf_keras.keras2 import keras
from spdf_keras.model.block import GPTBlock
from spdf_keras.model.decoding.generator import Generator
from spdf_keras.model.embedding import TiedEmbedding
from spdf_keras.model.paths import kernel_path
from spdf_keras.model.saving import SavedModel
from spdf_keras.sparsity.wrapper import PruneFixedRandom, unwrap


@keras.saving.register_keras_serializable("spdf_keras")
class GPT(SavedModel):
    """A GPT: token ids `(batch, length)` in, logits out; see `build_gpt`.

    It is an ordinary functional Keras model with three additions: the loss is
    a mean over *tokens* (weighted by `sample_weight`, also across batches and
    replicas), a batch can be computed in `micro_batches`, and `generate`
    decodes with a cache.
    """

    @property
    def embedding(self) -> TiedEmbedding:
        """The layer with the token and the position table."""
        return self.get_layer("embedding")

    @property
    def blocks(self) -> list[keras.layers.Layer]:
        """The decoder blocks in order, each inside its wrapper if it has one."""
        return [layer for layer in self.layers if isinstance(unwrap(layer), GPTBlock)]

    @property
    def final_norm(self) -> keras.layers.Layer:
        """The LayerNorm before the output projection."""
        return self.get_layer("final_norm")

    def named_weights(self) -> dict[str, tf.Variable]:
        """Returns every weight by its path, such as `block_0/query/kernel`; no masks.

        Those of adapters are among them; see `named_adapters`.

        Paths do not change when a model is masked, stripped, saved or loaded.
        `weight.name` changes, and is not unique.
        """
        named = {
            "embedding/token": self.embedding.token_table,
            "embedding/position": self.embedding.position_table,
            "final_norm/gamma": self.final_norm.gamma,
            "final_norm/beta": self.final_norm.beta,
        }
        for block in map(unwrap, self.blocks):
            for path, weight in block.named_weights().items():
                named[f"{block.name}/{path}"] = weight
        return named

    def named_adapters(self) -> dict[str, tf.Variable]:
        """Returns the weights of adapters by their paths; empty without adapters.

        A kernel with an adapter has `block_0/query/adapter_down`, `(in_features,
        rank)`, and `block_0/query/adapter_up`, `(rank, out_features)`.
        """
        return {
            f"{block.name}/{path}": weight
            for block in map(unwrap, self.blocks)
            if isinstance(block, AdaptedBlock)
            for path, weight in block.named_adapters().items()
        }

    @property
    def lora(self) -> LoRAConfig | None:
        """The settings of its adapters; None without adapters."""
        return getattr(unwrap(self.blocks[0]), "lora", None)

    def named_masks(self) -> dict[str, tf.Variable]:
        """Returns every mask by the path of its kernel; empty for a dense model."""
        return {
            kernel_path(layer.layer.name, name): mask
            for layer in self._masked_blocks
            for name, mask in zip(layer.layer.prunable_names, layer.masks, strict=True)
        }

    @property
    def sparse_kernels(self) -> list[str]:
        """Paths of the kernels whose zeros are skipped; see `TrainConfig.compute`.

        It can be assigned, so that a run that goes on keeps the choice of `auto`.
        """
        return [
            kernel_path(layer.layer.name, name)
            for layer in self._masked_blocks
            for name in layer.sparse_names
        ]

    @sparse_kernels.setter
    def sparse_kernels(self, paths: Sequence[str]) -> None:
        for layer in self._masked_blocks:
            layer.sparse_names = tuple(
                name
                for name in layer.layer.prunable_names
                if kernel_path(layer.layer.name, name) in paths
            )

    def take_weights(self, other: "GPT") -> None:
        """Copies the weights of a model of the same sizes, where the masks keep them.

        Args:
            other: The other model; what its masks prune counts as zero.
        """
        weights, masks, theirs = (
            self.named_weights(),
            self.named_masks(),
            other.named_masks(),
        )
        for path, weight in other.named_weights().items():
            value = weight.numpy()
            for mask in (theirs.get(path), masks.get(path)):
                if mask is not None:
                    value = np.where(mask.numpy(), value, 0)
            weights[path].assign(value)

    def describe_products(self) -> str:
        """Says how many kernels skip their zeros, and the timings that decided it.

        If `auto` has found that another precision is faster, it names it too.
        """
        skipped, masked = len(self.sparse_kernels), len(self.named_masks())
        times = "".join(layer.describe_times() for layer in self._masked_blocks[:1])
        return f"Zeros are skipped in {skipped} of {masked} masked kernels{times}."

    @property
    def has_latent_weights(self) -> bool:
        """Whether weights have values under the masks, which a forward pass leaves out.

        Only the method `magnitude_ste` has such weights.
        """
        return any(layer.is_latent for layer in self._masked_blocks)

    @property
    def keeps_mask_counts(self) -> bool:
        """Whether every mask always keeps as many weights."""
        return all(layer.keeps_count for layer in self._masked_blocks)

    @property
    def _masked_blocks(self) -> list[PruneFixedRandom]:
        return [layer for layer in self.blocks if isinstance(layer, PruneFixedRandom)]

    @property
    def sizes(self) -> GPTConfig:
        """The sizes of the layers."""
        blocks = [unwrap(layer) for layer in self.blocks]
        return GPTConfig(
            num_layers=len(blocks),
            num_heads=blocks[0].num_heads,
            hidden_dim=self.embedding.hidden_dim,
            intermediate_dim=blocks[0].intermediate_dim,
            vocabulary_size=self.embedding.vocabulary_size,
            max_sequence_length=self.embedding.max_sequence_length,
            layer_norm_epsilon=blocks[0].layer_norm_epsilon,
            activation=blocks[0].activation,
        )

    @property
    def sparsity(self) -> float:
        """The fraction of zeros in all masks; 0 without masks."""
        masks = [mask for layer in self._masked_blocks for mask in layer.masks]
        if not masks:
            return 0.0
        size = sum(mask.shape.num_elements() for mask in masks)
        zeros = size - sum(int(np.count_nonzero(mask.numpy())) for mask in masks)
        asked = self._masked_blocks[0].sparsity
        # Each mask rounds its count; what was asked for is what a user knows.
        close = abs(zeros - asked * size) <= len(masks)
        return asked if close else zeros / size

    @property
    def mask_settings(self) -> SparsityConfig:
        """The settings that the masks were drawn by; of sparsity 0 without masks."""
        masked = self._masked_blocks
        return masked[0].settings if masked else SparsityConfig()

    def generate(
        self,
        prompts: Any,
        max_new_tokens: int = 64,
        end_token_ids: Any = None,
        batch_size: int = 32,
        report: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> list[list[int]]:
        """Continues each prompt, with a key-value cache, in one graph per batch.

        Decoding is greedy, unless `settings` say otherwise.

        Args:
            prompts: Token ids of each prompt: a list of lists, an array or tensor
                `(batch, length)`, or a ragged tensor.
            max_new_tokens: Largest number of new tokens; the context limits it too.
            end_token_ids: Tokens that end a continuation (and are not returned): one
                id, several, or None.
            batch_size: Prompts that are decoded together.
            report: Called with the number of completed prompts after each batch.
            **settings: The other fields of `DecodeConfig`, such as `num_beams=10`,
                `length_penalty=0.8` and `no_repeat_ngram_size=4`, or `sample=True`,
                `temperature=0.7` and `top_p=0.9`.

        Returns:
            The new token ids of each prompt, in the order of `prompts`.

        Raises:
            InputError: If a prompt is empty, fills the context or is no list of token
                ids, or a setting is unknown or out of range.

        Reference:
            Beam search follows the recipe to which appendix A.2 of [Thangarasa et
            al., 2023](https://arxiv.org/abs/2303.10464) refers.
        """
        settings.update(max_new_tokens=max_new_tokens, batch_size=batch_size)
        decode = config_from_tables({"decode": settings}).decode
        if getattr(self, "_generator", None) is None:
            self._set_untracked("_generator", Generator(self))
        return self._generator(prompts, end_token_ids, decode, report)


# `.h5` files and `to_json` keep only the bare name of a class.
keras.saving.get_custom_objects().setdefault("GPT", GPT)
