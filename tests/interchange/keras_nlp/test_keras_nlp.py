"""KerasNLP's GPT-2 in both directions: logits, tokens, tokenizer."""

from typing import Any

import numpy as np
import pytest

import spdf_keras
from spdf_keras import GPT, GPTConfig, build_gpt
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.interchange.keras_nlp.tokenizer import (
    from_keras_nlp_tokenizer,
    to_keras_nlp_tokenizer,
)


@pytest.fixture(scope="module")
def theirs(small: GPTConfig, tokenizer: Tokenizer) -> Any:
    """A model of KerasNLP whose every weight matters."""
    import keras_nlp

    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=small.vocabulary_size,
        num_layers=3,
        num_heads=4,
        hidden_dim=32,
        intermediate_dim=72,
        max_sequence_length=40,
    )
    random = np.random.default_rng(0)
    for weight in backbone.weights:
        weight.assign_add(random.normal(0, 0.2, weight.shape).astype(np.float32))
    preprocessor = keras_nlp.models.GPT2CausalLMPreprocessor(
        to_keras_nlp_tokenizer(tokenizer), sequence_length=40
    )
    return keras_nlp.models.GPT2CausalLM(backbone, preprocessor)


def logits(model: Any, token_ids: np.ndarray) -> np.ndarray:
    inputs = {"token_ids": token_ids, "padding_mask": np.ones_like(token_ids)}
    found: np.ndarray = model(inputs).numpy()
    return found


def greedy(model: Any, prompt: list[int], length: int) -> list[int]:
    """The new tokens of KerasNLP's own generation."""
    model.compile(sampler="greedy")
    preprocessor, model.preprocessor = model.preprocessor, None
    padded = np.zeros((1, len(prompt) + length), np.int32)
    padded[0, : len(prompt)] = prompt
    mask = np.arange(padded.shape[1])[None] < len(prompt)
    try:
        found = model.generate(
            {"token_ids": padded, "padding_mask": mask}, stop_token_ids=None
        )
    finally:
        model.preprocessor = preprocessor
    line: list[int] = found["token_ids"][0, len(prompt) :].tolist()
    return line


def test_a_model_of_kerasnlp_has_its_logits_and_tokens_here(theirs: Any) -> None:
    model = spdf_keras.from_keras_nlp(theirs)
    assert model.sizes == GPTConfig(3, 4, 32, 72, 300, 40)
    token_ids = np.random.default_rng(1).integers(300, size=(2, 40)).astype(np.int32)
    # float32 sums in another order, three blocks deep.
    expected = logits(theirs, token_ids)
    error = np.abs(model(token_ids).numpy() - expected).max()
    assert error < 1e-5 * np.abs(expected).max()
    prompts = [[1], [5, 6, 7], [4, 250, 9, 9, 3]]
    ours = model.generate(prompts, max_new_tokens=16)
    assert ours == [greedy(theirs, prompt, 16) for prompt in prompts]
    assert len({tuple(line) for line in ours}) == 3


def test_a_backbone_is_enough(theirs: Any) -> None:
    a, b = map(spdf_keras.from_keras_nlp, (theirs, theirs.backbone))
    for path, weight in a.named_weights().items():
        np.testing.assert_array_equal(weight, b.named_weights()[path])


def test_a_sparse_model_has_its_logits_tokens_and_zeros_in_kerasnlp(
    sparse_model: GPT, tokenizer: Tokenizer, token_ids: np.ndarray
) -> None:
    made = spdf_keras.to_keras_nlp(sparse_model, tokenizer)
    expected = sparse_model(token_ids).numpy()
    error = np.abs(logits(made, token_ids) - expected).max()
    assert error < 1e-5 * np.abs(expected).max()
    kernel = made.backbone.transformer_layers[1]._self_attention_layer._key_dense.kernel
    mask = sparse_model.named_masks()["block_1/key/kernel"].numpy()
    assert np.count_nonzero(kernel) == mask.sum()
    prompts = [[7], [3, 4, 5]]
    ours = sparse_model.generate(prompts, max_new_tokens=12)
    assert ours == [greedy(made, prompt, 12) for prompt in prompts]


def test_text_is_continued_alike_behind_the_token_that_kerasnlp_puts_first(
    sparse_model: GPT, tokenizer: Tokenizer
) -> None:
    made = spdf_keras.to_keras_nlp(sparse_model, tokenizer)
    made.compile(sampler="greedy")
    text = "low lower"
    prompt = [tokenizer.end_token_id, *tokenizer.encode(text)]
    end = tokenizer.end_token_id
    length = len(prompt) + 8
    (new,) = sparse_model.generate([prompt], 8)
    assert end not in new
    # KerasNLP pads with 0, which is the end here, and so would stop at once.
    found = made.generate(text, max_length=length, stop_token_ids=None)
    assert found == text + tokenizer.decode(new)


def test_the_way_there_and_back_keeps_every_bit(theirs: Any) -> None:
    model = spdf_keras.from_keras_nlp(theirs)
    again = spdf_keras.from_keras_nlp(spdf_keras.to_keras_nlp(model))
    for path, weight in model.named_weights().items():
        np.testing.assert_array_equal(weight, again.named_weights()[path])
    assert again.sizes == model.sizes


def test_a_tokenizer_goes_there_and_back(theirs: Any, tokenizer: Tokenizer) -> None:
    made = to_keras_nlp_tokenizer(tokenizer)
    texts = ["low lower!", " two  spaces", "東京 naïve", "2,048\ntokens"]
    assert made(texts).to_list() == tokenizer.encode_batch(texts)
    for source in (made, theirs, theirs.preprocessor):
        found = from_keras_nlp_tokenizer(source)
        assert found.fingerprint == tokenizer.fingerprint
    made.merges.insert(0, "#version: 0.2")  # as in the files of its presets
    assert from_keras_nlp_tokenizer(made).fingerprint == tokenizer.fingerprint


def test_what_kerasnlp_cannot_compute_is_refused_by_name(sizes: GPTConfig) -> None:
    import dataclasses

    changes: list[tuple[str, Any]] = [
        ("activation", "gelu"),
        ("layer_norm_epsilon", 1e-6),
    ]
    for name, value in changes:
        model = build_gpt(dataclasses.replace(sizes, **{name: value}))
        with pytest.raises(InputError, match=f"`{name}` must be .*{name}={value}"):
            spdf_keras.to_keras_nlp(model)


def test_other_objects_are_refused(theirs: Any, sizes: GPTConfig) -> None:
    model = build_gpt(sizes)
    with pytest.raises(InputError, match="a GPT2CausalLM or a GPT2Backbone .* GPT"):
        spdf_keras.from_keras_nlp(model)
    with pytest.raises(InputError, match="must be a GPT of this package.*GPT2CausalLM"):
        spdf_keras.to_keras_nlp(theirs)
    with pytest.raises(InputError, match="must be a GPT2Tokenizer.*Received: GPT2Back"):
        from_keras_nlp_tokenizer(theirs.backbone)
    from keras_nlp.models import GPT2Tokenizer

    tokenizer = from_keras_nlp_tokenizer(theirs)
    merges = [" ".join(pair) for pair in tokenizer.merges]
    spaced = GPT2Tokenizer(tokenizer.vocabulary, merges, add_prefix_space=True)
    with pytest.raises(InputError, match="must add no space before a text"):
        from_keras_nlp_tokenizer(spaced)
