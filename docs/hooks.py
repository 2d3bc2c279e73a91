"""Hands the generated reference to MkDocs."""

import importlib.util
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_SPEC = importlib.util.spec_from_file_location(
    "reference", Path(__file__).with_name("reference.py")
)
assert _SPEC is not None and _SPEC.loader is not None
reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that `reference.py` writes."""
    for place, text in reference.pages().items():
        files.append(File.generated(config, place, content=text))
    return files
