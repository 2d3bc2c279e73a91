"""Token shards: the folder that pre-training reads."""
