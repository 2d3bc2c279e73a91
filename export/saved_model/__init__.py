"""SavedModels from token ids or from text."""
