"""Packs model, tokenizer and metadata into one `.litertlm` file.

The container is written by Google's own package, `litert-lm-builder`. It comes with
the extra `spdf_keras[litertlm]`, since no other format needs it.
"""

import importlib.util
from pathlib import Path
from typing import Any

from spdf_keras.data.tokenizers.bpe import END_OF_TEXT, Tokenizer
from spdf_keras.errors import InputError

# The module that writes the container.
BUILDER = "litert_lm_builder"

_LINE_BREAK, _PARAGRAPH = "\n", "\n\n"


def require_builder() -> None:
    """Refuses to go on without the package that writes the container."""
    if importlib.util.find_spec(BUILDER) is None:
        raise InputError(
            "A .litertlm bundle is written by the package litert-lm-builder, which is "
            "not installed. Install it with `pip install 'spdf_keras[litertlm]'`."
        )


def check_path(path: str | Path) -> None:
    """Refuses a name by which the runtime does not know a bundle."""
    if Path(path).suffix != ".litertlm":
        raise InputError(
            "`path` must end in .litertlm, by which the runtime knows a bundle. "
            f"Received: '{path}'."
        )


def write_bundle(
    path: Path, model: Path, tokenizer: Tokenizer, cache_length: int, separator: bool
) -> None:
    """Writes a bundle.

    Args:
        path: The file; others of its name with endings of their own appear beside it.
        model: The `.tflite` file.
        tokenizer: The model's tokenizer.
        cache_length: Slots of the model's caches.
        separator: Whether prompts are closed and answers end as in fine-tuning.
    """
    from litert_lm_builder import litertlm_builder

    from spdf_keras import __version__

    metadata = path.with_name(f"{path.name}.metadata.pb")
    metadata.write_bytes(llm_metadata(tokenizer, cache_length, separator))
    tokenizer_file = path.with_name(f"{path.name}.tokenizer.json")
    tokenizer_file.write_text(tokenizer.to_json(), "utf-8")

    def entry(key: str, value: str) -> Any:
        return litertlm_builder.Metadata(key, value, litertlm_builder.DType.STRING)

    # The runtime may choose float16 itself, whose error the card does not know.
    precision = entry("prefer_activation_type", "fp32")
    prefill_decode = litertlm_builder.TfLiteModelType.PREFILL_DECODE
    builder = litertlm_builder.LitertLmFileBuilder()
    builder.add_system_metadata(entry("Authors", f"spdf_keras {__version__}"))
    builder.add_llm_metadata(str(metadata))
    builder.add_hf_tokenizer(str(tokenizer_file))
    builder.add_tflite_model(
        str(model), prefill_decode, additional_metadata=[precision]
    )
    with path.open("wb") as file:
        builder.build(file)


def llm_metadata(tokenizer: Tokenizer, cache_length: int, separator: bool) -> bytes:
    """Returns the serialised `LlmMetadata`: where answers end, how prompts are put.

    Args:
        tokenizer: The model's tokenizer.
        cache_length: Most tokens of a conversation.
        separator: Whether prompts are closed and answers end as in fine-tuning.
    """
    from litert_lm_builder.runtime.proto import llm_metadata_pb2, sampler_params_pb2

    metadata = llm_metadata_pb2.LlmMetadata()
    for stop in _stops(tokenizer, separator):
        metadata.stop_tokens.add().token_ids.ids.extend(stop)
    metadata.max_num_tokens = cache_length
    metadata.llm_model_type.generic_model.SetInParent()
    # The runtime knows no sampler of the name greedy: one token to choose from is it.
    sampler = metadata.sampler_params
    sampler.type, sampler.k = sampler_params_pb2.SamplerParameters.TOP_P, 1
    sampler.p = sampler.temperature = 1.0
    metadata.supports_thinking = metadata.supports_function_calling = False
    if separator:
        metadata.prompt_templates.user.suffix = END_OF_TEXT
    content: bytes = metadata.SerializeToString(deterministic=True)
    return content


def _stops(tokenizer: Tokenizer, separator: bool) -> list[list[int]]:
    """Sequences of tokens that end an answer.

    The end of text does, and behind a separator an empty line, in whichever tokens the
    model writes it.
    """
    stops = [[tokenizer.end_token_id]]
    if separator:
        stops += [tokenizer.encode(_PARAGRAPH), tokenizer.encode(_LINE_BREAK) * 2]
    return [stop for place, stop in enumerate(stops) if stop not in stops[:place]]
