"""How certain a figure is: confidence intervals, and tests whether two models differ on the same images."""

import functools
from collections.abc import Callable

import numpy as np
import scipy.sparse
import scipy.stats

from graftline.components.evaluator.verdict import Interval

_WEIGHTS = 4_000_000  # weights of resampled images, or sums of them, in memory at once


@functools.lru_cache(maxsize=100_000)  # SciPy takes 1 ms (it computes a p-value, too); many classes share their counts
def wilson(successes: int, trials: int, level: float) -> Interval:
    """Return the score interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953); (0, 1) without trials.

    It also holds for few trials and for shares near 0 and 1.
    """
    if trials == 0:
        return 0.0, 1.0
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(candidate_right: np.ndarray, baseline_right: np.ndarray) -> float:
    """Return the two-sided p-value that two models are right equally often on the same images, bool [N].

    McNemar's exact test (1947, doi:10.1007/BF02295996): of the images that only one model has right, each model is
    expected to have half.
    """
    only_candidate = int((candidate_right & ~baseline_right).sum())
    only_baseline = int((baseline_right & ~candidate_right).sum())
    if only_candidate + only_baseline == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_candidate, only_candidate + only_baseline).pvalue)


def bootstrap(
    terms: scipy.sparse.csr_matrix, value: Callable[[np.ndarray], np.ndarray], repeats: int, seed: int = 0
) -> np.ndarray:
    """Return a metric's values on images drawn with replacement (Efron 1979, doi:10.1214/aos/1176344552).

    The same number of images and the same seed draw the same images, so two models are compared on the same draws.
    `terms` [N, K] is what each image adds to the K sums from which `value` computes the metric: float [B] from float
    [B, K] for B draws. Returns float64 [repeats].
    """
    images = terms.shape[0]
    if images == 0:
        return np.full(repeats, np.nan)
    rng = np.random.default_rng(seed)
    transposed = terms.T.tocsr()
    values = []
    for begin in range(0, repeats, step := max(1, _WEIGHTS // max(terms.shape))):
        count = min(step, repeats - begin)
        drawn = rng.integers(0, images, size=(count, images))
        drawn += np.arange(count)[:, None] * images
        weights = np.bincount(drawn.ravel(), minlength=count * images).reshape(count, images)
        values.append(value((transposed @ weights.T.astype(np.float64)).T))
    return np.concatenate(values)


def repeats(alpha: float) -> int:
    """Return how many draws resolve a p-value of this size."""
    return max(1000, int(20 / alpha))


def percentile_interval(values: np.ndarray, level: float) -> Interval:
    """Return the middle `level` of bootstrapped values. Values that are NaN (a class was not drawn) are left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_p_value(changes: np.ndarray) -> float:
    """Return the two-sided p-value of no change from bootstrapped changes (Efron and Tibshirani 1993, chapter 15)."""
    changes = changes[np.isfinite(changes)]
    smaller_side = min(np.count_nonzero(changes <= 0), np.count_nonzero(changes >= 0))
    return float(min(1.0, 2 * (smaller_side + 1) / (len(changes) + 1)))


def normal_interval(value: float, error: float, level: float, low: float = 0.0, high: float = 1.0) -> Interval:
    """Return the normal interval of a value with this standard error, cut at `low` and `high`."""
    half = float(scipy.stats.norm.ppf((1 + level) / 2)) * error
    return max(low, value - half), min(high, value + half)


def normal_p_value(value: float, error: float) -> float:
    """Return the two-sided p-value that the true value is 0, for a value with this standard error."""
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * scipy.stats.norm.sf(abs(value) / error))
