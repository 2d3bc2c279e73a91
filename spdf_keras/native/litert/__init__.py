"""The native library as a delegate of LiteRT."""
