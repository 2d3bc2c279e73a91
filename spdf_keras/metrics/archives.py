"""Reads tables from the Java archives that the package pycocoevalcap brings.

The official E2E script runs these archives of METEOR and Stanford CoreNLP with Java.
Only their tables are read here. The package is found but not imported, because its
modules start programs.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from spdf_keras.errors import InputError


@cache
def official_file(path: str) -> Path:
    """Finds a file of the installed pycocoevalcap.

    Args:
        path: Its place in the package, separated by `/`.

    Raises:
        InputError: If the package is not installed or lacks the file.

    Example:
        >>> official_file("meteor/meteor-1.5.jar").name
        'meteor-1.5.jar'
    """
    spec = find_spec("pycocoevalcap")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        file = Path(folder) / path
        if file.is_file():
            return file
    raise InputError(
        f"The tables of the official scorers must be installed; {path!r} of the "
        "package pycocoevalcap was not found: pip install pycocoevalcap==1.2"
    )


def read_member(archive: str, member: str) -> bytes:
    """Reads one member of an archive of pycocoevalcap.

    Args:
        archive: Place of the archive in the package.
        member: Name of the member in it.

    Raises:
        InputError: If the archive is missing, damaged or lacks the member.
    """
    file = official_file(archive)
    try:
        with ZipFile(file) as members:
            return members.read(member)
    except (BadZipFile, KeyError) as error:
        raise InputError(
            f"The archive {file} must have a whole member {member!r}; install its "
            "package again: pip install --force-reinstall pycocoevalcap==1.2"
        ) from error
