"""Measures one artefact in a process of its own, on demand.

    python measure.py tflite MODEL.tflite [libspdf_delegate.so]

`spdf-keras benchmark` starts one such process per artefact and asks them in turns, so
that no artefact shares memory with another (`spdf_keras/measuring/artefacts/`). A
library skips the zeros of the artefact; without one they are multiplied. The program
lies beside the runners, which it uses; it needs nothing else of spdf_keras.

Each line of its input is an order, each line of its output the result, in JSON:
`{"load": true, "prompt": [1, 2]}` loads the artefact anew and generates two tokens, so
that all of it is ready; `{"prompt": [1, 2], "new_tokens": 32}` times a continuation.
"""

import gc
import json
import os
import resource
import sys
import time
from importlib import import_module
from typing import Any

RUNNERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "saved_model": ("run_saved_model", "SavedModel", {}),
    "tflite": ("run_tflite", "TFLiteModel", {"verify": False}),
    "xla": ("run_xla", "XLAModel", {"verify": False}),
}


# The time per token is a difference of two, which a busy machine can make negative.
_ATTEMPTS = 5


class MeasureError(ValueError):
    """The artefact cannot be measured so; the message is one sentence."""


class Measurer:
    """An artefact with its runner.

    Args:
        kind: A key of `RUNNERS`.
        path: File or folder of the artefact.
        library: The library that skips its zeros; empty for none.
    """

    def __init__(self, kind: str, path: str, library: str = "") -> None:
        module, name, options = RUNNERS[kind]
        self._options = {**options, "library": library}
        self._make = getattr(import_module(module), name)
        self._path = path
        self._model: Any = None
        # The memory of the runtime's own code does not count as the artefact's.
        self._bytes_before = _resident_bytes()

    def load(self, prompt: list[int]) -> dict[str, float]:
        """Loads the artefact until its programs have run.

        Raises:
            MeasureError: If it does not continue the prompt by two tokens.
        """
        self._model = None
        gc.collect()
        start = time.perf_counter()
        self._model = self._make(self._path, **self._options)
        token_ids = self._model.generate(prompt, 2)
        seconds = time.perf_counter() - start
        _check_count(prompt, token_ids)
        if self._options["library"] and not self._model.skips_zeros:
            raise MeasureError(f"Its zeros are not skipped. {self._model.products}")
        return {"load_s": seconds, "memory_bytes": _peak_bytes() - self._bytes_before}

    def generate(self, prompt: list[int], new_tokens: int) -> dict[str, Any]:
        """Times the first new token, and the tokens after it.

        Raises:
            MeasureError: If the artefact does not continue the prompt by two tokens,
                or the tokens after the first take no time that could be measured.
        """
        for _ in range(_ATTEMPTS):
            start = time.perf_counter()
            self._model.generate(prompt, 1)
            first = time.perf_counter() - start
            start = time.perf_counter()
            token_ids = self._model.generate(prompt, new_tokens)
            rest = time.perf_counter() - start - first
            _check_count(prompt, token_ids)
            if rest > 0:
                return {
                    "first_token_s": first,
                    "token_s": rest / (len(token_ids) - 1),
                    "memory_bytes": _peak_bytes() - self._bytes_before,
                    "token_ids": token_ids,
                }
        raise MeasureError(
            f"The {len(token_ids) - 1} tokens after the first take no longer than "
            "other load of this machine. Measure more `new_tokens`."
        )


def _check_count(prompt: list[int], token_ids: list[int]) -> None:
    if len(token_ids) < 2:
        raise MeasureError(
            f"It adds {len(token_ids)} of 2 tokens to a prompt of {len(prompt)}: its "
            "context has no room, or an end token came. Take fewer `prompt_tokens`."
        )


def _resident_bytes() -> int:
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return _peak_bytes()


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Serves orders until the input ends."""
    # Runtimes print notes to standard output, so the results get a copy of it.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        measurer = Measurer(*sys.argv[1:4])
    except Exception as error:  # its runtime is not installed
        print(json.dumps({"error": _sentence(error)}), file=results, flush=True)
        return
    print(json.dumps({"ready": True}), file=results, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            result: dict[str, Any]
            if order.get("load"):
                result = measurer.load(order["prompt"])
            else:
                result = measurer.generate(order["prompt"], order["new_tokens"])
        except Exception as error:  # the driver reports it in one sentence
            result = {"error": _sentence(error)}
        print(json.dumps(result), file=results, flush=True)


def _sentence(error: Exception) -> str:
    """Returns an error on one line; errors of the runners are sentences already."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    return text if kind in ("MeasureError", "RunError") else f"{kind}: {text[:300]}"


if __name__ == "__main__":
    main()
