"""The losses: what label smoothing and class weights change, and what they do not change."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from graftline.trainer import losses

_LABELS = np.array([0, 2, 1, 2], np.int64)
_PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4], [0.5, 0.25, 0.25]], np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothing_is_cross_entropy_against_labels_that_are_spread_over_all_classes(smoothing: float) -> None:
    smoothed = np.eye(3)[_LABELS] * (1 - smoothing) + smoothing / 3
    expected = -(smoothed * np.log(_PROBABILITIES)).sum(axis=1).mean()
    np.testing.assert_allclose(losses.build(smoothing)(_LABELS, _PROBABILITIES), expected, rtol=1e-5)


def test_smoothing_is_what_keras_computes_of_one_hot_labels() -> None:
    theirs = keras.losses.CategoricalCrossentropy(label_smoothing=0.2)(np.eye(3)[_LABELS], _PROBABILITIES)
    np.testing.assert_allclose(losses.build(0.2)(_LABELS, _PROBABILITIES), theirs, rtol=1e-6)


def test_with_smoothing_a_sure_answer_costs_more_than_a_nearly_sure_one() -> None:
    label = np.array([0], np.int64)
    sure, nearly = np.array([[0.9998, 0.0001, 0.0001]]), np.array([[0.9, 0.05, 0.05]])
    assert losses.build(0.0)(label, sure) < losses.build(0.0)(label, nearly)
    assert losses.build(0.1)(label, sure) > losses.build(0.1)(label, nearly)


def test_classes_with_fewer_images_weigh_more_and_the_mean_over_all_images_is_1() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2], np.int64)
    weights = losses.class_weights(labels)
    assert weights == {0: pytest.approx(10 / 18), 1: pytest.approx(10 / 9), 2: pytest.approx(10 / 3)}
    assert sum(weights[label] for label in labels) == pytest.approx(len(labels))


def test_a_class_without_images_has_no_weight_and_does_not_change_the_others() -> None:
    assert losses.class_weights(np.array([0, 0, 0, 2], np.int64)) == {0: pytest.approx(2 / 3), 2: pytest.approx(2)}


# --- in `fit` ---------------------------------------------------------------------------------------------------------

_RARE = np.array([0, 0, 1, 3], np.int64)  # one of four classes has two images, and one has none


def _images(labels: np.ndarray) -> np.ndarray:
    return np.stack([np.random.default_rng(int(label)).normal(size=5) for label in labels]).astype(np.float32)


def _model(smoothing: float = 0.0) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([5]), keras.layers.Dense(4, activation="softmax")])
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(keras.optimizers.SGD(0.1), losses.build(smoothing), metrics=[accuracy], jit_compile=False)
    return model


class _PyDataset(keras.utils.PyDataset):
    """Return one batch of all images."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__()
        self._batch = x, y

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._batch


def _tf_data(x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(len(y))


@pytest.mark.parametrize("feed", [_PyDataset, _tf_data])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_balanced_weights_train_as_if_each_class_had_as_many_images(feed: type, smoothing: float) -> None:
    weighted, repeated = _model(smoothing), _model(smoothing)
    weights = losses.class_weights(_RARE)
    weighted.fit(feed(_images(_RARE), _RARE), class_weight=weights, epochs=3, verbose=0)
    as_many = np.array([0, 0, 1, 1, 3, 3], np.int64)
    repeated.fit(feed(_images(as_many), as_many), epochs=3, verbose=0)
    unweighted = _model(smoothing)
    unweighted.fit(feed(_images(_RARE), _RARE), epochs=3, verbose=0)
    for ours, theirs, without in zip(
        weighted.get_weights(), repeated.get_weights(), unweighted.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert np.abs(ours - without).max() > 1e-3


@pytest.mark.parametrize("feed", [_PyDataset, _tf_data])
def test_weights_do_not_change_how_the_eval_split_is_judged(feed: type) -> None:
    model, data = _model(), feed(_images(_RARE), _RARE)
    history = model.fit(data, validation_data=data, class_weight={0: 9.0, 1: 0.1, 3: 0.1}, verbose=0).history
    metrics = model.evaluate(data, verbose=0, return_dict=True)
    assert history["val_loss"] == [pytest.approx(metrics["loss"])]
    assert history["val_accuracy"] == [metrics["accuracy"]]
    per_image = -np.log(model.predict(_images(_RARE), verbose=0)[np.arange(4), _RARE])
    assert metrics["loss"] == pytest.approx(per_image.mean(), rel=1e-5)


def test_a_model_that_is_saved_with_the_smoothed_loss_is_loaded_with_it(tmp_path: pathlib.Path) -> None:
    model, data = _model(0.3), _tf_data(_images(_RARE), _RARE)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(data, verbose=0) == pytest.approx(model.evaluate(data, verbose=0))
