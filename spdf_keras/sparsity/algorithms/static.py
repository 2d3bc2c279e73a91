"""Static sparsity: masks are drawn at random once and never change (the paper's)."""

from spdf_keras.sparsity.algorithms.base import SparsityMethod


class Static(SparsityMethod):
    """Masks that never change.

    Reference:
        [Thangarasa et al., 2023](https://arxiv.org/abs/2303.10464), appendix
        A.1, "Sparsity Setup".
    """
