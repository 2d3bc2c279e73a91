"""Continuations of prompts, with a key-value cache."""
