"""Decodes a task's inputs with a model and scores the outputs as its papers do."""
