"""How fast is a server beside `generate` one by one, and does it stand load?

    python benchmarks/serve.py speed
    python benchmarks/serve.py load --clients 64 --seconds 60

Both start a server of a model with random weights on loopback. `speed` compares clients
of the server with `generate` of the same prompts one by one; both take turns. `load`
sends requests of mixed lengths from many clients, some of which leave before the end,
and some of which send something that is no request; it counts answers by kind, and
looks at the memory of the server. It exits with status 1 if a request was lost or
answered wrongly.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

from spdf_keras.console import print_json
from spdf_keras.measuring.turns import Spread, ratios, time_in_turns
from spdf_keras.provenance import provenance

# No sentence of a request: the body, and the status of its answer.
MALFORMED = {
    b"{": 400,
    b'{"prompt": "a", "n": 0}': 400,
    b'{"prompt": "a", "best_of": 3}': 400,
    b'{"prompt": "a", "model": "none"}': 404,
    b'{"prompt": "a", "max_tokens": 100000}': 400,
    b'"' + b"a" * (2 << 20) + b'"': 413,
}


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", choices=["speed", "load"])
    parser.add_argument("--model", default="gpt_mini")
    parser.add_argument("--sparsity", type=float, default=0.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[16])
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "model", args.model, args.sparsity)
        with serving(run) as (port, process):
            measure: Any = speed if args.question == "speed" else load
            results = measure(args, run, port, process)
    print_json({**vars(args), **provenance(), "results": results})
    if args.question == "load" and results["wrong"]:
        sys.exit(1)


def make_run(folder: Path, preset: str, sparsity: float) -> Path:
    """Writes a run whose model has random weights."""
    from spdf_keras import PRESETS, build_gpt
    from spdf_keras.config import Config, SparsityConfig, TrainConfig
    from spdf_keras.data.samples.restaurants import pretraining_text
    from spdf_keras.data.tokenizers.bpe import Tokenizer
    from spdf_keras.training.checkpoint import save_checkpoint
    from spdf_keras.training.run import Run

    sizes = PRESETS[preset].model
    texts = pretraining_text(2000, seed=0)
    tokenizer = Tokenizer.train(texts, sizes.vocabulary_size)
    compute = "sparse" if sparsity else "dense"
    config = Config(
        model=sizes,
        sparsity=SparsityConfig(sparsity),
        train=TrainConfig(compute=compute),
    )
    run = Run.create(folder, config, tokenizer, {"kind": "pretrain"})
    model = build_gpt(sizes, sparsity, compute=compute)
    save_checkpoint(model, run.checkpoint_folder, 1, keep=1)
    run.finish({})
    return folder


@contextlib.contextmanager
def serving(run: Path) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """Starts the server; yields its port and its process."""
    command = [sys.executable, "-m", "spdf_keras", "serve", str(run), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield int(process.stdout.readline().rpartition(":")[2]), process
    finally:
        process.terminate()
        process.wait()


def post(port: int, body: Any) -> tuple[int, Any]:
    """Sends one request and returns the whole answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    with contextlib.closing(connection):
        kind = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", content, kind)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def speed(
    args: argparse.Namespace, run: Path, port: int, process: Any
) -> list[dict[str, Any]]:
    """Compares clients with `generate` one by one, for prompts without an end token."""
    from spdf_keras.training.run import Run

    model, rng = Run(run).load_model(), np.random.default_rng(0)
    most = max(args.clients)
    shape = (most, args.prompt_tokens)
    prompts = rng.integers(1, model.embedding.vocabulary_size, shape).tolist()
    tokens = args.new_tokens

    def one_by_one() -> None:
        for prompt in prompts:
            model.generate([prompt], max_new_tokens=tokens)

    def request(prompt: list[int]) -> None:
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0}
        status, answer = post(port, body)
        assert status == 200 and answer["choices"][0]["finish_reason"] == "length"

    def together(clients: int) -> None:
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(request, prompts))

    calls: dict[int, Any] = {
        0: one_by_one,
        **{n: partial(together, n) for n in args.clients},
    }
    seconds = time_in_turns(calls, args.rounds)
    results = []
    for clients, times in seconds.items():
        rate = Spread.of([most * tokens / t for t in times])
        ratio = ratios(seconds[0], times)
        results.append({"clients": clients, "rate": vars(rate), "ratio": vars(ratio)})
        name = f"{clients:3} clients" if clients else "generate, one by one"
        print(f"{name:22}{rate.show(form='.0f', unit=' tokens/s')}  ", end="")
        print(f"speed over one by one {ratio.show(form='.2f', unit='x')}")
    return results


def load(
    args: argparse.Namespace, run: Path, port: int, process: Any
) -> dict[str, Any]:
    """Sends mixed requests from many clients at once, and counts the answers."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    lock, end = threading.Lock(), time.monotonic() + args.seconds

    def client(number: int) -> None:
        choose = random.Random(number)
        while time.monotonic() < end:
            kind = choose.choices(
                ["whole", "stream", "leave", "malformed"], [5, 3, 1, 1]
            )
            try:
                problem = SENDERS[kind[0]](port, choose)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            with lock:
                counts[kind[0]] += 1
                if problem:
                    wrong.append(f"{kind[0]}: {problem}")

    memory: list[tuple[float, float]] = []
    start = time.monotonic()
    threads = [
        threading.Thread(target=client, args=(number,))
        for number in range(max(args.clients))
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append((time.monotonic() - start, resident_mb(process.pid)))
        time.sleep(1)
    metrics = read_metrics(port)
    left = metrics["spdf_active"] + metrics["spdf_waiting"]
    if metrics["spdf_failed_total"] or left:
        wrong.append(f"at the end {left} completions are left")
    third = len(memory) // 3
    print(f"{sum(counts.values())} requests: {dict(counts)}")
    print(f"{len(wrong)} answered wrongly or lost: {wrong[:5]}")
    print(
        f"memory in MB: {memory[third][1]:.0f} after a third of the time, "
        f"{max(mb for _, mb in memory):.0f} at most, {memory[-1][1]:.0f} at the end"
    )
    rate = metrics["spdf_tokens_total"] / memory[-1][0]
    print(f"{rate:.0f} tokens/s, {metrics['spdf_cancelled_total']:.0f} cancelled")
    return {"counts": counts, "wrong": wrong, "memory_mb": memory, "metrics": metrics}


def mixed(choose: random.Random, **more: Any) -> dict[str, Any]:
    """A request of random length."""
    return {
        "prompt": [choose.randrange(1, 257) for _ in range(choose.randrange(1, 200))],
        "max_tokens": choose.randrange(1, 100),
        "temperature": choose.choice([0, 0.7, 1]),
        "top_p": choose.choice([1, 0.9]),
        "n": choose.choice([1, 1, 1, 2]),
        "logprobs": choose.choice([None, 2]),
        "seed": choose.randrange(1000),
        **more,
    }


def whole(port: int, choose: random.Random) -> str:
    """A request that waits for its answer."""
    body = mixed(choose)
    status, answer = post(port, body)
    if status != 200:
        return f"{status} {answer}"
    ended = [choice["finish_reason"] for choice in answer["choices"]]
    tokens = answer["usage"]["completion_tokens"]
    full = tokens == body["n"] * body["max_tokens"] or "stop" in ended
    return "" if len(ended) == body["n"] and full else f"{answer}"


def stream(port: int, choose: random.Random) -> str:
    """A request that reads its answer as it comes."""
    body = mixed(choose, stream=True)
    with contextlib.closing(sent(port, body)) as connection:
        text = connection.getresponse().read()
    ends = text.count(b'"finish_reason": "')
    good = ends == body["n"] and text.endswith(b"data: [DONE]\n\n")
    return "" if good else text[-500:].decode()


def leave(port: int, choose: random.Random) -> str:
    """A client that closes its connection before the end."""
    body = mixed(choose, stream=choose.random() < 0.5, max_tokens=250)
    connection = sent(port, body)
    time.sleep(choose.random() / 2)
    connection.close()
    return ""


def malformed(port: int, choose: random.Random) -> str:
    """Something that is no request."""
    body, status = choose.choice(list(MALFORMED.items()))
    found = post(port, body)[0]
    return "" if found == status else f"{found} for {body[:50]!r}"


SENDERS = {"whole": whole, "stream": stream, "leave": leave, "malformed": malformed}


def sent(port: int, body: Any) -> HTTPConnection:
    """Sends a request and does not wait for its answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    kind = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), kind)
    return connection


def read_metrics(port: int) -> dict[str, float]:
    """The engine's values."""
    with contextlib.closing(HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    rows = [line.rpartition(" ") for line in lines if 'run="model"}' in line]
    return {name.partition("{")[0]: float(value) for name, _, value in rows}


def resident_mb(process: int) -> float:
    """Memory of a process, on Linux."""
    status = Path(f"/proc/{process}/status").read_text("utf-8")
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
