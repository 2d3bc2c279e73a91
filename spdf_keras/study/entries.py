"""Entries of `[study]`: a name, and the settings in which it differs."""

import re
import shlex
from collections.abc import Sequence

from spdf_keras.config.toml import parse_override
from spdf_keras.errors import InputError
from spdf_keras.values import listed

# Names of folders and files that a study has of its own.
_TAKEN = re.compile(r"s\d.*|shards|report|config\.toml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def parse_entry(
    setting: str, text: str, sections: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """Parses an entry such as `rigl: sparsity.method=rigl sparsity.interval=50`.

    Args:
        setting: The setting that has the entry, for the error.
        text: The entry. A value with a space in it stands in quotes.
        sections: The tables whose settings it may give.

    Returns:
        The name and the lines.

    Raises:
        InputError: If it has another form, or gives a setting that is not its own.

    Example:
        >>> parse_entry("study.tasks", "dart: finetune.epochs=3", ["finetune"])
        ('dart', ('finetune.epochs=3',))
    """
    name, _, rest = text.partition(":")
    name = name.strip()
    if not _NAME.fullmatch(name) or _TAKEN.fullmatch(name):
        raise InputError(
            f"An entry of `{setting}` must begin with a name of letters, digits, `-` "
            "and `_`, which is no sparsity such as s75, no `shards` and no `report`. "
            f"Received: '{text}'."
        )
    try:
        lines = shlex.split(rest)
    except ValueError as error:
        raise InputError(
            f"An entry of `{setting}` must close its quotes. Received: '{text}'."
        ) from error
    for line in lines:
        section, key, _ = parse_override(line)
        if section not in sections or key in ("seed", "preset"):
            own = listed([f"`[{section}]`" for section in sections])
            raise InputError(
                f"An entry of `{setting}` must give settings of {own}, and neither "
                f"seed nor preset. Received: {section}.{key} in '{text}'."
            )
    return name, tuple(lines)
