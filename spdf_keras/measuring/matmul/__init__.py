"""What zeros buy in one matrix product: speed-up against sparsity (Figure 1)."""
