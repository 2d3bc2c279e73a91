"""The native library as TensorFlow operations."""
