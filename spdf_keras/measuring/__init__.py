"""Measurements in turns, and those of exported artefacts and of matrix products."""
