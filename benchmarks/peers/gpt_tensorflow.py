"""Training steps of this package and of KerasNLP, one at a time.

    python gpt_tensorflow.py '{"program": "ours", "precision": "float32", ...}'

`benchmarks/step.py` starts it, and talks to it as `spdf_keras.measuring.step.worker`
says.
"""

import json
import sys
import time
from typing import Any

import numpy as np
from gpt_keras_nlp import compiled_gpt2  # type: ignore[import-not-found]

from spdf_keras import GPTConfig, build_gpt
from spdf_keras.keras2 import keras
from spdf_keras.training.work import matrix_peak

import tensorflow as tf  # isort: skip


def ours(settings: dict[str, Any], tokens: Any) -> tuple[Any, Any, str]:
    """Makes our model, its data, and the name of its loss."""
    sizes = GPTConfig(**settings["sizes"])
    model = build_gpt(sizes, settings["sparsity"], **settings["train"])
    return model, (tokens[:, :-1], tokens[:, 1:]), "batch_loss"


def keras_nlp(settings: dict[str, Any], tokens: Any) -> tuple[Any, Any, str]:
    """Makes KerasNLP's model without dropout, its data, and the name of its loss."""
    keras.mixed_precision.set_global_policy(settings["train"]["precision"])
    if settings["precision"] == "bfloat16":
        # Its attention fails without it, and TensorFlow's error names this way out.
        tf.experimental.numpy.experimental_enable_numpy_behavior()
    jit_compile = settings["train"]["jit_compile"]
    sizes, in_parts = GPTConfig(**settings["sizes"]), len(tokens) > 1
    model = compiled_gpt2(sizes, jit_compile, in_parts)
    inputs = tokens[:, :-1]
    x = {"token_ids": inputs, "padding_mask": np.ones_like(inputs)}
    return model, (x, tokens[:, 1:]), "loss"


def main() -> None:
    """Takes steps until the input ends, or says why it cannot."""
    try:
        run(json.loads(sys.argv[1]))
    except Exception as error:  # its sentence is told, not the end of a traceback
        # Keras and PyTorch put the places of an error before or after its sentence.
        text = str(error).rpartition("Error: ")[2].splitlines()
        lines = [line.strip() for line in text if line.strip()][:2]
        sentence = f"{type(error).__name__}: {' '.join(lines)}"
        print(json.dumps({"error": sentence}), flush=True)


def run(settings: dict[str, Any]) -> None:
    """Takes a step, or measures the peak, for each line of the input."""
    tokens = np.asarray(settings["tokens"], np.int32)
    make = {"ours": ours, "keras_nlp": keras_nlp}[settings["program"]]
    model, data, loss = make(settings, tokens)
    # The function that `fit` calls for each batch.
    function = model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(data).repeat())
    versions = {"TensorFlow": tf.__version__}
    if settings["program"] == "keras_nlp":
        import keras_nlp as library

        versions["KerasNLP"] = library.__version__
    print(json.dumps({"ready": versions}), flush=True)
    for line in sys.stdin:
        if line.strip() == "peak":
            peak = matrix_peak(settings["precision"], 2048, repeats=3)
            print(json.dumps({"peak": peak}), flush=True)
            continue
        start = time.perf_counter()
        model.reset_metrics()
        value = float(function(batches)[loss].numpy())
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "loss": value}), flush=True)


if __name__ == "__main__":
    main()
