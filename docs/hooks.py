"""Hands the generated reference to MkDocs."""

import importlib.util
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

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


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Gives a report the whole width of the site, because its tables are wide."""
    if page.file.src_uri.endswith("/report.md"):
        page.meta["hide"] = ["navigation", "toc"]
    return markdown
