"""Fine-tuning tasks, one file per corpus."""
