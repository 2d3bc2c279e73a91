"""The tokenisations of the official programs."""
