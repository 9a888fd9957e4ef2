"""The gate's metrics of a model's answers. Each is a function of sums over the images, except the AUC.

So the same lines compute the value for all images, for a slice, and for resampled images (`uncertainty.bootstrap`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.stats

from graftline.components.evaluator.scored import Scored
from graftline.components.evaluator.settings import PER_CLASS

ACCURACY, CROSS_ENTROPY, AUC, CALIBRATION = "accuracy", "cross_entropy", "auc", "expected_calibration_error"
TOP_K = {f"top_{k}_accuracy": k for k in (2, 3, 5, 10)}
MACRO = {"macro_precision": "precision", "macro_recall": "recall", "macro_f1": "f1"}
LOWER_IS_BETTER = (CROSS_ENTROPY, CALIBRATION)

# Tolerance for comparing a change with its bound: 0.80 - 0.81 is -0.010000000000000009.
ROUNDING = 1e-9
BINS = 15  # of confidence, as in Guo et al.
_SORTED = 50_000_000  # probabilities in memory at once for the AUC


@dataclass(frozen=True)
class Subset:
    """The images, and for a metric of one class the class, that a metric is computed for.

    Attributes:
      rows: int [n], indexes of the images; None for all. Precision, recall and F1 of one class need only the images of
        this class and those that were predicted as it.
      of_class: index of the class.
    """

    rows: np.ndarray | None = None
    of_class: int | None = None

    def of(self, values: np.ndarray) -> np.ndarray:
        """Return the values for these images."""
        return values if self.rows is None else values[self.rows]


ALL = Subset()


def hits(metric: str, scored: Scored, subset: Subset = ALL) -> np.ndarray | None:
    """Return bool [n], whose mean is the metric; None for a metric that is not a share of images."""
    if metric == ACCURACY:
        return subset.of(scored.right)
    if metric in TOP_K:
        return subset.of(scored.rank) < TOP_K[metric]
    if metric == "recall":
        return subset.of(scored.right)[subset.of(scored.label) == subset.of_class]
    if metric == "precision":
        return subset.of(scored.right)[subset.of(scored.predicted) == subset.of_class]
    return None


def value(metric: str, scored: Scored, subset: Subset = ALL) -> float:
    """Return the metric's value; NaN where it is not defined, as without images."""
    if metric == AUC:
        return auc(scored, subset)[0]
    sums = np.asarray(terms(metric, scored, subset).sum(axis=0), np.float64).reshape(1, -1)
    return float(from_sums(metric, sums)[0])


def terms(metric: str, scored: Scored, subset: Subset = ALL) -> scipy.sparse.csr_matrix:
    """Return what each image adds to the sums that `from_sums` computes the metric from; float64 [n, K]."""
    if metric in PER_CLASS:
        label, predicted = (subset.of(each) == subset.of_class for each in (scored.label, scored.predicted))
        return scipy.sparse.csr_matrix(np.stack([label & predicted, predicted, label], axis=1).astype(np.float64))
    if metric in MACRO:
        return macro_terms(subset.of(scored.label), subset.of(scored.predicted), len(scored.classes))
    if metric == CALIBRATION:
        return calibration_terms(subset.of(scored.right), subset.of(scored.confidence))
    of_each = subset.of(scored.loss) if metric == CROSS_ENTROPY else hits(metric, scored, subset)
    assert of_each is not None, metric
    return scipy.sparse.csr_matrix(np.stack([of_each.astype(np.float64), np.ones(len(of_each))], axis=1))


def from_sums(metric: str, sums: np.ndarray) -> np.ndarray:
    """Return the metric's value for each row of sums: float [B] for float [B, K]."""
    if metric in MACRO:
        counts = sums.reshape(len(sums), 3, -1)
        of_each = _of_counts(MACRO[metric], *(counts[:, which] for which in range(3)))
        present = (counts[:, 1] > 0) | (counts[:, 2] > 0)
        return _ratio((of_each * present).sum(axis=1), present.sum(axis=1))
    if metric in PER_CLASS:
        right, predicted, actual = sums.T
        return np.where(predicted + actual > 0, _of_counts(metric, right, predicted, actual), np.nan)
    if metric == CALIBRATION:
        return _ratio(np.abs(sums[:, :-1]).sum(axis=1), sums[:, -1])
    return _ratio(sums[:, 0], sums[:, 1])


def macro_terms(label: np.ndarray, predicted: np.ndarray, classes: int) -> scipy.sparse.csr_matrix:
    """Return what each image adds to three counts of each class; float64 [n, 3 * classes].

    The counts are: images of the class predicted as it, images predicted as it, images of it. As in scikit-learn, the
    mean is taken over the classes that some image has or was predicted as, and a class that was never predicted has a
    precision of 0.
    """
    right, labelled = label == predicted, label >= 0
    rows = np.arange(len(label))
    columns = np.concatenate([label[right], classes + predicted, 2 * classes + label[labelled]])
    cells = np.concatenate([rows[right], rows, rows[labelled]]), columns
    return scipy.sparse.csr_matrix((np.ones(len(columns)), cells), shape=(len(label), 3 * classes))


def calibration_terms(right: np.ndarray, confidence: np.ndarray) -> scipy.sparse.csr_matrix:
    """Return what each image adds to each bin's sum of (right - confidence), and 1; float64 [n, BINS + 1].

    The expected calibration error (Guo et al. 2017, On Calibration of Modern Neural Networks,
    https://proceedings.mlr.press/v70/guo17a.html, equation 3) is the mean, over the images, of the distance between
    accuracy and mean confidence in an image's bin. There are 15 bins of equal width; bin m holds the confidences over
    (m-1)/15 up to and including m/15.
    """
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    rows = np.arange(len(bins))
    values = np.concatenate([right - confidence, np.ones(len(bins))])
    cells = np.concatenate([rows, rows]), np.concatenate([bins, np.full(len(bins), BINS)])
    return scipy.sparse.csr_matrix((values, cells), shape=(len(bins), BINS + 1))


def auc(scored: Scored, subset: Subset = ALL) -> tuple[float, np.ndarray]:
    """Return the area under the ROC curve of each class against the rest, as the mean of the classes or of one class.

    The area is the share of pairs, an image of the class and one of another, in which the first has the higher
    probability for the class; equal ones count half. A class without such pairs has no area and is left out.

    Returns:
      The value, NaN where no class has one; and float64 [n], each image's share in the value's error. The root of the
      sum of the squared shares is the standard error (DeLong et al. 1988, doi:10.2307/2531595), and that of the squared
      differences of two models' shares is the standard error of the difference.
    """
    label = subset.of(scored.label)
    counts = np.bincount(label[label >= 0], minlength=len(scored.classes))
    classes = np.arange(len(scored.classes)) if subset.of_class is None else np.array([subset.of_class])
    classes = classes[(counts[classes] > 0) & (counts[classes] < len(label))]
    areas, errors = [], np.zeros(len(label))
    step = max(1, _SORTED // max(1, len(scored.label)))
    for begin in range(0, len(classes), step):
        portion: Sequence[int] = classes[begin : begin + step]
        columns = subset.of(np.asarray(scored.probabilities[:, portion]))
        for column, which in enumerate(portion):
            area, error = _auc_of(columns[:, column], label == which)
            areas.append(area)
            errors += error / len(classes)
    return (float(np.mean(areas)) if areas else float("nan")), errors


def _auc_of(probability: np.ndarray, of_class: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the area of one class and each image's share in its error (DeLong et al., equations 5 and 6)."""
    inside, outside = int(of_class.sum()), int((~of_class).sum())
    ranks = scipy.stats.rankdata(probability)
    beaten = np.empty(len(ranks))  # share of the other side that the image is ranked rightly against
    beaten[of_class] = (ranks[of_class] - scipy.stats.rankdata(probability[of_class])) / outside
    beaten[~of_class] = 1 - (ranks[~of_class] - scipy.stats.rankdata(probability[~of_class])) / inside
    area = float(beaten[of_class].mean())
    count = np.where(of_class, inside, outside)
    return area, (beaten - area) / np.sqrt(count * np.maximum(count - 1, 1))


def _of_counts(metric: str, right: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Return precision, recall or F1 from counts of any shape; 0 for 0 of 0."""
    fractions = {"precision": (right, predicted), "recall": (right, actual), "f1": (2 * right, predicted + actual)}
    upper, lower = fractions[metric]
    return np.divide(upper, lower, out=np.zeros(np.shape(upper)), where=lower > 0)


def _ratio(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return np.divide(upper, lower, out=np.full(np.shape(upper), np.nan), where=lower > 0)
