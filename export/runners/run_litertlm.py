"""Runs an exported `.litertlm` bundle; needs litert-lm-api alone.

    python run_litertlm.py MODEL.litertlm --prompt "I am" --max-new-tokens 16

`--prompt` may be repeated: each prompt gets a session of its own. It prints one JSON
object with the continuations. Unlike `litert-lm run`, it leaves no cache of unpacked
weights beside the bundle. A file that cannot be used ends it with one sentence and exit
status 2.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import litert_lm


class RunError(ValueError):
    """The bundle cannot be used; the message is one sentence."""


def continue_texts(
    path: str | Path, prompts: Sequence[str], max_new_tokens: int = 16
) -> list[str]:
    """Continues texts with the likeliest tokens, as the bundle's metadata say.

    Args:
        path: The bundle.
        prompts: One text per session. The bundle's prompt template is put around it.
        max_new_tokens: Largest number of tokens to add to each.

    Returns:
        The continuations, without what ends them.

    Raises:
        RunError: If the runtime does not take the bundle or a prompt.
    """
    if not Path(path).is_file():
        raise RunError(f"There is no file '{path}'.")
    texts = []
    try:
        with litert_lm.Engine(str(path), cache_dir=":nocache") as engine:
            for prompt in prompts:
                with engine.create_session(max_output_tokens=max_new_tokens) as session:
                    session.run_prefill([prompt])
                    texts.append(session.run_decode().texts[0])
    except (RuntimeError, IndexError) as error:
        raise RunError(f"LiteRT-LM does not run '{path}': {error}.") from error
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Runs an exported .litertlm bundle.")
    parser.add_argument("bundle", help="the .litertlm file")
    parser.add_argument("--prompt", action="append", required=True, help="a text")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    options = parser.parse_args(arguments)
    # The runtime prints notes to both streams, so the result gets a copy of the first.
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
    try:
        texts = continue_texts(options.bundle, options.prompt, options.max_new_tokens)
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({"texts": texts}), file=result, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
