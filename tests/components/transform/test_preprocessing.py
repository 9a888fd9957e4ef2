"""Tests of `preprocessing_fn`: the backbones' preprocessing and the labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from graftline import features
from graftline.components.transform import pixels, preprocessing
from graftline.trainer import backbones
from tests import images
from tests.components.transform import preprocessing_modes
from tests.conftest import Transformed


@pytest.mark.parametrize("name", [*{row.family: row.name for row in backbones.BACKBONES.values()}.values()])
def test_preprocessing_is_that_of_the_backbones_own_family(name: str) -> None:
    row = backbones.get(name)
    image = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(row.preprocess_input(image.copy()))
    np.testing.assert_allclose(preprocessing.preprocess(tf.constant(image), row.preprocessing), expected, atol=1e-4)


@pytest.mark.parametrize("mode", preprocessing_modes.ALL)
def test_the_trainer_and_the_transform_make_the_same_pixels(mode: backbones.Mode) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(backbones.preprocess_input(mode)(image.copy()))
    np.testing.assert_allclose(preprocessing.preprocess(tf.constant(image), mode), expected, atol=1e-4)


def test_chosen_modes_mean_what_they_say() -> None:
    image = tf.constant([[[0.0, 51.0, 255.0]]])
    np.testing.assert_allclose(preprocessing.preprocess(image, "rescale")[0, 0], [0, 0.2, 1])
    got = preprocessing.preprocess(image, {"mean": [0.0, 1.0, 255.0], "variance": [1.0, 100.0, 4.0]})
    np.testing.assert_allclose(got[0, 0], [0, 5, 0])
    as_tf = preprocessing.preprocess(image, {"mean": 127.5, "variance": 127.5**2})
    np.testing.assert_allclose(as_tf, preprocessing.preprocess(image, "tf"), atol=1e-6)


def test_all_four_preprocessing_modes_are_in_the_registry() -> None:
    assert {row.preprocessing for row in backbones.BACKBONES.values()} == {"tf", "torch", "caffe", "none"}


@pytest.mark.parametrize("name", ["MobileNetV2", "VGG16", "DenseNet121", "MobileNetV3Large"])
def test_a_file_becomes_what_keras_would_make_of_it(name: str) -> None:
    """One backbone of each mode: tf, caffe, torch, none."""
    row = backbones.get(name)
    data = images.encode(images.draw("green", 3, (90, 60)))
    image = keras.ops.image.resize(np.float32(tf.io.decode_image(data, channels=3)), (32, 32), antialias=True)
    expected = row.preprocess_input(keras.ops.convert_to_numpy(image).copy())
    got = preprocessing.preprocess(pixels.decode_batch(tf.constant([data]), 32), row.preprocessing)[0]
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_the_transforms_output_is_what_keras_would_make_of_the_file(transformed: Transformed) -> None:
    layer = tf.function(tft.TFTransformOutput(transformed.directory).transform_features_layer())
    data = images.encode(images.draw("green", 3, (90, 60)))
    image = keras.ops.image.resize(np.float32(tf.io.decode_image(data, channels=3)), (32, 32), antialias=True)
    expected = keras.applications.mobilenet_v2.preprocess_input(keras.ops.convert_to_numpy(image).copy())
    np.testing.assert_allclose(layer({features.IMAGE: tf.constant([[data]])})[features.PIXELS][0], expected, atol=1e-4)


def test_classes_are_in_sorted_order_whatever_their_frequency(transformed: Transformed) -> None:
    output = tft.TFTransformOutput(transformed.directory)
    with open(f"{output.transform_savedmodel_dir}/assets/{features.LABELS_FILE}") as file:
        assert file.read().splitlines() == sorted(images.CLASSES)


def test_a_label_that_train_never_had_gets_minus_one(transformed: Transformed) -> None:
    # As a function, like every caller: run eagerly the graph would decode an image that is not there.
    layer = tf.function(tft.TFTransformOutput(transformed.directory).transform_features_layer())
    got = layer({features.LABEL: tf.constant([["rot"], ["nowhere"], ["blue sky"]])})
    assert got[features.LABEL_INDEX].numpy().tolist() == [2, -1, 0]
