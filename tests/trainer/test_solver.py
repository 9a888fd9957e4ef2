"""A head that is solved: scikit-learn's own answers, the optimum, and the same model whichever way it gets its rows."""

import pathlib

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from graftline.errors import UserError
from graftline.trainer import head_layers, solver
from graftline.trainer.settings import FeatureExtractionSettings
from tests.trainer.runs import Data, assert_trained_alike, photos, prepare, train_both_phases, write_records

LOGISTIC = {"feature_extraction": {"solver": "logistic_regression"}}
ONE_PHASE = {"fine_tuning": {"epochs": 0}}


def _settings(kind: str, **options: float) -> FeatureExtractionSettings:
    return FeatureExtractionSettings(solver=kind, solver_options=options)


def _features(classes: int = 4, images: int = 120, noise: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return features [n, 10] of very unlike scales, one of them constant, and labels [n]."""
    random = np.random.default_rng(5)
    labels = np.arange(images) % classes
    features = random.normal(size=(classes, 10))[labels] + noise * random.normal(size=(images, 10))
    features = features * np.logspace(-2, 2, 10) + 7
    features[:, 3] = 2.5
    return features, labels


def _solve(kind: str, features: np.ndarray, labels: np.ndarray, classes: int, **changed: object) -> solver.LinearHead:
    arguments = {"images": np.arange(len(labels)), "balanced": False, "seed": 1, **changed}
    return solver.solve(_settings(kind), features, labels, classes=classes, **arguments)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_logistic_head_predicts_what_scikit_learns_pipeline_does(classes: int, balanced: bool) -> None:
    features, labels = _features(classes)
    features, labels = features[20:], np.where(np.arange(len(labels)) % 7 == 0, 0, labels)[20:]
    head = _solve("logistic_regression", features, labels, classes, balanced=balanced)
    weight = "balanced" if balanced else None
    theirs = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-6, max_iter=2000, class_weight=weight))
    theirs.fit(features, labels)
    assert head.converged
    np.testing.assert_allclose(softmax(head.logits(features), axis=1), theirs.predict_proba(features), atol=1e-4)


def test_the_logistic_head_is_the_optimum() -> None:
    features, labels = _features()
    head = _solve("logistic_regression", features, labels, 4)
    scaler = StandardScaler().fit(features)
    kernel = head.kernel * scaler.scale_[:, None]
    error = softmax(head.logits(features), axis=1) - np.eye(4)[labels]
    gradient = (scaler.transform(features).T @ error + kernel) / len(labels)  # of the mean loss, with C = 1
    assert np.abs(gradient).max() < 1e-5
    assert np.abs(error.mean(axis=0)).max() < 1e-5
    assert np.abs(kernel).max() > 0.1


def test_a_solver_that_is_stopped_early_says_so() -> None:
    features, labels = _features()
    settings = _settings("logistic_regression", max_iter=1)
    head = solver.solve(settings, features, labels, np.arange(len(labels)), 4, False, 1)
    assert not head.converged


@pytest.mark.parametrize("classes", [2, 4])
def test_the_svm_ranks_as_scikit_learns_and_its_probabilities_fit_unseen_images(classes: int) -> None:
    features, labels = _features(classes, images=600)
    train, unseen = slice(0, 200), slice(200, None)
    head = _solve("linear_svm", features[train], labels[train], classes)
    theirs = make_pipeline(StandardScaler(), LinearSVC(dual="auto", max_iter=20000, random_state=1))
    theirs.fit(features[train], labels[train])
    logits = head.logits(features[unseen])
    np.testing.assert_array_equal(logits.argmax(axis=1), theirs.predict(features[unseen]))

    def loss(factor: float) -> float:
        rows = np.arange(len(logits))
        return -log_softmax(factor * logits, axis=1)[rows, labels[unseen]].mean()

    best = min(loss(factor) for factor in np.logspace(-2, 2, 201))
    assert loss(1) < best + 0.02, "one temperature cannot be much better on unseen images"


def test_margins_that_are_all_right_keep_finite_probabilities() -> None:
    features, labels = _features(3, noise=0.01)
    head = _solve("linear_svm", features, labels, 3)
    probabilities = softmax(head.logits(features), axis=1)
    assert (probabilities.argmax(axis=1) == labels).all()
    assert 0.9 < probabilities.max(axis=1).mean() < 0.99999


def test_views_of_an_image_weigh_as_much_as_the_image() -> None:
    features, labels = _features()
    once = _solve("logistic_regression", features, labels, 4)
    twice = _solve(
        "logistic_regression", np.tile(features, (2, 1)), np.tile(labels, 2), 4, images=np.tile(np.arange(120), 2)
    )
    np.testing.assert_allclose(twice.logits(features), once.logits(features), atol=1e-4)


@pytest.mark.parametrize("kind", ["logistic_regression", "linear_svm"])
def test_a_class_without_images_is_improbable(kind: str) -> None:
    features, labels = _features(2)
    head = _solve(kind, features, labels * 2, 4)
    probabilities = softmax(head.logits(features), axis=1)
    assert probabilities[:, [1, 3]].max() < 0.02
    assert np.isfinite(head.bias).all()


def test_a_class_of_one_image_is_solved_too() -> None:
    features, labels = _features(3)
    labels[labels == 2] = 1
    labels[0] = 2
    head = _solve("linear_svm", features, labels, 3)
    assert np.isfinite(head.kernel).all()


def test_one_class_alone_is_refused() -> None:
    features, labels = _features()
    with pytest.raises(UserError, match="images of one class only"):
        _solve("logistic_regression", features, labels * 0, 4)


def test_too_many_features_for_the_memory_are_refused() -> None:
    solver.check_memory(100_000, 1, 1280)
    with pytest.raises(UserError, match=r"100,000 images in 4 views with 25,088 features need 74\.8 GiB"):
        solver.check_memory(100_000, 4, 25_088)


def test_the_layers_with_weights_are_those_that_keras_gives_weights() -> None:
    arguments = {
        "units": 2, "filters": 2, "kernel_size": 1, "pool_size": 1, "rate": 0.5, "stddev": 0.5, "scale": 0.5,
        "groups": 1, "activation": "relu",
    }  # fmt: skip
    with_weights = set()
    for kind, types in head_layers.LAYERS.items():
        of_kind = {key: value for key, value in arguments.items() if key in types}
        layer = getattr(keras.layers, kind)(**of_kind)
        layer(np.ones((1, 4, 4, 2), np.float32))
        with_weights |= {kind} if layer.weights else set()
    assert with_weights == head_layers.WITH_WEIGHTS


# --- in a training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["logistic_regression", pytest.param("linear_svm", marks=pytest.mark.slow)])
def test_the_model_answers_what_the_solver_found_on_its_features(data: Data, tmp_path: pathlib.Path, kind: str) -> None:
    changed = {"feature_extraction": {"solver": kind}, "head": {"dropout": 0.3}, **ONE_PHASE}
    outcome = train_both_phases(data, tmp_path, **changed)
    prepared = outcome.training
    train, val = prepared.dataset.train, prepared.dataset.val
    ((pixels, labels),) = prepared.pixels.batches(train, lambda: np.arange(len(train)), len(train))
    ((held_out, _),) = prepared.pixels.batches(val, lambda: np.arange(len(val)), len(val))
    features = keras.Model(prepared.grafted.model.inputs, prepared.grafted.embedding)
    head = solver.solve(
        prepared.settings.feature_extraction,
        features.predict(pixels, verbose=0).astype(np.float64),
        labels.numpy(),
        np.arange(len(train)),
        3,
        False,
        prepared.settings.seed,
    )
    expected = softmax(head.logits(features.predict(held_out, verbose=0)), axis=1)
    np.testing.assert_allclose(outcome.probabilities, expected, atol=1e-3 if kind == "linear_svm" else 1e-4)
    assert np.abs(expected - 1 / 3).max() > 0.1


@pytest.mark.slow
def test_fine_tuning_goes_on_from_a_solved_head_and_the_cache_changes_nothing(
    data: Data, tmp_path: pathlib.Path
) -> None:
    changed = {
        "feature_extraction": {"solver": "logistic_regression", "solver_options": {"C": 0.001}},
        "fine_tuning": {"learning_rate": 1e-3},
        "augmentation": {"flip": "horizontal", "rotation": 0.1, "views": 2},
    }
    cached = train_both_phases(data, tmp_path / "cached", **changed)
    streamed = train_both_phases(data, tmp_path / "streamed", **changed, boundary_cache={"enabled": False})
    assert [phase.name for phase in cached.training.phases] == ["feature_extraction", "fine_tuning"]
    assert_trained_alike(streamed, cached, 1e-3)


@pytest.mark.slow
def test_two_classes_with_one_logit_are_solved(data: Data, tmp_path: pathlib.Path, analyse) -> None:
    two = [photo for photo in photos(range(8)) if photo[0] != photos([0])[2][0]]
    labels = tuple(sorted({photo[0] for photo in two}))
    records = [write_records(tmp_path / "train", two)]
    both = Data(analyse(labels=labels), records, records)
    results = [
        train_both_phases(both, tmp_path / output, **LOGISTIC, **ONE_PHASE, head={"output": output})
        for output in ("softmax", "sigmoid")
    ]
    assert results[1].training.grafted.model.get_layer("logit").kernel.shape[-1] == 1
    np.testing.assert_allclose(results[1].probabilities, results[0].probabilities, atol=1e-4)
    assert results[0].probabilities.max() > 0.7


def test_the_features_are_checked_against_the_memory_before_they_are_computed(
    data: Data, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver, "_MAX_BYTES", 1 << 10)
    with pytest.raises(UserError, match=r"feature_extraction\.solver keeps all features in memory"):
        prepare(data, tmp_path, **LOGISTIC)
    assert not (tmp_path / "state").exists()
