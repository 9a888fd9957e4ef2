"""The gate's metrics against scikit-learn and against sums done by hand."""

import numpy as np
import pytest
import scipy.sparse
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from graftline.components.evaluator import metrics, scored, uncertainty
from graftline.components.evaluator.metrics import Subset

CLASSES = ("a", "b", "c", "d")


def answers(images: int = 200, classes: tuple[str, ...] = CLASSES, seed: int = 0, skill: float = 1.0) -> scored.Scored:
    """Drawn answers of a model that is right more often than not; ties among the probabilities included."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, len(classes), images)
    logits = rng.normal(size=(images, len(classes))) + skill * np.eye(len(classes))[label]
    raised = np.round(np.exp(logits), 1) + 0.1
    return of(label, raised / raised.sum(axis=1, keepdims=True), classes)


def of(label: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...] = CLASSES) -> scored.Scored:
    """Worked off in two batches."""
    probabilities = probabilities.astype(np.float32)
    half = len(label) // 2
    batches = [(label[:half], probabilities[:half]), (label[half:], probabilities[half:])]
    return scored.score(classes, batches, np.zeros(probabilities.shape, np.float32))


@pytest.fixture(scope="module")
def some() -> scored.Scored:
    return answers()


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "theirs"),
    [
        ("accuracy", lambda y, p, s: sklearn.metrics.accuracy_score(y, p)),
        ("macro_precision", lambda y, p, s: sklearn.metrics.precision_score(y, p, average="macro", zero_division=0)),
        ("macro_recall", lambda y, p, s: sklearn.metrics.recall_score(y, p, average="macro", zero_division=0)),
        ("macro_f1", lambda y, p, s: sklearn.metrics.f1_score(y, p, average="macro", zero_division=0)),
        ("auc", lambda y, p, s: np.mean([sklearn.metrics.roc_auc_score(y == c, s[:, c]) for c in range(s.shape[1])])),
        ("cross_entropy", lambda y, p, s: sklearn.metrics.log_loss(y, s / s.sum(axis=1, keepdims=True, dtype=float))),
    ],
)
def test_a_metric_is_scikit_learns(some: scored.Scored, metric: str, theirs) -> None:
    expected = theirs(some.label, some.predicted, some.probabilities)
    assert metrics.value(metric, some) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [2, 3])
def test_top_k_accuracy_is_scikit_learns_where_no_probabilities_are_equal(k: int) -> None:
    rng = np.random.default_rng(1)
    drawn = of(rng.integers(0, 4, 100), rng.dirichlet(np.ones(4), 100).astype(np.float32))
    expected = sklearn.metrics.top_k_accuracy_score(drawn.label, drawn.probabilities, k=k, labels=range(4))
    assert metrics.value(f"top_{k}_accuracy", drawn) == pytest.approx(expected)


def test_top_k_accuracy_of_no_more_than_k_classes_is_one(some: scored.Scored) -> None:
    assert metrics.value("top_5_accuracy", some) == 1


@pytest.mark.parametrize("metric", ["precision", "recall", "f1"])
def test_figures_of_one_class_are_scikit_learns(some: scored.Scored, metric: str) -> None:
    theirs = getattr(sklearn.metrics, f"{metric}_score")(some.label, some.predicted, average=None)
    for which in range(4):
        concerned = np.flatnonzero((some.label == which) | (some.predicted == which))
        for rows in (None, concerned):
            assert metrics.value(metric, some, Subset(rows, which)) == pytest.approx(theirs[which])


def test_a_class_that_is_never_seen_and_never_said_is_left_out_of_the_mean() -> None:
    fewer = of(np.array([0, 0, 1, 1]), np.eye(4, dtype=np.float32)[[0, 0, 1, 2]])
    # Class c was said, wrongly: 0 of everything. Class d was not there at all.
    assert metrics.value("macro_precision", fewer) == pytest.approx((1 + 1 + 0) / 3)
    assert metrics.value("macro_recall", fewer) == pytest.approx((1 + 0.5 + 0) / 3)


def test_the_expected_calibration_error_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.60, 0.60, 1 / 3, 2 / 15])
    right = np.array([True, True, True, False, True, False, False, False])
    # The bin of (14/15, 1] holds four: .75 right, .95 sure. That of (8/15, 9/15] two: .5 right, .6 sure. 1/3 ends the
    # fifth bin, 2/15 the second; both are wrong.
    expected = (4 * 0.2 + 2 * 0.1 + 1 / 3 + 2 / 15) / 8
    sums = np.asarray(metrics.calibration_terms(right, confidence).sum(axis=0)).reshape(1, -1)
    assert metrics.from_sums("expected_calibration_error", sums)[0] == pytest.approx(expected)


def test_a_bin_holds_its_upper_end_and_not_its_lower_one() -> None:
    terms = metrics.calibration_terms(np.zeros(3, bool), np.array([0.2, np.nextafter(0.2, 1), 1.0]))
    assert [row.indices[0] for row in map(scipy.sparse.csr_matrix, terms)] == [2, 3, 14]


def test_a_model_that_is_as_sure_as_it_is_right_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), 200_000)
    label = (probabilities.cumsum(axis=1) < rng.random((200_000, 1))).sum(axis=1)
    drawn = of(label, probabilities.astype(np.float32), CLASSES[:3])
    assert metrics.value("expected_calibration_error", drawn) < 0.01
    surer = of(label, (np.eye(3)[drawn.predicted] * 0.9 + 0.1 * probabilities).astype(np.float32), CLASSES[:3])
    assert metrics.value("expected_calibration_error", surer) > 0.2


def test_an_image_of_a_class_that_the_model_does_not_know_is_wrong_in_every_respect() -> None:
    both = of(np.array([0, -1]), np.full((2, 4), 0.25, np.float32))
    assert metrics.value("accuracy", both) == metrics.value("top_10_accuracy", both) == 0.5
    assert metrics.value("cross_entropy", both) == pytest.approx((np.log(4) - np.log(1e-7)) / 2)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "auc", "cross_entropy", "expected_calibration_error"])
def test_no_images_give_no_number(metric: str) -> None:
    assert np.isnan(metrics.value(metric, of(np.zeros(0, int), np.zeros((0, 4), np.float32))))


def test_a_metric_of_a_slice_is_that_of_its_images_alone(some: scored.Scored) -> None:
    rows = np.arange(0, 200, 3)
    alone = of(some.label[rows], some.probabilities[rows])
    for metric in ("accuracy", "top_2_accuracy", "macro_f1", "auc", "cross_entropy", "expected_calibration_error"):
        assert metrics.value(metric, some, Subset(rows)) == pytest.approx(metrics.value(metric, alone))


@given(st.integers(0, 2**32 - 1), st.sampled_from(["accuracy", "macro_precision", "macro_f1", "auc", "cross_entropy"]))
@settings(max_examples=50, deadline=None)
def test_a_metric_does_not_depend_on_the_order_of_the_images(seed: int, metric: str) -> None:
    drawn = answers(40, seed=seed)
    order = np.random.default_rng(seed).permutation(40)
    shuffled = of(drawn.label[order], drawn.probabilities[order])
    assert metrics.value(metric, drawn) == pytest.approx(metrics.value(metric, shuffled), nan_ok=True)


# --- classes that two models share ------------------------------------------------------------------------------------


def test_restricted_probabilities_are_those_of_a_softmax_over_the_classes_that_stay() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    kept = np.exp(logits[:, [2, 0]]) / np.exp(logits[:, [2, 0]]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scored.restricted(softmax, [2, 0]), kept, rtol=1e-6)


def test_where_nothing_is_left_of_the_probabilities_each_class_is_as_likely() -> None:
    np.testing.assert_array_equal(scored.restricted(np.array([[0.0, 0.0, 1.0]]), [0, 1]), [[0.5, 0.5]])


# --- the error of the AUC ---------------------------------------------------------------------------------------------


def test_the_standard_error_of_the_auc_is_that_of_new_samples() -> None:
    found = [metrics.auc(answers(300, CLASSES[:2], seed, skill=0.5)) for seed in range(200)]
    spread = np.std([area for area, _ in found])
    told = np.mean([np.sqrt((errors**2).sum()) for _, errors in found])
    assert told == pytest.approx(spread, rel=0.15)


def test_the_error_of_the_difference_of_two_aucs_of_the_same_model_is_none(some: scored.Scored) -> None:
    difference = metrics.auc(some)[1] - metrics.auc(some)[1]
    assert uncertainty.normal_p_value(0.0, float(np.sqrt((difference**2).sum()))) == 1.0


def test_the_columns_of_many_images_are_sorted_in_portions_with_the_same_result(
    some: scored.Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    area, errors = metrics.auc(some)
    monkeypatch.setattr(metrics, "_SORTED", 250)
    again, same_errors = metrics.auc(some)
    assert again == pytest.approx(area)
    np.testing.assert_allclose(same_errors, errors)
