"""Exports a SavedModel from text to text, with the tokenizer inside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from spdf_keras.config import DecodeConfig
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.data.tokenizers.in_graph import GraphTokenizer
from spdf_keras.evaluation.texts import end_token_ids
from spdf_keras.export.card import ExportCard, card_path
from spdf_keras.export.files import staged
from spdf_keras.export.graphs import FoldedKernels, float32_model
from spdf_keras.export.saved_model.check import check_texts
from spdf_keras.export.saved_model.exporter import saved_model_card
from spdf_keras.export.saved_model.signatures import Decoding, trace_text
from spdf_keras.export.saved_model.two_graphs import FOLDER_WITH, Graphs
from spdf_keras.export.sources import (
    check_tokenizer,
    load_source,
    resolve_source,
    resolve_tokenizer,
)
from spdf_keras.model.decoding.passes import Kernels
from spdf_keras.model.gpt import GPT
from spdf_keras.training.run import Run


def to_text_model(
    model: GPT | Run | str | Path,
    tokenizer: Tokenizer | None,
    path: str | Path,
    overwrite: bool = False,
    separator: bool | None = None,
    settings: DecodeConfig | None = None,
    *,
    sparsity: float | None = None,
    skip_zeros: str | None = None,
) -> ExportCard:
    """Writes a SavedModel from text to text, with the tokenizer inside.

    Its `serving_default` takes `text`, strings `(batch,)`, and `max_new_tokens`
    `(batch,)` to `text` `(batch,)`: the outputs of `generate_texts`. The tokenizer is
    made of core TensorFlow operations, so plain TensorFlow loads it, without TensorFlow
    Text. A text that leaves no room for the new tokens loses its end, and an empty text
    that nothing closes has an empty output.

    Args:
        model: As in `to_saved_model`.
        tokenizer: The model's tokenizer; that of the run if None.
        path: Folder to write; its parents are made.
        overwrite: Replace a SavedModel that is there.
        separator: Close each text as the fine-tuning tasks do, and stop at an empty
            line; False continues it as plain text. None is False for the run of a
            pre-training, and True otherwise.
        settings: How to decode. If None, the run's `[decode]` settings, and otherwise
            greedily.
        sparsity: For a preset, sparsity of its masks.
        skip_zeros: As in `to_saved_model`.

    Returns:
        The card. Its error is 0, as texts that are not equal raise an error.

    Raises:
        InputError: As `to_saved_model`, and if the tokenizer is missing or does not
            fit the model.
        ExportError: If a text is not the model's.
    """
    source = resolve_source(model, sparsity)
    if isinstance(source, Run):
        settings = settings or source.config().decode
    settings = settings or DecodeConfig()
    tokenizer, separator = resolve_tokenizer(source, tokenizer, separator)
    gpt, notes = float32_model(load_source(source, sparsity))
    check_tokenizer(tokenizer, gpt.embedding.vocabulary_size)
    graphs, in_graph = Graphs(FoldedKernels(gpt), skip_zeros), GraphTokenizer(tokenizer)
    ends = end_token_ids(tokenizer) if separator else [tokenizer.end_token_id]
    separator_id = tokenizer.end_token_id if separator else None

    def tracer(kernels: Callable[[], Kernels]) -> dict[str, Any]:
        decoding = Decoding(gpt, kernels, ends, settings)
        return {"serving_default": trace_text(decoding, in_graph, separator_id)}

    def check(loaded: Any) -> None:
        serve = loaded["serving_default"]
        check_texts(serve, gpt, tokenizer, settings=settings, separator=separator)

    with staged(path, overwrite, folder_with=FOLDER_WITH) as stage:
        graphs.write(stage, tracer, in_graph)
        graphs.check(stage, check)
        card = saved_model_card(
            path,
            stage,
            gpt,
            graphs,
            error=(0.0, 0.0),
            notes=notes,
            format="saved_model_text",
        )
        card.save(card_path(stage))
    return card
