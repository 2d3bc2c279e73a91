"""Writes the content of a report as HTML, Markdown and pictures."""
