"""Exports to the layout of Hugging Face, which transformers loads."""
