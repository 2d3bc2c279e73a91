"""Runs, beside what the paper prints, as one page."""
