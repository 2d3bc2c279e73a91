"""Records of run folders, and groups of runs."""
