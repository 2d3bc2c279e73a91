"""Records where a number comes from: command, versions, hardware, time."""

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "tensorflow",
    "tf_keras",
    "tensorflow-model-optimization",
    "keras-nlp",
    "tokenizers",
    "sacrebleu",
    "numpy",
)


def provenance() -> dict[str, Any]:
    """Returns `command`, `versions`, `hardware` and `started`, to record with a result.

    Accelerators are listed only if TensorFlow is loaded already.
    """
    return {
        "command": _command(),
        "versions": _versions(),
        "hardware": _hardware(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _command() -> str:
    """Returns the command line, or the program that ran from Python."""
    program = Path(sys.argv[0] or "python").name
    if program == "__main__.py":
        program = "spdf-keras"
    return shlex.join([program, *sys.argv[1:]])


def _versions() -> dict[str, str]:
    from spdf_keras import __version__

    found = {"python": platform.python_version(), "spdf_keras": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _hardware() -> dict[str, Any]:
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory_gib = round(pages / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # some systems do not have them
        memory_gib = None
    accelerators = []
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        for device in tf.config.list_physical_devices():
            if device.device_type != "CPU":
                details = tf.config.experimental.get_device_details(device)
                accelerators.append(details.get("device_name", device.device_type))
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": memory_gib,
        "accelerators": accelerators,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.processor()
