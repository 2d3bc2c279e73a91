"""Optimizer, schedules, runs, checkpoints, pre-training and fine-tuning."""
