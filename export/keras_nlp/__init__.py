"""Exports to presets of KerasNLP."""
