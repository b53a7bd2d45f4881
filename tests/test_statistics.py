"""Paired comparisons of methods, and the adjustment of several tests."""

import numpy as np
import pytest

from star_keras.evaluation import holm, paired_comparison


def test_smallest_wilcoxon_p_is_that_of_the_number_of_pairs():
    found = paired_comparison(np.zeros(10), np.arange(1, 11) / 100)
    assert found.wilcoxon_p == pytest.approx(2 / 2**10)  # all ten of one sign
    assert found.mean == pytest.approx(0.055)
    assert found.count == 10


def test_exchanging_the_methods_turns_the_sign_and_keeps_the_p_values():
    first, second = np.random.default_rng(0).normal(size=(2, 12))
    there, back = paired_comparison(first, second), paired_comparison(second, first)
    assert there.mean == -back.mean
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.05)
    assert (there.wilcoxon_p, there.t_p) == pytest.approx((back.wilcoxon_p, back.t_p))


def test_paired_t_by_hand():
    found = paired_comparison(np.zeros(7), np.arange(1.0, 8.0))
    # t = 4 / (sqrt(14 / 3) / sqrt(7)) with six degrees of freedom, where the distribution is in closed form
    t = 4 / np.sqrt(14 / 3 / 7)
    share = t / np.sqrt(t**2 + 6)
    rest = 1 - share**2
    assert found.t_p == pytest.approx(1 - share * (1 + rest / 2 + 3 * rest**2 / 8))


def test_bootstrap_interval_is_as_wide_as_that_of_a_normal_mean():
    differences = np.random.default_rng(0).normal(0.5, 1.0, size=400)
    found = paired_comparison(np.zeros(400), differences)
    half = 1.96 * differences.std() / 20
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.01)


def test_no_p_value_from_five_pairs():
    found = paired_comparison(np.zeros(5), np.arange(1, 6))
    assert np.isnan(found.wilcoxon_p) and np.isnan(found.t_p)
    assert found.to_dict()["wilcoxon_p"] is found.to_dict()["t_p"] is None
    found = paired_comparison(np.zeros(6), np.arange(1, 7))
    assert found.wilcoxon_p < 0.05 and found.t_p < 0.05


def test_students_interval_by_hand():
    found = paired_comparison(np.zeros(3), [1.0, 2.0, 3.0])
    # Two degrees of freedom: the quantile of t is (2 p - 1) sqrt(2 / (4 p (1 - p))), p = 0.975.
    quantile = 0.95 * np.sqrt(2 / (4 * 0.975 * 0.025))
    assert found.t_half_width == pytest.approx(quantile / np.sqrt(3))


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_without_an_effect_few_verdicts_fall(count):
    noise = np.random.default_rng(0).normal(size=(600, count))
    found = [paired_comparison(np.zeros(count), one, resamples=500).verdict for one in noise]
    assert np.mean([one != "within noise" for one in found]) <= 0.07


def test_three_differences_of_one_sign_are_not_enough():
    found = paired_comparison(np.zeros(3), [0.2, 1.0, 3.0])
    assert found.low > 0 and found.verdict == "within noise"
    assert paired_comparison(np.zeros(3), [2.8, 3.0, 3.1]).verdict == "confirmed"


def test_rounding_is_no_difference():
    first = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    constant = paired_comparison(first, first + 0.01)
    assert np.isnan(constant.t_p) and constant.verdict == "confirmed"
    equal = paired_comparison(np.full(6, 0.3), np.full(6, 0.1 + 0.2))
    assert equal.mean == 0 and np.isnan(equal.wilcoxon_p) and equal.verdict == "within noise"


def test_equal_methods_have_no_p_value():
    found = paired_comparison(np.ones(8), np.ones(8))
    assert found.mean == found.low == found.high == 0
    assert np.isnan(found.wilcoxon_p) and np.isnan(found.t_p)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([0.01, float("nan"), 0.04])[0] == pytest.approx(0.02)


@pytest.mark.parametrize(
    "first, second", [([1.0], [2.0]), ([1.0, 2.0], [1.0, 2.0, 3.0]), ([[1.0, 2.0]], [[1.0, 2.0]])]
)
def test_scores_must_be_pairs(first, second):
    with pytest.raises(ValueError, match="same two or more seeds. Received: shapes"):
        paired_comparison(first, second)


def test_a_failed_run_is_not_averaged_away():
    with pytest.raises(ValueError, match="must be finite"):
        paired_comparison([0.5, float("nan")], [0.5, 0.6])


def test_p_values_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\]. Received"):
        holm([0.5, 1.5])


@pytest.mark.parametrize(
    ("shift", "verdict", "text"),
    [
        (2.0, "confirmed", "+2.0 [+1.9, +2.1]"),
        (-2.0, "not confirmed", "-2.0 [-2.1, -1.9]"),
        (0.0, "within noise", "+0.0 [-0.1, +0.1]"),
    ],
)
def test_the_verdict_is_that_of_the_interval(shift, verdict, text):
    found = paired_comparison([1.0, 2.0, 3.0], [0.9 + shift, 2.0 + shift, 3.1 + shift])
    assert (found.verdict, f"{found:+.1f}") == (verdict, text)


@pytest.mark.parametrize("shift", [0.01, -2.0])
@pytest.mark.parametrize(("count", "known"), [(2, False), (5, False), (6, True)])
def test_few_differences_that_do_not_vary_are_no_evidence(shift, count, known):
    first = np.arange(count) / 10
    found = paired_comparison(first, first + shift)
    confirmed = "confirmed" if shift > 0 else "not confirmed"
    assert found.verdict == (confirmed if known else "within noise") and found.t_half_width == 0


def test_an_interval_with_zero_inside_is_noise():
    found = paired_comparison([0.0, 0.0, 0.0], [3.0, -1.0, 1.0])
    assert found.low < 0 < found.high and found.verdict == "within noise"
