"""Refuses the path of an export before any work, where it must not be written to."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from spdf_keras.errors import ExportError, InputError
from spdf_keras.files import UNFINISHED, write_failure
from spdf_keras.folders import is_nothing

# The file by which a folder of each format is known. Other formats are files.
KNOWN_BY = {
    "saved_model": "saved_model.pb",
    "xla": "artefact.json",
    "huggingface": "model.safetensors",
    "keras_nlp": "model.weights.h5",
    "peft": "adapter_config.json",
}

# Names that the exporters give in a folder, by the file by which it is known. Nothing
# else is removed when a folder is replaced.
_WRITTEN = {
    "saved_model.pb": r"(saved_model|keras_metadata|fingerprint)\.pb|variables|assets",
    "artefact.json": r"artefact\.json|(weights|check)\.safetensors"
    r"|\w+(\.skipping)?\.stablehlo",
    "model.safetensors": r"(config|generation_config|tokenizer|tokenizer_config)\.json"
    r"|(special_tokens_map|vocab)\.json|merges\.txt|(model|masks)\.safetensors"
    r"|README\.md",
    "model.weights.h5": r"(config|tokenizer|preprocessor|metadata)\.json|assets"
    r"|model\.weights\.h5",
    "adapter_config.json": r"adapter_config\.json|adapter_model\.safetensors",
}
_CARD = "card.json"
# Folders of these kinds come from other programs too; only an export here has a card.
_SHARED = ("model.safetensors", "model.weights.h5", "adapter_config.json")
# A stage is a folder with unfinished files: in a folder that is being written, or
# beside a file, whose name then stands first.
STAGE = re.compile(rf"(\..+)?\.spdf_keras-\w+{re.escape(UNFINISHED)}")


def check_target(
    path: str | Path,
    overwrite: bool,
    folder_with: str | None = None,
    beside: Path | None = None,
) -> None:
    """Refuses a path where an export must not be written; `staged` has the arguments.

    Raises:
        InputError: If the path names no file, or no folder where one is written, or
            holds something that must stay.
    """
    text = os.fspath(path)
    kind, other = ("folder", "file") if folder_with else ("file", "folder")
    if not text or "\0" in text:
        raise InputError(f"`path` must name a {kind}. Received: {text!r}.")
    path = Path(path)
    with refusals(path):
        if path.exists() and path.is_dir() != bool(folder_with):
            raise InputError(
                f"`path` must name a {kind}. Received: '{path}', which is a {other}."
            )
        if folder_with:
            _check_folder(path, overwrite, folder_with)
        elif text.endswith(os.sep):
            raise InputError(
                f"`path` must name a file. Received: '{text}', which ends as a folder "
                f"does. Take '{path}'."
            )
        else:
            for file in (path, beside):
                if file is not None:
                    _check_file(file, overwrite)


@contextlib.contextmanager
def refusals(path: str | Path) -> Iterator[None]:
    """Reports in one sentence what the system refuses at `path`."""
    try:
        yield
    except OSError as error:
        if reason := write_failure(error):
            raise disk_error(path, reason) from error
        raise InputError(
            f"Cannot write to '{path}': {error.strerror}. Choose another path."
        ) from error


def disk_error(path: str | Path, reason: str) -> ExportError:
    """Makes the error of a disk that takes no more."""
    return ExportError(
        f"Cannot write '{path}': {reason}. Nothing was written. Make room, or choose "
        "another place."
    )


def _check_file(path: Path, overwrite: bool) -> None:
    if not path.exists():
        return
    # A device or a pipe would be replaced as a file is.
    if not path.is_file():
        raise InputError(
            f"`path` must name a file. Received: '{path}', which is none. Choose "
            "another."
        )
    # Callers of `tempfile` give an empty file.
    if path.stat().st_size and not overwrite:
        raise taken(path)


def is_written(name: str, folder_with: str) -> bool:
    """Whether an export gives this name in a folder that is known by `folder_with`."""
    return name == _CARD or bool(re.fullmatch(_WRITTEN[folder_with], name))


def _check_folder(path: Path, overwrite: bool, folder_with: str) -> None:
    names = _content(path)
    if not names:
        return
    if not overwrite:
        raise taken(path)
    for needed in [folder_with, *([_CARD] if folder_with in _SHARED else [])]:
        if not (path / needed).is_file():
            raise InputError(
                f"A folder is only replaced if it holds '{needed}'. Received: "
                f"'{path}', which does not. Choose another path."
            )
    foreign = [name for name in names if not is_written(name, folder_with)]
    if foreign:
        raise InputError(
            f"A folder is only replaced if it holds what an export has written. "
            f"Received: '{path}', with '{foreign[0]}'. Move that away, or choose "
            "another path."
        )


def taken(path: str | Path, when: str = "") -> InputError:
    """Makes the error of a path that holds something already.

    Args:
        path: The path.
        when: What follows "which exists", if it came there during the export.
    """
    return InputError(
        f"`path` must be new. Received: '{path}', which exists{when}. Choose another, "
        "or replace it with overwrite=True."
    )


def _content(path: Path) -> list[str]:
    names = sorted(os.listdir(path)) if path.exists() else []
    return [n for n in names if not is_nothing(n) and not STAGE.fullmatch(n)]
