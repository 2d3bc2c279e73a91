"""GPT-2's byte-level BPE, for bulk work and as TensorFlow operations."""
