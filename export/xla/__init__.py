"""XLA programs (StableHLO), with weights beside them."""
