"""What an export starts from: a model, a run, or a preset's initial weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spdf_keras.adapters.adapter import refuse_adapter
from spdf_keras.config import PRESETS
from spdf_keras.errors import InputError
from spdf_keras.training.run import Run

if TYPE_CHECKING:
    from spdf_keras.data.tokenizers.bpe import Tokenizer
    from spdf_keras.model.gpt import GPT


def resolve_source(
    source: Any, sparsity: float | None = None, adapted: bool = False
) -> "GPT | Run | str":
    """Finds the model, run or preset that the `model` of an exporter stands for.

    All exporters and the command line call this, so that all take the same.

    Args:
        source: A GPT, a `Run`, the folder of one, or a preset's name.
        sparsity: Sparsity of a preset's masks; None where none was asked for.
        adapted: Whether a run or model with an adapter is taken; others refuse it.

    Returns:
        The GPT, the opened `Run`, or the preset's name.

    Raises:
        InputError: If `source` is none of these, has an adapter, or has masks of its
            own and `sparsity` is given.
    """
    if isinstance(source, str) and source in PRESETS:
        return source
    if isinstance(source, str | Path):
        _refuse_sparsity(sparsity, f"'{source}'")
        if not Path(source).exists():
            raise InputError(
                f"`model` must be the folder of a run or a preset ({', '.join(PRESETS)}"
                f"). Received: '{source}', which is neither."
            )
        source = Run.open(source)
    if isinstance(source, Run):
        _refuse_sparsity(sparsity, f"'{source.folder}'")
        if not adapted:
            source.require_no_adapter()
        return source
    # Only here, so that the command line refuses its arguments without TensorFlow.
    from spdf_keras.model.gpt import GPT

    if not isinstance(source, GPT):
        raise _refused(type(source).__name__)
    _refuse_sparsity(sparsity, "a GPT")
    if not adapted:
        refuse_adapter(source)
    return source


def load_source(source: "GPT | Run | str", sparsity: float | None = None) -> "GPT":
    """Loads the model of what `resolve_source` returned.

    Args:
        source: The GPT itself, a run, whose newest or best checkpoint counts, or a
            preset's name.
        sparsity: Sparsity of a preset's masks; 0 if None.
    """
    from spdf_keras.model.build import build_gpt

    if isinstance(source, str):
        return build_gpt(source, sparsity or 0.0)
    return source.load_model() if isinstance(source, Run) else source


def resolve_tokenizer(
    source: "GPT | Run | str", tokenizer: "Tokenizer | None", separator: bool | None
) -> "tuple[Tokenizer, bool]":
    """Finds the tokenizer of an export from text to text, and how prompts are put.

    Args:
        source: What `resolve_source` returned.
        tokenizer: The model's tokenizer; that of the run if None.
        separator: Whether prompts are closed as in fine-tuning; None is False for the
            run of a pre-training, and True otherwise.

    Returns:
        The tokenizer and the separator.

    Raises:
        InputError: If there is no tokenizer.
    """
    if isinstance(source, Run):
        tokenizer = tokenizer or source.tokenizer()
    if tokenizer is None:
        raise InputError(
            "`tokenizer` must be given, or `model` be a run, which has one. Received: "
            "tokenizer=None."
        )
    return tokenizer, resolve_separator(source, separator) is not False


def resolve_separator(
    source: "GPT | Run | str", separator: bool | None = None
) -> bool | None:
    """Finds out whether texts are put as in fine-tuning; None if nobody knows.

    Args:
        source: What `resolve_source` returned.
        separator: What the caller says; None asks the run.
    """
    if separator is None and isinstance(source, Run):
        return bool(source.origin().get("kind") == "finetune")
    return separator


def check_tokenizer(tokenizer: "Tokenizer", vocabulary_size: int) -> None:
    """Refuses a tokenizer with more tokens than the model has."""
    if tokenizer.vocabulary_size > vocabulary_size:
        raise InputError(
            f"`tokenizer` must fit the model's {vocabulary_size} tokens. Received: a "
            f"tokenizer of {tokenizer.vocabulary_size}."
        )


def _refuse_sparsity(sparsity: float | None, received: str) -> None:
    if sparsity is not None:
        raise InputError(
            "`sparsity` is for presets: a run or a model has masks already. Received: "
            f"sparsity={sparsity} for {received}."
        )


def _refused(received: str) -> InputError:
    return InputError(
        "`model` must be a GPT from `build_gpt`, a Run, its folder, or a preset "
        f"({', '.join(PRESETS)}). Received: {received}."
    )
