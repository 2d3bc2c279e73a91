"""Scores, one file per metric."""
