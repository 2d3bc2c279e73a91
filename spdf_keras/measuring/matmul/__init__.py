"""One matrix product: speed-up against sparsity (Figure 1 of the paper)."""
