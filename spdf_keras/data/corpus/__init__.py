"""Documents out of the files of a corpus."""
