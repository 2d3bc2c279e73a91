"""Exports SavedModels that plain TensorFlow loads: no Keras, no custom code."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spdf_keras.config import DecodeConfig
from spdf_keras.errors import InputError
from spdf_keras.evaluation.texts import end_token_ids as tokenizer_ends
from spdf_keras.export.card import ExportCard, card_path
from spdf_keras.export.files import size_bytes, staged
from spdf_keras.export.graphs import FoldedKernels, float32_model
from spdf_keras.export.saved_model.check import check_logits, check_tokens
from spdf_keras.export.saved_model.signatures import (
    BEAM_SEARCH,
    SIGNATURES,
    Decoding,
    trace_generation,
    trace_logits,
)
from spdf_keras.export.saved_model.two_graphs import FOLDER_WITH, Graphs
from spdf_keras.export.sources import load_source, resolve_source
from spdf_keras.model.decoding.generator import token_id_list
from spdf_keras.model.decoding.passes import Kernels
from spdf_keras.model.gpt import GPT
from spdf_keras.training.run import Run


def to_saved_model(
    model: GPT | Run | str | Path,
    path: str | Path,
    overwrite: bool = False,
    signatures: Sequence[str] = SIGNATURES,
    end_token_ids: Any = None,
    beam_search: DecodeConfig | None = None,
    *,
    sparsity: float | None = None,
    skip_zeros: str | None = None,
) -> ExportCard:
    """Writes a SavedModel of token ids; batch and length are free, up to the context.

    Masks are folded into the kernels. `tf.saved_model.load` alone loads it:

        signatures = tf.saved_model.load(path).signatures
        signatures["serving_default"](token_ids=...)["logits"]

    - `serving_default`: `token_ids`, int32 `(batch, length)`, to `logits`, float32
      `(batch, length, vocabulary_size)`.
    - `generate`: `token_ids`, padded at the right, with their `lengths` `(batch,)` and
      `max_new_tokens` `(batch,)` to the likeliest tokens one after the other, with a
      key-value cache: `token_ids` `(batch, steps)`, -1 behind the end, and `lengths`.
    - `generate_beam`: the same by beam search, and `scores` `(batch,)`.

    With `skip_zeros`, the folder has two graphs over the same variables, and
    `tf.saved_model.load` must be told which: with `tags=["serve"]` the graph that the
    folder has without the option, with `tags=["serve", "spdf"]` one that needs
    `tf.load_op_library(library_path())` before and skips zeros.

    Args:
        model: A GPT, sparse or stripped, a `Run` or its folder (its newest or best
            checkpoint), or a preset's name (its initial weights).
        path: Folder to write; its parents are made.
        overwrite: Replace a SavedModel that is there.
        signatures: Which of these to write.
        end_token_ids: Tokens that end a continuation, and are not returned: one id,
            several, or None, which is those of a run's tokenizer, and otherwise none.
        beam_search: How `generate_beam` searches; its length comes with each call. If
            None, the run's `[decode]` settings where they have several beams, and
            otherwise those of the LoRA recipe.
        sparsity: For a preset, sparsity of its masks.
        skip_zeros: `cpu` adds a graph that skips zeros on CPUs; None does not.

    Returns:
        The card, with size and error measured on random prompts.

    Raises:
        InputError: If `model`, a signature or `skip_zeros` is unknown, the model has
            weights that are not finite or no zeros to skip, or `path` exists.
        NotBuiltError: If the operations that skip zeros cannot be compiled.
        ExportError: If the file's logits or tokens are not the model's.
    """
    unknown = [name for name in signatures if name not in SIGNATURES]
    if unknown or not signatures:
        raise InputError(
            f"`signatures` must be of {', '.join(SIGNATURES)}. Received: "
            f"{', '.join(unknown) or 'none'}."
        )
    source = resolve_source(model, sparsity)
    if isinstance(source, Run):
        decode = source.config().decode
        if beam_search is None and decode.num_beams > 1:
            beam_search = decode
        if end_token_ids is None:
            end_token_ids = tokenizer_ends(source.tokenizer())
    gpt, notes = float32_model(load_source(source, sparsity))
    graphs = Graphs(FoldedKernels(gpt), skip_zeros)
    ends = token_id_list(end_token_ids)
    settings = {
        "generate": DecodeConfig(),
        "generate_beam": beam_search or BEAM_SEARCH,
    }

    def tracer(kernels: Callable[[], Kernels]) -> dict[str, Any]:
        return {
            name: trace_generation(Decoding(gpt, kernels, ends, settings[name]))
            if name in settings
            else trace_logits(gpt, kernels)
            for name in signatures
        }

    def check(loaded: Any) -> tuple[float | None, float | None]:
        for name in set(settings) & set(signatures):
            check_tokens(loaded[name], gpt, ends, settings[name])
        if "serving_default" not in signatures:
            return None, None
        return check_logits(loaded["serving_default"], gpt)

    with staged(path, overwrite, folder_with=FOLDER_WITH) as stage:
        graphs.write(stage, tracer)
        error = max(graphs.check(stage, check))
        card = saved_model_card(path, stage, gpt, graphs, error=error, notes=notes)
        card.save(card_path(stage))
    return card


def saved_model_card(
    path: str | Path,
    stage: Path,
    model: GPT,
    graphs: Graphs,
    *,
    error: tuple[float | None, float | None],
    notes: tuple[str, ...],
    format: str = "saved_model",  # noqa: A002 (the card's own name)
) -> ExportCard:
    """Makes the card of a folder at `stage` that will be at `path`."""
    size = size_bytes(stage)
    return ExportCard(
        format=format,
        path=str(path),
        size_bytes=size,
        dense_size_bytes=size,
        bound_size_bytes=size - graphs.kernels.redundant_bytes(),
        sparsity=graphs.kernels.sparsity,
        max_abs_error=error[0],
        max_abs_logit=error[1],
        vocabulary_size=model.embedding.vocabulary_size,
        notes=(*notes, *graphs.notes),
        runtimes=graphs.runtimes,
    )
