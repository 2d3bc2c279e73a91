"""The one door to Keras: `from spdf_keras.keras2 import keras`.

tensorflow-model-optimization wraps Keras 2 layers only, while TensorFlow and
KerasNLP take Keras 3 unless `TF_USE_LEGACY_KERAS=1` is set before either is
imported. Mixed up, the two fail late or silently, so this module sets the
variable first and refuses to go on where it comes too late.
"""

import os

_SWITCH = "TF_USE_LEGACY_KERAS"

if os.environ.get(_SWITCH, "1").strip().lower() not in ("1", "true"):
    raise ImportError(
        f"spdf_keras needs Keras 2. Received: {_SWITCH}={os.environ[_SWITCH]}. "
        f"Unset it, or set {_SWITCH}=1."
    )
os.environ[_SWITCH] = "1"
# TensorFlow takes its faster matrix products of itself only where the processor has
# AVX-512; with AVX2 alone a training step of GPT-2 Small is 1.4 times faster so.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import tensorflow as tf  # noqa: E402
import tf_keras as keras  # noqa: E402

# `tf.keras` is bound at its first use, which may lie before this import. The
# module's name says "keras" either way; only Keras 3 has the function `version`.
if hasattr(tf.keras, "version"):
    raise ImportError(
        "spdf_keras needs Keras 2, but TensorFlow is already using Keras "
        f"{tf.keras.version()}. Import spdf_keras first, or set {_SWITCH}=1 before "
        "Python starts."
    )

__all__ = ["keras"]
