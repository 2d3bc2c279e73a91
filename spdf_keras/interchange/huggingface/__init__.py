"""The layout of a GPT-2 checkpoint of Hugging Face, a module per file of it."""
