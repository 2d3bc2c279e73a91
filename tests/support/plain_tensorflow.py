"""Code that runs in TensorFlow alone, in a process of its own."""

import json
import os
import subprocess
import sys
from typing import Any


def in_plain_tensorflow(code: str, *arguments: str) -> dict[str, Any]:
    """Runs code that prints one JSON object, with its modules under `loaded`."""
    # Ours, by which TensorFlow itself would load tf_keras.
    plain = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=plain,
    )
    assert done.returncode == 0, done.stderr
    result = dict(json.loads(done.stdout.splitlines()[-1]))
    ours = {"spdf_keras", "tf_keras", "keras_nlp", "tensorflow_model_optimization"}
    assert not (ours | {"tensorflow_text"}) & set(result["loaded"])
    return result
