"""What was run: records of run folders, and groups of them."""
