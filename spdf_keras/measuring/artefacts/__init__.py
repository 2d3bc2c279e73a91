"""Exported artefacts side by side: size, load time, memory, speed and error."""
