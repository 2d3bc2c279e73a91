"""The one door to Keras: `from spdf_keras.keras2 import keras`.

tensorflow-model-optimization wraps Keras 2 layers only, while TensorFlow and
KerasNLP take Keras 3 unless `TF_USE_LEGACY_KERAS=1` is set before either is used.
A mixture of the two fails late or silently. The package therefore sets the variable
when it is imported (`spdf_keras/__init__.py`), and this module raises an error if that
came too late.
"""

import contextlib
import os
from typing import Any

from spdf_keras.errors import InputError

_SWITCH = "TF_USE_LEGACY_KERAS"

if os.environ.get(_SWITCH, "1").strip().lower() not in ("1", "true"):
    raise ImportError(
        f"spdf_keras needs Keras 2. Received: {_SWITCH}={os.environ[_SWITCH]}. "
        f"Unset it, or set {_SWITCH}=1."
    )
os.environ[_SWITCH] = "1"
# TensorFlow uses its faster matrix products by default only on processors with AVX-512.
# With AVX2 alone they make a training step of GPT-2 Small 1.4 times faster.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import tensorflow as tf  # noqa: E402
import tf_keras as keras  # noqa: E402

# `tf.keras` is bound at its first use, which may precede this import. The module is
# named "keras" in both cases; only Keras 3 has the function `version`.
if hasattr(tf.keras, "version"):
    raise ImportError(
        "spdf_keras needs Keras 2, but TensorFlow is already using Keras "
        f"{tf.keras.version()}. Import spdf_keras first, or set {_SWITCH}=1 before "
        "Python starts."
    )

__all__ = ["keras", "named_after", "refuse_keras3"]


def named_after(layer: keras.layers.Layer) -> Any:
    """Returns the scope in which a layer's variables get its name.

    Keras opens this scope at a layer's first call, but not when a layer is built from
    a file. All blocks would then have variables of the same names, which TensorBoard
    could not tell apart.
    """
    if tf.get_current_name_scope().endswith(layer.name):
        return contextlib.nullcontext()
    return tf.name_scope(layer.name)


def refuse_keras3(**arguments: Any) -> None:
    """Refuses objects of Keras 3, which is imported as `keras`.

    Args:
        **arguments: Values by the name of the argument, also in lists and dicts.

    Raises:
        InputError: If the class of a value is, or derives from, one of Keras 3.
    """
    for name, value in arguments.items():
        for leaf in _leaves(value):
            kind = type(leaf) if not callable(getattr(leaf, "mro", None)) else leaf
            modules = [getattr(leaf, "__module__", None)]
            modules += [base.__module__ for base in kind.__mro__]
            if any(str(m).split(".")[0] == "keras" for m in modules):
                label = getattr(leaf, "__name__", kind.__name__)
                raise InputError(
                    f"`{name}` must be of Keras 2. Received: {label} of Keras 3. Take "
                    "it from tf_keras, or from tf.keras after `import spdf_keras`, "
                    "instead of `import keras`."
                )


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]
