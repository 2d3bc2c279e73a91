"""Loads the native library as TensorFlow operations."""

import functools
from typing import Any

from spdf_keras.native.build import NotBuiltError, library_path


@functools.cache
def load_operations() -> Any:
    """Loads the TensorFlow operations; the first use on a machine compiles them.

    Returns:
        A module with the operations, such as `spdf_sparse_linear`.

    Raises:
        NotBuiltError: If there is no C++ compiler, or it fails.
    """
    import tensorflow as tf

    library = library_path("tensorflow")
    try:
        return tf.load_op_library(str(library))
    except tf.errors.NotFoundError as error:
        raise NotBuiltError(f"Cannot load '{library}': {error.message}") from error
