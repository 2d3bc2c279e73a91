"""Products that skip the zeros of fixed masks, on CPUs."""
