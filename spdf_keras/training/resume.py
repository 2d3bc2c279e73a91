"""What a run that goes on may differ in from how it was started."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from spdf_keras.config import Config
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.training.run import Run

# Settings of a training that do not change what its steps compute.
_FREE = (
    "checkpoint_every",
    "keep_checkpoints",
    "validate_every",
    "micro_batches",
    "recompute",
)


def check_kind(run: Run, kind: str) -> None:
    """Refuses a folder whose run is of another kind.

    Raises:
        InputError: If it is.
    """
    found = run.origin().get("kind", kind)
    if found != kind:
        raise InputError(
            f"The folder '{run.folder}' is in use: choose another. It holds the run "
            f"of a {found}, and this command makes that of a {kind}."
        )


def check_settings(
    run: Run, config: Config, section: str, ignore: tuple[str, ...] = ()
) -> None:
    """Refuses settings by which a run would not go on as it was started.

    Args:
        run: A run with checkpoints.
        config: The settings that were given.
        section: The table of the training: `train` or `finetune`.
        ignore: Settings of that table that the caller compares.

    Raises:
        InputError: If one is another; the message names it.
    """
    for table, key, before, now in _changes(run.config(), config):
        free = table == section and key in (*_FREE, *ignore)
        if table in ("model", "sparsity", "train", section) and not free:
            raise InputError(
                f"The run '{run.folder}' was started with {table}.{key}={before}. "
                f"Received: {table}.{key}={now}. Give the same settings to go on with "
                "it, or another folder."
            )


def describe_changes(run: Run, config: Config) -> list[str]:
    """A sentence for each setting that is another one from now on."""
    return [
        f"{table}.{key} is {now} from here on; it was {before}."
        for table, key, before, now in _changes(run.config(), config)
    ]


def check_tokenizer(run: Run, tokenizer: Tokenizer, source: Any) -> None:
    """Refuses another tokenizer than the run was started with.

    Raises:
        InputError: If `tokenizer`, that of `source`, is another.
    """
    if run.tokenizer().fingerprint != tokenizer.fingerprint:
        raise InputError(
            f"The run '{run.folder}' was started with another tokenizer than that of "
            f"'{source}'. Give the same one, or another folder."
        )


def _changes(before: Config, now: Config) -> Iterator[tuple[str, str, Any, Any]]:
    old, new = dataclasses.asdict(before), dataclasses.asdict(now)
    for table, settings in new.items():
        for key, value in settings.items():
            if old[table][key] != value:
                yield table, key, old[table][key], value
