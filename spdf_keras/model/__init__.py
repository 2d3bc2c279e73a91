"""The GPT: embeddings, decoder block, functional model, generation."""
