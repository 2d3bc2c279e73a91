"""Models of other libraries: read them, and write what they read."""
