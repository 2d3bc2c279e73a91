import pytest

from spdf_keras.errors import InputError
from spdf_keras.flops import training_flops
from spdf_keras.measuring.step.contenders import (
    SPARSITIES,
    grid,
    groups,
    select,
)


def test_the_grid_has_every_mode_once() -> None:
    contenders = grid(["1x1024", "8x1024"])
    assert len(set(contenders)) == len(contenders) == 2 * 36
    ours = [c for c in contenders if c.program == "ours" and c.batch == 1]
    for precision in ("float32", "bfloat16"):
        for compiler in ("graph", "xla"):
            part = [
                c for c in ours if (c.precision, c.compiler) == (precision, compiler)
            ]
            kinds = [(c.kind, c.sparsity) for c in part]
            assert kinds[0] == ("dense", 0)
            assert {kind for kind in kinds if kind[0] != "dense"} == {
                (kind, s) for kind in ("masked", "sparse") for s in SPARSITIES
            }


def test_theory_counts_zeros_that_are_skipped() -> None:
    (sparse,) = select(grid(["1x1024"]), ["ours,float32,sparse,graph,75"])
    sizes = sparse.sizes
    ratio = training_flops(sizes, 1024, 0.75) / training_flops(sizes, 1024)
    assert sparse.theory == pytest.approx(ratio)
    assert all(c.theory == 1 for c in select(grid(["1x1024"]), ["masked", "dense"]))


def test_texts_select_contenders_that_have_all_of_their_words() -> None:
    contenders = grid(["1x16", "2x16"])
    assert select(contenders, []) == contenders
    texts = ["ours,masked,xla,50,2x16", "torch,float32,1x16"]
    assert [c.name for c in select(contenders, texts)] == [
        "torch, float32, dense, eager, 0 %, 1x16",
        "torch, float32, dense, compiled, 0 %, 1x16",
        "ours, float32, masked, xla, 50 %, 2x16",
        "ours, bfloat16, masked, xla, 50 %, 2x16",
    ]
    sentence = "must have words that one contender has together. Received: 'torch,75'"
    with pytest.raises(InputError, match=sentence):
        select(contenders, ["torch,75"])


@pytest.mark.parametrize("text", ["", "8", "0x4", "4x0", "axb", "1x2x3", "1x-2"])
def test_bad_tokens_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--tokens must be BATCHxLENGTH.*Received"):
        grid([text])


@pytest.mark.parametrize("processes", [1, 4, 50])
def test_groups_hold_all_contenders_beside_their_baselines(processes: int) -> None:
    contenders = grid(["1x16", "2x16"])
    whole = list(groups(contenders, processes))
    others = [c for group in whole for c in group.others]
    baselines = {c for group in whole for c in group.baselines}
    assert len(set(others)) == len(others)
    assert baselines | set(others) == set(contenders)
    for group in whole:
        assert len(group.members) <= max(processes, 3)
        for contender in group.others:
            assert contender.baseline("float32") in group.baselines
            assert contender.baseline(contender.precision) == group.baselines[-1]
    dense = contenders[0]
    assert list(groups([dense], processes)) == [((dense,), ())]
