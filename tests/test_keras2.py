"""Keras 2 is taken by whoever touches Keras first; Keras 3 is refused in a sentence."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from spdf_keras import build_gpt, strip
from spdf_keras.config import GPTConfig
from spdf_keras.errors import InputError
from spdf_keras.keras2 import keras, refuse_keras3
from spdf_keras.optimization.adamw import AdamW

BUILD = "; print(spdf_keras.build_gpt('gpt_nano', 0.5).sparsity)"


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    environment.pop("TF_USE_LEGACY_KERAS", None)
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "code",
    [
        "import spdf_keras, tensorflow as tf; E = tf.keras.callbacks.EarlyStopping",
        pytest.param(
            "import tensorflow as tf, spdf_keras; E = tf.keras.callbacks.EarlyStopping",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "import spdf_keras; "
            "from tensorflow.keras.callbacks import EarlyStopping as E",
            marks=pytest.mark.slow,
        ),
        "import tensorflow as tf, spdf_keras; "
        "from tensorflow.keras.callbacks import EarlyStopping as E",
        "import keras, spdf_keras, tensorflow as tf; "
        "E = tf.keras.callbacks.EarlyStopping",
    ],
)
def test_tf_keras_is_keras_2_once_the_package_is_imported(code: str) -> None:
    result = run(code + "; print(E.__module__.split('.')[0])" + BUILD)
    assert result.stdout.split() == ["tf_keras", "0.5"], result.stderr[-500:]


@pytest.mark.parametrize(
    "code",
    [
        "import tensorflow as tf; tf.keras.layers; import spdf_keras",
        "from tensorflow.keras.layers import Dense; import spdf_keras",
    ],
)
def test_a_bound_keras_3_is_refused_in_one_sentence(code: str) -> None:
    last = run(code + BUILD).stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: spdf_keras needs Keras 2, but TensorFlow is")
    assert "Import spdf_keras first" in last


@pytest.fixture(scope="module")
def keras3() -> Any:
    return importlib.import_module("keras")


REFUSED: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("callbacks", lambda k, m: m.fit(None, callbacks=[k.callbacks.TerminateOnNaN()])),
    ("callbacks", lambda k, m: m.fit(None, callbacks=k.callbacks.CallbackList())),
    ("callbacks", lambda k, m: m.evaluate(None, callbacks=[k.callbacks.History()])),
    ("callbacks", lambda k, m: m.predict(None, callbacks=k.callbacks.History())),
    ("callbacks", lambda k, m: m.fit(None, None, 1, 1, 0, [k.callbacks.History()])),
    ("optimizer", lambda k, m: m.compile(k.optimizers.AdamW(1e-3))),
    ("optimizer", lambda k, m: m.compile(optimizer=k.optimizers.SGD())),
    ("loss", lambda k, m: m.compile("adam", k.losses.MeanSquaredError())),
    ("loss", lambda k, m: m.compile("adam", loss=k.losses.mean_squared_error)),
    ("metrics", lambda k, m: m.compile("adam", metrics=[k.metrics.Mean()])),
    (
        "weighted_metrics",
        lambda k, m: m.compile("adam", weighted_metrics={"logits": k.metrics.Mean}),
    ),
    (
        "learning_rate",
        lambda k, m: AdamW(k.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)),
    ),
    ("model", lambda k, m: strip(k.Sequential([k.layers.Dense(2)]))),
    ("model", lambda k, m: build_gpt(k.Sequential())),
]


@pytest.mark.parametrize(("argument", "use"), REFUSED)
def test_objects_of_keras_3_are_refused(
    keras3: Any, tiny: GPTConfig, argument: str, use: Callable[[Any, Any], Any]
) -> None:
    model = build_gpt(tiny, 0.5)
    with pytest.raises(
        InputError,
        match=f"`{argument}` must be of Keras 2. Received: .* of Keras 3. Ta",
    ):
        use(keras3, model)
    assert isinstance(model.optimizer, AdamW)  # it stays compiled as it was


def test_a_users_subclass_of_keras_3_is_refused_and_one_of_keras_2_is_not(
    keras3: Any,
) -> None:
    class Mine(keras3.callbacks.Callback):
        pass

    class Good(keras.callbacks.Callback):
        pass

    with pytest.raises(InputError, match="Received: Mine of Keras 3"):
        refuse_keras3(callbacks=[Good(), Mine()])
    data = tf.data.Dataset.range(3)
    refuse_keras3(a=None, b="adam", c=[1, 2.0], d=Good, e=np.mean, f=data, g=len)


def test_what_is_no_model_cannot_be_stripped() -> None:
    with pytest.raises(
        InputError, match="`model` must be a Keras model. Received: int"
    ):
        strip(3)
