from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spdf_keras.data.shards import writer as module
from spdf_keras.data.shards.order import shuffled
from spdf_keras.data.shards.prepare import write_shards
from spdf_keras.data.shards.reader import Shards
from spdf_keras.data.tasks.examples import EncodedPairs
from spdf_keras.data.tokenizers.bpe import Tokenizer
from spdf_keras.errors import InputError

TEXTS = [f"document number {i} has {i * i} words and {i % 7} cats" for i in range(200)]
TOKENIZER = Tokenizer.train(TEXTS, 300)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_SEQUENCES_PER_SHARD", 50)  # several shards
    write_shards(TEXTS, TOKENIZER, 16, tmp_path / "shards", validation_fraction=0.2)
    return tmp_path / "shards"


def stream(opened: Shards, split: str) -> list[int]:
    count = opened.num_sequences(split)
    return opened.rows(split)[np.arange(count)].ravel().tolist()


def test_no_token_is_lost_and_documents_end_with_the_end_of_text(folder: Path) -> None:
    opened = Shards.open(folder)
    assert len(list(folder.glob("train-*.npy"))) > 1
    documents = []
    for split in ("train", "validation"):
        counts = opened.index["splits"][split]
        tokens = stream(opened, split)
        assert len(tokens) + counts["tokens_left_out"] == counts["tokens"]
        text = TOKENIZER.decode(tokens).split("<|endoftext|>")
        documents += text[:-1]
        left_out = counts["documents"] - len(text[:-1])
        assert left_out <= 1 + counts["tokens_left_out"]  # those that were cut
    assert set(documents) <= set(TEXTS) and len(documents) == len(set(documents))
    assert opened.tokenizer().fingerprint == TOKENIZER.fingerprint


def test_a_documents_split_does_not_depend_on_where_it_stands(
    folder: Path, tmp_path: Path
) -> None:
    write_shards(TEXTS[::-1], TOKENIZER, 16, tmp_path / "b", validation_fraction=0.2)
    a, b = (Shards.open(f).index["splits"] for f in (folder, tmp_path / "b"))
    assert a["validation"]["tokens"] == b["validation"]["tokens"] > 0
    share = a["validation"]["documents"] / len(TEXTS)
    assert share == pytest.approx(0.2, abs=0.09)  # three deviations


def test_batches_are_a_function_of_seed_and_step(folder: Path) -> None:
    opened = Shards.open(folder)

    def read(seed: int, start: int, stop: int) -> list[Any]:
        return [x.numpy() for x, _ in opened.batches(8, seed, start, stop)]

    whole = read(0, 0, 60)
    for start, resumed in ((0, read(0, 0, 20)), (37, read(0, 37, 60))):
        for a, b in zip(whole[start:], resumed, strict=False):
            np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(whole, read(1, 0, 60), strict=True))


def test_no_thread_tunes_an_iterator(folder: Path) -> None:
    """Freeing an iterator that is tuned takes up to a minute in a long training."""
    pairs = EncodedPairs([np.arange(9, dtype=np.int32)], np.array([4]))
    for batches in (Shards.open(folder).batches(8, 0, 0, 4), pairs.batches(1)):
        assert batches.options().autotune.enabled is False


def test_workers_share_each_batch(folder: Path) -> None:
    opened = Shards.open(folder)

    def read(*shard: int) -> list[Any]:  # across the end of an epoch
        batches = opened.batches(12, 0, 5, 16, *shard)
        assert batches.element_spec[0].shape == (12 // (shard or (1,))[0], 16)
        return [np.stack([x.numpy(), y.numpy()]) for x, y in batches]

    assert 5 * 12 < opened.num_sequences() < 16 * 12
    whole = read()
    for num_workers in (1, 2, 3, 12):
        parts = [read(num_workers, worker) for worker in range(num_workers)]
        for step, batch in enumerate(whole):
            together = np.concatenate([part[step] for part in parts], axis=1)
            np.testing.assert_array_equal(together, batch)
    for shard, sentence in (
        ((5, 0), "must divide batch_size=12. Received: num_workers=5"),
        ((0, 0), "`num_workers` times `replicas` must divide"),
        ((3, 3), "`worker` must be 0 to 2"),
        ((3, -1), "`worker` must be 0 to 2"),
    ):
        with pytest.raises(InputError, match=sentence):
            read(*shard)


def test_an_epoch_visits_every_sequence_once_and_labels_are_one_ahead(
    folder: Path,
) -> None:
    opened = Shards.open(folder)
    count = opened.num_sequences()
    pairs = [
        (x.numpy()[0], y.numpy()[0]) for x, y in opened.batches(1, 0, 0, 2 * count)
    ]
    rows = [(*x, y[-1]) for x, y in pairs]
    everything = sorted(map(tuple, opened.rows("train")[np.arange(count)]))
    assert sorted(rows[:count]) == sorted(rows[count:]) == everything
    assert rows[:count] != rows[count:]
    for x, y in pairs:
        np.testing.assert_array_equal(x[1:], y[:-1])


def test_validation_is_read_once_in_order(folder: Path) -> None:
    opened = Shards.open(folder)
    count = opened.num_sequences("validation")
    rows = [x.numpy() for x, _ in opened.validation(3, count // 3)]
    assert len(rows) == count // 3
    assert opened.validation_batches(3) == (3, count // 3)
    assert opened.validation_batches(3, 2) == (3, 2)
    np.testing.assert_array_equal(
        np.concatenate(rows),
        opened.rows("validation")[np.arange(count // 3 * 3)][:, :-1],
    )


def test_a_shuffle_is_a_permutation_that_never_changes() -> None:
    assert sorted(shuffled(100, "a")) == list(range(100))
    assert shuffled(6, "0:0").tolist() == [1, 0, 4, 3, 2, 5]


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    def refuse(sentence: str, *args: Any, **kwargs: Any) -> None:
        with pytest.raises(InputError, match=sentence):
            write_shards(*args, **kwargs)

    target = tmp_path / "new"
    refuse("`context_length` must be positive", TEXTS, TOKENIZER, 0, target)
    refuse(
        r"`validation_fraction` must be in \[0, 1\)", TEXTS, TOKENIZER, 8, target, 1.0
    )
    refuse("The corpus is too short: 12 tokens", ["a" * 11], TOKENIZER, 64, target, 0.0)

    def broken() -> Any:
        yield from TEXTS
        raise InputError("line 7 is broken")

    refuse("line 7 is broken", broken(), TOKENIZER, 8, target)
    assert list(tmp_path.iterdir()) == []
    write_shards(TEXTS, TOKENIZER, 8, target)
    refuse("is not empty: choose another", TEXTS, TOKENIZER, 8, target)


def test_damaged_shards_are_refused(folder: Path) -> None:
    shard = folder / "train-00001.npy"
    content = shard.read_bytes()
    Shards.open(folder).verify()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="train-00001.npy' has changed since"):
        Shards.open(folder).verify()
    shard.write_bytes(content[:-10])
    with pytest.raises(InputError, match="train-00001.npy' is missing or damaged"):
        Shards.open(folder)
    shard.unlink()
    with pytest.raises(InputError, match="train-00001.npy' is missing or damaged"):
        Shards.open(folder)
    (folder / "index.json").write_text("{}")
    with pytest.raises(InputError, match="index.json' is damaged"):
        Shards.open(folder)
    with pytest.raises(InputError, match="Make them with `spdf-keras prepare`"):
        Shards.open(folder / "nowhere")
