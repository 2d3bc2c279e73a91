"""Sparse pre-training and dense fine-tuning (SPDF) of GPT models with Keras.

    import spdf_keras

    model = spdf_keras.build_gpt("gpt_nano", sparsity=0.75)
    model.fit(dataset)                 # masked weights stay exactly zero
    dense = spdf_keras.strip(model)    # same outputs, every weight trainable

Importing the package loads neither TensorFlow nor Keras; the first use of a
name below does. The import makes TensorFlow use Keras 2, so that `tf.keras` is the
Keras of this package.
"""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spdf_keras.config import PRESETS, GPTConfig, SparsityConfig, TrainConfig
    from spdf_keras.config.methods import register_method
    from spdf_keras.interchange.huggingface.reader import from_huggingface
    from spdf_keras.interchange.keras_nlp.model import to_keras_nlp
    from spdf_keras.interchange.keras_nlp.reader import from_keras_nlp
    from spdf_keras.model.build import build_gpt, load_model
    from spdf_keras.model.gpt import GPT
    from spdf_keras.sparsity.algorithms.base import SparsityMethod
    from spdf_keras.sparsity.strip import strip

__version__ = "0.1.0"


def _take_keras2() -> None:
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    tensorflow, found = sys.modules.get("tensorflow"), find_spec("tf_keras")
    if tensorflow is None or found is None or "tensorflow.keras" in sys.modules:
        return
    # At its import, TensorFlow chose the folder for `import tensorflow.keras.x`.
    for folder in found.submodule_search_locations or ():
        place = os.path.join(folder, "api", "_v2")
        if place not in tensorflow.__path__:
            tensorflow.__path__.insert(0, place)


_take_keras2()

_HOMES = {
    "GPT": "spdf_keras.model.gpt",
    "GPTConfig": "spdf_keras.config",
    "PRESETS": "spdf_keras.config",
    "SparsityConfig": "spdf_keras.config",
    "SparsityMethod": "spdf_keras.sparsity.algorithms.base",
    "TrainConfig": "spdf_keras.config",
    "build_gpt": "spdf_keras.model.build",
    "from_huggingface": "spdf_keras.interchange.huggingface.reader",
    "from_keras_nlp": "spdf_keras.interchange.keras_nlp.reader",
    "load_model": "spdf_keras.model.build",
    "register_method": "spdf_keras.config.methods",
    "strip": "spdf_keras.sparsity.strip",
    "to_keras_nlp": "spdf_keras.interchange.keras_nlp.model",
}

__all__ = [
    "GPT",
    "PRESETS",
    "GPTConfig",
    "SparsityConfig",
    "SparsityMethod",
    "TrainConfig",
    "__version__",
    "build_gpt",
    "from_huggingface",
    "from_keras_nlp",
    "load_model",
    "register_method",
    "strip",
    "to_keras_nlp",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'spdf_keras' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
