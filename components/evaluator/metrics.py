"""The gate's metrics, from the answers of a model: each a function of sums over the images, but for the AUC.

So the value of all images, of a slice, of images drawn anew (`uncertainty.bootstrap`) and of what Beam's workers each
counted (`tfma_metrics`) come from the same lines.
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

# A change is held against its bound with this much to spare: 0.80 - 0.81 is -0.010000000000000009.
ROUNDING = 1e-9
BINS = 15  # of confidence, as in Guo et al.
_COLUMNS = 50_000_000  # probabilities that are sorted at once


@dataclass(frozen=True)
class Part:
    """Of which images: `rows`, int [n], or all when None. Precision, recall, F1 and AUC of one class name it.

    Precision, recall and F1 need only the rows of the class and those that were called so.
    """

    rows: np.ndarray | None = None
    of_class: int | None = None

    def of(self, values: np.ndarray) -> np.ndarray:
        """The values of these images."""
        return values if self.rows is None else values[self.rows]


ALL = Part()


def hits(metric: str, scored: Scored, part: Part = ALL) -> np.ndarray | None:
    """bool [n]: what a metric that is a share of images is the share of; None for one that is none."""
    if metric == ACCURACY:
        return part.of(scored.right)
    if metric in TOP_K:
        return part.of(scored.rank) < TOP_K[metric]
    if metric == "recall":
        return part.of(scored.right)[part.of(scored.label) == part.of_class]
    if metric == "precision":
        return part.of(scored.right)[part.of(scored.predicted) == part.of_class]
    return None


def value(metric: str, scored: Scored, part: Part = ALL) -> float:
    """The metric; not a number where it is not defined, as on no images."""
    if metric == AUC:
        return auc(scored, part)[0]
    sums = np.asarray(terms(metric, scored, part).sum(axis=0), np.float64).reshape(1, -1)
    return float(of_sums(metric, sums)[0])


def terms(metric: str, scored: Scored, part: Part = ALL) -> scipy.sparse.csr_matrix:
    """What each image adds to the sums that `of_sums` makes the metric of; float64 [n, K]."""
    if metric in PER_CLASS:
        label, predicted = (part.of(each) == part.of_class for each in (scored.label, scored.predicted))
        return scipy.sparse.csr_matrix(np.stack([label & predicted, predicted, label], axis=1).astype(np.float64))
    if metric in MACRO:
        return macro_terms(part.of(scored.label), part.of(scored.predicted), len(scored.classes))
    if metric == CALIBRATION:
        return calibration_terms(part.of(scored.right), part.of(scored.confidence))
    of_each = part.of(scored.loss) if metric == CROSS_ENTROPY else hits(metric, scored, part)
    assert of_each is not None, metric
    return scipy.sparse.csr_matrix(np.stack([of_each.astype(np.float64), np.ones(len(of_each))], axis=1))


def of_sums(metric: str, sums: np.ndarray) -> np.ndarray:
    """The metric of each row of sums, float [B, K] to float [B]."""
    if metric in MACRO:
        counts = sums.reshape(len(sums), 3, -1)
        of_each = _of_counts(MACRO[metric], *(counts[:, which] for which in range(3)))
        there = (counts[:, 1] > 0) | (counts[:, 2] > 0)
        return _ratio((of_each * there).sum(axis=1), there.sum(axis=1))
    if metric in PER_CLASS:
        found, predicted, actual = sums.T
        return np.where(predicted + actual > 0, _of_counts(metric, found, predicted, actual), np.nan)
    if metric == CALIBRATION:
        return _ratio(np.abs(sums[:, :-1]).sum(axis=1), sums[:, -1])
    return _ratio(sums[:, 0], sums[:, 1])


def macro_terms(label: np.ndarray, predicted: np.ndarray, classes: int) -> scipy.sparse.csr_matrix:
    """Of each class: images found, images called so, images of it; float64 [n, 3 * classes].

    The mean is taken over the classes that some image is of or was called, as scikit-learn takes it. A class that no
    image was called has a precision of 0.
    """
    right, known = label == predicted, label >= 0
    rows = np.arange(len(label))
    cells = np.concatenate([label[right], classes + predicted, 2 * classes + label[known]])
    ones = np.ones(len(cells))
    return scipy.sparse.csr_matrix(
        (ones, (np.concatenate([rows[right], rows, rows[known]]), cells)), shape=(len(label), 3 * classes)
    )


def calibration_terms(right: np.ndarray, confidence: np.ndarray) -> scipy.sparse.csr_matrix:
    """Of each bin of confidence the sum of (right - confidence), and the images; float64 [n, BINS + 1].

    The expected calibration error (Guo et al. 2017, On Calibration of Modern Neural Networks,
    https://proceedings.mlr.press/v70/guo17a.html, equation 3) is the mean over the images of how far accuracy and
    mean confidence of their bin lie apart. There are 15 bins of equal width; bin m holds the confidences over (m-1)/15
    up to and with m/15.
    """
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    rows = np.arange(len(bins))
    return scipy.sparse.csr_matrix(
        (
            np.concatenate([right - confidence, np.ones(len(bins))]),
            (np.concatenate([rows, rows]), np.concatenate([bins, np.full(len(bins), BINS)])),
        ),
        shape=(len(bins), BINS + 1),
    )


def auc(scored: Scored, part: Part = ALL) -> tuple[float, np.ndarray]:
    """The area under the ROC curve of each class against the rest, the mean of the classes; or of one class.

    It is the share of the pairs of an image of the class and one of another in which the first has the higher
    probability of the class, ties counting half. A class without either has none and is left out.

    Returns:
      The value, not a number where no class has one; and float64 [n], the share of each image in the value's error:
      the root of the sum of their squares is its standard error, as DeLong et al. 1988 (doi:10.2307/2531595) have it,
      and that of the sum of squared differences the standard error of the difference of two models.
    """
    label = part.of(scored.label)
    counts = np.bincount(label[label >= 0], minlength=len(scored.classes))
    asked = np.arange(len(scored.classes)) if part.of_class is None else np.array([part.of_class])
    classes = asked[(counts[asked] > 0) & (counts[asked] < len(label))]
    areas, errors = [], np.zeros(len(label))
    step = max(1, _COLUMNS // max(1, len(scored.label)))
    for begin in range(0, len(classes), step):
        some: Sequence[int] = classes[begin : begin + step]
        columns = part.of(np.asarray(scored.probabilities[:, some]))
        for column, which in enumerate(some):
            area, error = _auc_of(columns[:, column], label == which)
            areas.append(area)
            errors += error / len(classes)
    return (float(np.mean(areas)) if areas else float("nan")), errors


def _auc_of(probability: np.ndarray, of_class: np.ndarray) -> tuple[float, np.ndarray]:
    """The area of one class and what each image has in its error (DeLong et al., equations 5 and 6)."""
    inside, outside = int(of_class.sum()), int((~of_class).sum())
    ranks = scipy.stats.rankdata(probability)
    beaten = np.empty(len(ranks))  # share of the other side that this image is on the right side of
    beaten[of_class] = (ranks[of_class] - scipy.stats.rankdata(probability[of_class])) / outside
    beaten[~of_class] = 1 - (ranks[~of_class] - scipy.stats.rankdata(probability[~of_class])) / inside
    area = float(beaten[of_class].mean())
    many = np.where(of_class, inside, outside)
    return area, (beaten - area) / np.sqrt(many * np.maximum(many - 1, 1))


def _of_counts(metric: str, found: np.ndarray, predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Precision, recall or F1 from counts of any shape; 0 where it is 0 of 0."""
    upper, lower = {
        "precision": (found, predicted),
        "recall": (found, actual),
        "f1": (2 * found, predicted + actual),
    }[metric]
    return np.divide(upper, lower, out=np.zeros(np.shape(upper)), where=lower > 0)


def _ratio(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return np.divide(upper, lower, out=np.full(np.shape(upper), np.nan), where=lower > 0)
