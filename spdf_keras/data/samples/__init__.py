"""Corpora that a first run needs no download for."""
