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


def test_the_number_of_zeros_is_compared_to_the_weight() -> None:
    report = audit_mask("a", MASK, [])
    # round(0.6 * 6) and round(0.7 * 6) are 4, round(0.8 * 6) is 5.
    exact = {s: report.has_exact_count(s) for s in (0.0, 0.6, 0.7, 0.8)}
    assert exact == {0.0: False, 0.6: True, 0.7: True, 0.8: False}
