"""How fast is the reader of shards, beside TFRecords?

    python benchmarks/reader.py
    python benchmarks/reader.py --sequences 500000 --batch-size 512

The same random sequences are written in our format and as TFRecords of one `bytes`
feature. Both are read as training batches of `(token_ids, labels)`: ours are shuffled
over the whole corpus, TFRecords are read from all files in turn, through a shuffle
buffer, and parsed in parallel. The two take turns; files are in the page cache.
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spdf_keras.console import print_json
from spdf_keras.measuring.turns import Spread, time_in_turns
from spdf_keras.provenance import provenance


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
        calls = {name: partial(read, data, args) for name, data in datasets.items()}
        # The warm-up fills the page cache.
        seconds = time_in_turns(calls, args.rounds)
    results = []
    for name, times in seconds.items():
        tokens_read = args.steps * args.batch_size * args.context_length
        speed = tokens_read / Spread.of(times).median
        results.append({"reader": name, "tokens_per_second": speed, "seconds": times})
        print(f"{name:10}{speed:15,.0f} tokens/s")
    print_json({**vars(args), **provenance(), "results": results})


def write_shards(
    tokens: NDArray[np.uint16], folder: Path, args: argparse.Namespace
) -> Any:
    """Writes our format; returns its reader."""
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
    """Writes TFRecords; returns the usual pipeline that reads them."""
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


def read(dataset: Any, args: argparse.Namespace) -> None:
    """Reads all batches; the time before the first one counts too."""
    for token_ids, _ in dataset:
        token_ids.shape.assert_is_compatible_with((None, args.context_length))


if __name__ == "__main__":
    main()
