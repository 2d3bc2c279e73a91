"""Makes a run of a model of another library, so that every command takes it."""

import hashlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.interchange.foreign import ForeignModel
from spdf_keras.training.checkpoint import save_checkpoint
from spdf_keras.training.run import Run

Tell = Callable[[str], None]

_OPENERS = {
    "hf": "spdf_keras.interchange.huggingface.reader.open_huggingface",
    "keras_nlp": "spdf_keras.interchange.keras_nlp.reader.open_keras_nlp",
}
SOURCES = tuple(_OPENERS)
"""The kinds of sources, each of which stands before the colon of a source."""


def split_source(source: str) -> tuple[str, str]:
    """Returns kind and folder of a source such as `hf:FOLDER`.

    Raises:
        InputError: If the source has no known kind, or no folder.
    """
    kind, colon, folder = source.partition(":")
    if not colon or kind not in _OPENERS or not folder:
        forms = " or ".join(f"{name}:FOLDER" for name in _OPENERS)
        raise InputError(f"`source` must be {forms}. Received: '{source}'.")
    return kind, folder


def open_source(source: str) -> ForeignModel:
    """Opens a source such as `hf:FOLDER`.

    Raises:
        InputError: As `split_source`; and if it is no model that a GPT here can be.
    """
    kind, folder = split_source(source)
    module, _, name = _OPENERS[kind].rpartition(".")
    opened: ForeignModel = getattr(import_module(module), name)(folder)
    return opened


def convert(
    source: str | ForeignModel,
    folder: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Makes a finished run of a model of another library.

    The run has one checkpoint, of step 0, and the source's tokenizer, masks and
    settings of decoding. It can be fine-tuned, decoded, scored and exported as any
    other run.

    Args:
        source: `hf:FOLDER` is a checkpoint in Hugging Face's layout, `keras_nlp:FOLDER`
            a preset of KerasNLP; or what `open_source` returned.
        folder: The folder of the new run.
        tokenizer: The tokenizer of the run; the source's own if None.
        tell: Called with a sentence for each thing of the source that has no effect.

    Returns:
        `parameters` and `sparsity` (of the masks) of the model.

    Raises:
        InputError: If the source cannot be read, or the folder holds something else.
        TrainingError: If the checkpoint cannot be written.
    """
    tell = tell or (lambda _: None)
    run = Run(Path(folder))
    with run.writing():
        _take_over(run)
        opened = open_source(source) if isinstance(source, str) else source
        tokenizer = tokenizer or opened.tokenizer()
        _check_tokens(tokenizer, opened)
        model, config = opened.build(), opened.config()
        for note in opened.notes:
            tell(note)
        origin = {
            "kind": "convert",
            "source": {
                **opened.origin,
                "weights": {file.name: _checksum(file) for file in opened.files},
            },
            "notes": list(opened.notes),
        }
        run.start(config, tokenizer, origin)
        save_checkpoint(model, run.checkpoint_folder, 0)
        return run.finish(
            {"parameters": config.model.num_parameters, "sparsity": model.sparsity}
        )


def _take_over(run: Run) -> None:
    """Refuses a folder with a run, unless a conversion was killed in it."""
    was_killed = run.origin().get("kind") == "convert" and run.result() is None
    if was_killed:
        run.remove_checkpoints()
    if run.checkpoints():
        raise InputError(
            f"The folder '{run.folder}' is in use: choose another. It holds a run that "
            "has checkpoints."
        )


def _check_tokens(tokenizer: Tokenizer, opened: ForeignModel) -> None:
    tokens, rows = tokenizer.vocabulary_size, opened.sizes.vocabulary_size
    if tokens > rows:
        raise InputError(
            f"The tokenizer must have at most the {rows} tokens of the model. "
            f"Received: a tokenizer of {tokens}. Give the model's own."
        )


def _checksum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
