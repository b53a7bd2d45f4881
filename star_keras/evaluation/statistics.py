"""Whether one method beats another: paired differences over seeds, with interval and tests."""

import typing

import numpy as np

from star_keras.optional import needed

_PAIRS = 6  # for a p value


class PairedComparison(typing.NamedTuple):
    """How much higher the second of two methods scores, run by run.

    Attributes:
        mean: mean of the differences, second minus first.
        low, high: 95 % bootstrap interval of the mean, too narrow for few pairs: of three it reaches from the
            least difference to the greatest and leaves 0 out whenever all have one sign.
        t_half_width: half the width of Student's 95 % interval of the mean, which few pairs make wide.
        wilcoxon_p: two-sided Wilcoxon signed-rank test; NaN where all differences are 0, and below six pairs,
            which can never reach 0.05.
        t_p: two-sided paired t test; NaN where the differences do not vary, and below six pairs, too few to
            tell whether they are normal.
        count: number of pairs.
    """

    mean: float
    low: float
    high: float
    t_half_width: float
    wilcoxon_p: float
    t_p: float
    count: int

    @property
    def verdict(self):
        """Whether the second scores higher: "confirmed", or "not confirmed" where it scores lower, as far
        as both intervals tell; else "within noise", also where fewer than six differences do not vary at
        all, from which no interval can be told."""
        if self.count < _PAIRS and not self.t_half_width:
            return "within noise"
        if self.low > 0 and self.mean > self.t_half_width:
            return "confirmed"
        return "not confirmed" if self.high < 0 and -self.mean > self.t_half_width else "within noise"

    def __format__(self, spec):
        """Mean and interval, each number in the format asked for: with "+.1f", "+1.5 [+0.2, +2.9]"."""
        mean, low, high = (format(number, spec) for number in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"

    def to_dict(self):
        """The fields as plain JSON, with None for NaN."""
        return {key: None if np.isnan(value) else value for key, value in self._asdict().items()}


def paired_comparison(first, second, resamples=10_000, seed=0):
    """Compares two methods that were run with the same seeds.

    `differences = second - first`, 0 where rounding alone makes them; the bootstrap interval is the 2.5 and
    97.5 percentile of means of differences drawn with replacement, Student's is
    `mean +- t(0.975, n - 1) std / sqrt(n)`.

    Args:
        first, second: one score for each seed, in the same order.
        resamples: bootstrap draws. Defaults to 10,000.
        seed: of the draws. Defaults to 0.

    Returns:
        `PairedComparison`.

    Raises:
        ValueError: if the scores are not two finite sequences of the same length, of two or more.
        ImportError: if SciPy (extra `eval`) is not installed.

    Example:

    >>> found = paired_comparison([0.90, 0.91, 0.89, 0.90, 0.92, 0.90], [0.92, 0.94, 0.90, 0.94, 0.97, 0.96])
    >>> f"{found.verdict}: {found:+.3f}", round(found.wilcoxon_p, 3)
    ('confirmed: +0.035 [+0.022, +0.048]', 0.031)

    Reference: Wilcoxon, Individual Comparisons by Ranking Methods (1945); Efron (1979).
    """
    differences = _differences(first, second)
    count, mean = len(differences), float(differences.mean())
    drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
    low, high = np.percentile(differences[drawn].mean(axis=1), (2.5, 97.5))
    stats = needed("scipy.stats", "Tests of significance need SciPy", "eval")
    vary = np.ptp(differences) > 0
    half_width = stats.t.ppf(0.975, count - 1) * differences.std(ddof=1) / np.sqrt(count) if vary else 0.0
    wilcoxon_p = t_p = float("nan")
    if count >= _PAIRS and differences.any():
        wilcoxon_p = float(stats.wilcoxon(differences).pvalue)
    if count >= _PAIRS and vary:
        t_p = float(stats.ttest_1samp(differences, 0).pvalue)
    return PairedComparison(mean, float(low), float(high), float(half_width), wilcoxon_p, t_p, count)


def holm(p_values):
    """Adjusts the p values of several tests, so that one false alarm among all stays as rare as in one.

    In rising order the i-th of n, from 0, is multiplied by `n - i`; none may fall below its forerunner.

    Args:
        p_values: sequence of numbers in [0, 1]; NaN stays NaN and does not count.

    Returns:
        A list of adjusted p values in the same order.

    Raises:
        ValueError: if a value lies outside [0, 1].

    Example:

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Reference: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
    """
    given = np.asarray(p_values, "float64").reshape(-1)
    known = np.flatnonzero(~np.isnan(given))
    if np.any((given[known] < 0) | (given[known] > 1)):
        raise ValueError(f"`p_values` must lie in [0, 1]. Received: p_values={list(p_values)}")
    order = known[np.argsort(given[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted = given.copy()
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * factors))
    return adjusted.tolist()


def _differences(first, second):
    first, second = np.asarray(first, "float64"), np.asarray(second, "float64")
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise ValueError(
            "`first` and `second` must hold one score for each of the same two or more seeds. "
            f"Received: shapes {first.shape} and {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("Scores must be finite. Received: NaN or infinity; run the failed seeds again.")
    differences = second - first
    rounding = 8 * np.finfo("float64").eps * max(np.abs(first).max(), np.abs(second).max())
    if np.ptp(differences) <= rounding:
        differences = np.full_like(differences, differences.mean())
    return np.where(np.abs(differences) <= rounding, 0.0, differences)
