"""Scores as the official programs compute them, one file per metric.

`protocols` names what each challenge runs, and `measures` the scores of a protocol.
"""
