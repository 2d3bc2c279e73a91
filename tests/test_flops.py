from typing import Any

import numpy as np
import pytest

from spdf_keras.config import PRESETS, GPTConfig, LoRAConfig
from spdf_keras.errors import InputError
from spdf_keras.flops import forward_flops, table_2, table_3, training_flops


def digits_apart(value: float, printed: float, digits: int = 3) -> int:
    """How many units of the printed value's last digit lie between the two."""
    exponent = len(f"{int(printed)}") - digits
    return abs(round(value / 10**exponent) - round(printed / 10**exponent))


def test_every_cell_of_table_2_is_the_printed_one_to_a_unit_of_its_last_digit() -> None:
    rows = table_2()
    assert len(rows) == 6
    for row in rows:
        for key in ("sequences", "flops_per_sequence", "total_flops"):
            assert digits_apart(row[key], row[f"printed_{key}"]) <= 1, (row, key)
        assert abs(row["exaflops"] - row["printed_exaflops"]) <= 0.0151
        # GPT-2 Small at 75 %: the paper divides figures that it had rounded.
        rounded = (row["model"], row["sparsity"]) == ("gpt2_small", 0.75)
        tolerance = 0.0052 if rounded else 0.0005
        assert row["ratio"] == pytest.approx(row["printed_ratio"], abs=tolerance)


def test_every_cell_of_table_3_is_the_printed_one_to_a_unit_of_its_last_digit() -> None:
    rows = table_3()
    assert len(rows) == 8
    for row in rows:
        assert digits_apart(row["sequences"], row["printed_sequences"], 3) <= 3
        for key in ("flops_per_sequence", "total_flops"):
            assert digits_apart(row[key], row[f"printed_{key}"]) <= 1, (row, key)
        # The printed 0.524 of GPT-3 XL on E2E is not its own 5.27e17.
        odd = (row["dataset"], row["model"]) == ("E2E", "gpt3_xl")
        tolerance = 0.0045 if odd else 0.0005
        assert row["exaflops"] == pytest.approx(row["printed_exaflops"], abs=tolerance)


def test_table_3_counts_the_pairs_of_the_corpora() -> None:
    sequences = {row["dataset"]: row["sequences"] for row in table_3()}
    assert sequences["E2E"] == 3 * 42_061
    assert sequences["WebNLG"] == 3 * 18_025
    assert sequences["DART"] == 2 * 62_659


def test_gpt3_xl_at_75_percent_needs_2_5_times_fewer_operations() -> None:
    model = PRESETS["gpt3_xl"].model
    ratio = training_flops(model, 2048) / training_flops(model, 2048, 0.75)
    assert ratio == pytest.approx(2.5, abs=0.05)


def test_the_count_of_a_small_model_by_hand() -> None:
    # d=4, f=8, one layer, two heads, V=10, 3 tokens; half of the weights kept.
    model = GPTConfig(1, 2, 4, 8, vocabulary_size=10, max_sequence_length=8)
    linear = 2 * 3 * (4 * 16 + 2 * 32) / 2
    attention = 2 * (2 * 3 * 3 * 4)  # scores, values
    softmax = 3 * 2 * 3 * 3
    logits = 2 * 3 * 4 * 10
    assert forward_flops(model, 3, 0.5) == linear + attention + softmax + logits


def test_wrong_arguments_are_refused() -> None:
    model = PRESETS["gpt_nano"].model
    with pytest.raises(InputError, match=r"`sparsity` must be in \[0, 1\)"):
        forward_flops(model, 8, 1.0)
    with pytest.raises(InputError, match="`sequence_length` must be positive"):
        forward_flops(model, 0)


def test_numpys_numbers_give_the_counts_of_pythons() -> None:
    xl = PRESETS["gpt3_xl"].model
    expected = forward_flops(xl, 2048, 0.75)
    numbers: list[Any] = [np.int32(2048), np.float32(0.75)]
    assert forward_flops(xl, *numbers) == expected > 2**40
    length: Any = np.int16(2048)  # times the batch it would overflow
    train = PRESETS["gpt3_xl"].train
    assert train.total_steps(xl, length) == train.total_steps(xl, 2048)


def test_an_adapter_leaves_out_the_gradients_of_frozen_matrices() -> None:
    """By hand: one block of width 2 and 3 inside, 4 tokens, 5 in the vocabulary."""
    sizes = GPTConfig(1, 1, 2, 3, vocabulary_size=5, max_sequence_length=4)
    matrices, table, rest = 4 * 2 * 2 + 2 * 2 * 3, 5 * 2, 4 * 4**2 * 2 + 3 * 4**2
    whole = 3 * (2 * 4 * (matrices + table) + rest)
    assert training_flops(sizes, 4) == whole
    lora = LoRAConfig(1, targets=("query", "output"))
    adapter = 3 * 2 * 4 * ((2 + 2) + (3 + 2))
    frozen = 2 * 4 * (matrices + table)
    assert training_flops(sizes, 4, lora=lora) == whole - frozen + adapter
    half = training_flops(sizes, 4, 0.5) - 2 * 4 * (matrices // 2 + table) + adapter
    assert training_flops(sizes, 4, 0.5, lora) == half
