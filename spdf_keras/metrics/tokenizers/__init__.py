"""The tokenisations of the official scorers."""
