import numpy as np
import pytest

from spdf_keras.sparsity.audit import audit_mask

MASK = np.array([[True, False, False], [False, True, False]])


def test_a_position_that_leaks_in_several_values_counts_once() -> None:
    weight, moment = np.zeros((2, 2, 3), np.float32)
    weight[0] = 1.0  # one kept and two pruned positions
    moment[0, 1] = 1e-30  # it leaks in the weight too
    moment[1, 2] = np.nan
    report = audit_mask("a", MASK, iter([weight, moment]))
    assert (report.size, report.kept, report.violations) == (6, 2, 3)
    assert report.density == pytest.approx(1 / 3)


def test_negative_zero_is_zero() -> None:
    assert audit_mask("a", MASK, [np.full((2, 3), -0.0)]).violations == 0
