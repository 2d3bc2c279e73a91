"""TFLite files, dense or sparse-encoded."""
