"""Tokens per second of the reader of shards alone, beside TFRecords.

    python benchmarks/reader.py
    python benchmarks/reader.py --sequences 500000 --batch-size 512

The same random sequences are written in our format and as TFRecords of one
`bytes` feature. Both are read as training batches of `(token_ids, labels)`: ours
shuffled over the whole corpus; TFRecords from all files in turn, through a shuffle
buffer, parsed in parallel. They take turns; files are in the page cache.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def main() -> None:
    """Measures and prints a table, and one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=100_000)
    parser.add_argument("--context-length", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--shuffle-buffer", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        tokens = rng.integers(
            0, 50257, (args.sequences, args.context_length + 1), np.uint16
        )
        datasets = {
            "shards": write_shards(tokens, Path(folder) / "shards", args),
            "TFRecords": write_records(tokens, Path(folder) / "records", args),
        }
        del tokens
        speeds: dict[str, list[float]] = {name: [] for name in datasets}
        for round_number in range(args.rounds + 1):
            for name, dataset in datasets.items():
                speed = tokens_per_second(dataset, args)
                if round_number:  # the first fills the page cache
                    speeds[name].append(speed)
    for name, values in speeds.items():
        print(f"{name:10}{statistics.median(values):15,.0f} tokens/s")
    conditions = {"cores": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({**vars(args), **conditions, "tokens_per_second": speeds}))


def write_shards(
    tokens: NDArray[np.uint16], folder: Path, args: argparse.Namespace
) -> Any:
    """Our format, and its reader."""
    from spdf_keras.data.shards.reader import Shards

    folder.mkdir()
    shards = []
    for number, part in enumerate(np.array_split(tokens, 4)):
        name = f"train-{number:05d}.npy"
        np.save(folder / name, part)
        shards.append({"file": name, "sequences": len(part)})
    splits = {
        "train": {"sequences": len(tokens), "shards": shards},
        "validation": {"sequences": 0, "shards": []},
    }
    index = {"context_length": args.context_length, "splits": splits}
    (folder / "index.json").write_text(json.dumps(index))
    return Shards.open(folder).batches(args.batch_size, 0, 0, args.steps)


def write_records(
    tokens: NDArray[np.uint16], folder: Path, args: argparse.Namespace
) -> Any:
    """The usual format, and the usual pipeline."""
    import tensorflow as tf

    folder.mkdir()
    files = []
    for number, part in enumerate(np.array_split(tokens, 4)):
        files.append(str(folder / f"train-{number:05d}.tfrecord"))
        with tf.io.TFRecordWriter(files[-1]) as writer:
            for row in part:
                value = tf.train.BytesList(value=[row.tobytes()])
                feature = {"tokens": tf.train.Feature(bytes_list=value)}
                features = tf.train.Features(feature=feature)
                writer.write(tf.train.Example(features=features).SerializeToString())
    length = args.context_length + 1
    spec = {"tokens": tf.io.FixedLenFeature([], tf.string)}

    def parse(records: Any) -> Any:
        content = tf.io.parse_example(records, spec)["tokens"]
        rows = tf.cast(tf.io.decode_raw(content, tf.uint16), tf.int32)
        rows = tf.ensure_shape(rows, (args.batch_size, length))
        return rows[:, :-1], rows[:, 1:]

    auto = tf.data.AUTOTUNE
    records = tf.data.Dataset.from_tensor_slices(files).repeat()
    records = records.interleave(tf.data.TFRecordDataset, num_parallel_calls=auto)
    records = records.shuffle(args.shuffle_buffer, seed=0)
    batches = records.batch(args.batch_size).map(parse, num_parallel_calls=auto)
    return batches.take(args.steps).prefetch(auto)


def tokens_per_second(dataset: Any, args: argparse.Namespace) -> float:
    """Reads all batches; what comes before the first one counts."""
    start = time.perf_counter()
    for token_ids, _ in dataset:
        token_ids.shape.assert_is_compatible_with((None, args.context_length))
    seconds = time.perf_counter() - start
    return args.steps * args.batch_size * args.context_length / seconds


if __name__ == "__main__":
    main()
