"""Serves runs with the OpenAI completions protocol, and a page to try them.

Clients of OpenAI's protocol take `http://127.0.0.1:8000/v1` as base URL and any text as
key. The requests of all clients are decoded together. `/` is the page, `/healthz` tells
whether all runs decode, and `/metrics` has numbers for Prometheus.

The server asks for no key. It listens on this machine alone, unless --host says
otherwise.
"""

import os
from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import open_run
from spdf_keras.errors import InputError

HELP = "serve runs with the OpenAI completions protocol"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="folder of a run; NAME=FOLDER gives it another name than its folder's",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine alone)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        help="port to listen on; 0 takes a free one (default: 8000)",
    )
    parser.add_argument(
        "--slots",
        type=int,
        default=16,
        metavar="N",
        help="completions of a run that are decoded at once (default: 16)",
    )
    parser.add_argument(
        "--queue",
        type=int,
        default=256,
        metavar="N",
        help="completions of a run that may wait; more are answered with 429 "
        "(default: 256)",
    )
    parser.add_argument(
        "--body-bytes",
        type=int,
        default=1 << 20,
        metavar="N",
        help="largest body of a request; a larger one is answered with 413 "
        "(default: 1048576)",
    )


def run(args: Namespace) -> None:
    from spdf_keras.console import load_tensorflow, say
    from spdf_keras.serving.server import (
        check_packages,
        load_run,
        name_runs,
        open_port,
        run_server,
    )

    check_packages()
    for name in ("slots", "queue", "body_bytes"):
        if getattr(args, name) < 1:
            raise InputError(
                f"`{name}` must be at least 1. Received: {name}={getattr(args, name)}."
            )
    runs = {name: open_run(folder) for name, folder in name_runs(args.runs).items()}
    if all(source.config().train.precision == "float32" for source in runs.values()):
        # oneDNN compiles products and softmax for every size of a batch and keeps them,
        # which takes memory and saves no time in the float32 products of few tokens.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with open_port(args.host, args.port) as opened:
        load_tensorflow()
        from spdf_keras.serving.service import Limits

        served = {}
        for name, source in runs.items():
            served[name] = load_run(name, source, args.slots, args.queue)
            say(f"{name}: {served[name].about['description']}")
        if not opened.getsockname()[0].startswith("127.") and args.host != "::1":
            say("every machine that reaches this one can use the server without a key")
        host = f"[{args.host}]" if ":" in args.host else args.host
        print(f"serving on http://{host}:{opened.getsockname()[1]}", flush=True)
        run_server(served, opened, Limits(args.body_bytes))
