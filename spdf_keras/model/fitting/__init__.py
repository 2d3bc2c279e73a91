"""The parts of `fit`: data, checks, loss, callbacks."""
