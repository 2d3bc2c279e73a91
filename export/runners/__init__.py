"""Programs that run exports; none of them imports this package.

Each works when it is copied alone, so what two of them need stands in both.
`run_tflite.py` reads text with `plain_tokenizer.py` beside it, and `measure.py` needs
the runner of the artefact beside it.
"""
