"""Sparsity algorithms, one file each: how the masks of a training come to be."""
