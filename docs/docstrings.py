"""Reads `Example:` in docstrings as code, as griffe does with `Examples:` alone."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Gives the section of examples the name that griffe knows."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Renames the section of one docstring."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = text.replace("\nExample:\n", "\nExamples:\n")
