"""Measurements in turns: exported artefacts, matrix products."""
