"""Which runtimes make use of an artefact's zeros, and which do not, and why.

What is said was measured, or read in the source, with the versions that `setup.py`
names; `docs/results/export.md` has the figures. A smaller file is not a faster one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """What a runtime does with the zeros of an artefact.

    Attributes:
        name: The runtime.
        skips_zeros: Whether it leaves out their products.
        reason: Why, or why not, in one sentence.
    """

    name: str
    skips_zeros: bool
    reason: str


SAVED_MODEL_RUNTIMES = (
    Runtime(
        "TensorFlow, CPU and GPU",
        False,
        "Its products are dense: zeros are stored and multiplied like any weight.",
    ),
)

TFLITE_DENSE_RUNTIMES = (
    Runtime(
        "LiteRT, CPU (XNNPACK)",
        False,
        "Zeros are stored, and its fully connected kernels are dense; its sparse "
        "ones are for image models (NCHW) alone.",
    ),
    Runtime("LiteRT, GPU", False, "Zeros are stored, and its kernels are dense."),
)

TFLITE_SPARSE_RUNTIMES = (
    Runtime(
        "LiteRT, CPU (XNNPACK)",
        False,
        "DENSIFY is unpacked once, at load, and dense kernels multiply the zeros.",
    ),
    Runtime(
        "LiteRT, CPU (built-in kernels)",
        False,
        "DENSIFY is unpacked once. Its sparse kernel needs blocks of 1x4 and more, "
        "which random masks do not have, and is slower than dense below 90 %.",
    ),
    Runtime(
        "LiteRT, GPU", False, "DENSIFY is folded to a dense weight when it is built."
    ),
)

XLA_RUNTIMES = (
    Runtime(
        "XLA, CPU (JAX)",
        False,
        "StableHLO's products are dense; kernels are unpacked, and zeros multiplied.",
    ),
    Runtime(
        "XLA, GPU (JAX)",
        False,
        "Dense products too; cuSPARSE is behind jax.experimental.sparse alone, and "
        "sparse tensor cores need two zeros in every four weights, not random ones.",
    ),
    Runtime(
        "Cerebras CS-2",
        True,
        "The paper's machine skips single zeros that its software streams; it takes "
        "these programs only through its own compiler, which was not tried.",
    ),
)
