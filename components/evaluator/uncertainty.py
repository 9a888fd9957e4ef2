"""How sure a figure is: intervals, and whether two models that judged the same images truly differ."""

from collections.abc import Callable

import numpy as np
import scipy.sparse
import scipy.stats

Interval = tuple[float, float]

_WEIGHTS = 4_000_000  # weights of resampled images, or sums of them, that are held at once


def wilson(successes: float, trials: float, level: float) -> Interval:
    """The score interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953): good for few and for extreme.

    Returns:
      Lower and upper end; (0, 1) without trials.
    """
    if trials == 0:
        return 0.0, 1.0
    z = _normal(level)
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def mcnemar(candidate_right: np.ndarray, baseline_right: np.ndarray) -> float:
    """Two-sided p-value that two models are right equally often, from their answers to the same images, bool [N].

    McNemar's test (1947, doi:10.1007/BF02295996) in its exact form: of the images that only one of both has right,
    each has half. Exact for any number of them, so it needs no approximation for many.
    """
    only_candidate = int((candidate_right & ~baseline_right).sum())
    only_baseline = int((baseline_right & ~candidate_right).sum())
    if only_candidate + only_baseline == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_candidate, only_candidate + only_baseline).pvalue)


def bootstrap(
    terms: scipy.sparse.csr_matrix, value: Callable[[np.ndarray], np.ndarray], repeats: int, seed: int = 0
) -> np.ndarray:
    """Values of a metric on images drawn anew with replacement (Efron 1979, doi:10.1214/aos/1176344552).

    The same number of images and seed draw the same images, so that two models are compared on the same draws.

    Args:
      terms: [N, K], what each image adds to the K sums that the metric is made of.
      value: sums, float [B, K], to the metric, float [B].
      repeats: B.
      seed: of the draws.

    Returns:
      float64 [B].
    """
    images = terms.shape[0]
    if images == 0:
        return np.full(repeats, np.nan)
    rng = np.random.default_rng(seed)
    transposed = terms.T.tocsr()
    values = []
    for begin in range(0, repeats, step := max(1, _WEIGHTS // max(terms.shape))):
        many = min(step, repeats - begin)
        drawn = rng.integers(0, images, size=(many, images))
        drawn += np.arange(many)[:, None] * images
        weights = np.bincount(drawn.ravel(), minlength=many * images).reshape(many, images)
        values.append(value((transposed @ weights.T.astype(np.float64)).T))
    return np.concatenate(values)


def repeats(alpha: float) -> int:
    """How many draws tell a p-value of that size apart from a smaller one."""
    return max(1000, int(20 / alpha))


def percentiles(values: np.ndarray, level: float) -> Interval:
    """The middle `level` of bootstrapped values; those that are no number (a class was not drawn) are left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_p_value(changes: np.ndarray) -> float:
    """Two-sided p-value that there is no change, from bootstrapped changes (Efron and Tibshirani 1993, chapter 15)."""
    changes = changes[np.isfinite(changes)]
    least = min(np.count_nonzero(changes <= 0), np.count_nonzero(changes >= 0))
    return float(min(1.0, 2 * (least + 1) / (len(changes) + 1)))


def around(value: float, error: float, level: float, low: float = 0.0, high: float = 1.0) -> Interval:
    """The normal interval of a value with that standard error, within what is possible."""
    half = _normal(level) * error
    return max(low, value - half), min(high, value + half)


def normal_p_value(value: float, error: float) -> float:
    """Two-sided p-value that a value with that standard error is 0 in truth."""
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * scipy.stats.norm.sf(abs(value) / error))


def _normal(level: float) -> float:
    return float(scipy.stats.norm.ppf((1 + level) / 2))
