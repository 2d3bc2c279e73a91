"""Counts of n-grams and of edits, for many texts at once."""
