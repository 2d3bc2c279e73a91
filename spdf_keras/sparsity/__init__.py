"""Masks: draw them, keep them, strip them, report them."""
