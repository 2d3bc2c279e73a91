"""A whole training step in all its modes, beside those of other libraries."""
