"""Checks the settings of a run that goes on against those it was started with."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from spdf_keras.config import Config
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError
from spdf_keras.training.run import Run

# These settings do not change the result of a step.
_FREE = (
    "checkpoint_every",
    "keep_checkpoints",
    "validate_every",
    "micro_batches",
    "recompute",
    "kept_moments",
)


def check_kind(run: Run, kind: str) -> None:
    """Refuses a folder whose run is of another kind.

    Raises:
        InputError: If its kind is another.
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
    """Refuses settings that would change the steps of a run that goes on.

    Args:
        run: A run with checkpoints.
        config: The new settings.
        section: The table of the training: `train` or `finetune`.
        ignore: Settings of that table that the caller checks itself.

    Raises:
        InputError: If a setting differs; the message names it.
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
    """Returns a sentence for each setting that changes from now on."""
    return [
        f"{table}.{key} is {now} from here on; it was {before}."
        for table, key, before, now in _changes(run.config(), config)
    ]


def check_tokenizer(run: Run, tokenizer: Tokenizer, source: Any) -> None:
    """Refuses a tokenizer that differs from the one that the run was started with.

    Raises:
        InputError: If `tokenizer`, which belongs to `source`, differs.
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
