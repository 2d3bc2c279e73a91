"""Masks: drawing, applying, stripping and auditing them."""
