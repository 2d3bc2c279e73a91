"""From text to token ids: tokenizer, shards, fine-tuning tasks."""
