"""The Transform's graph: bytes to upright, resized, preprocessed pixels, and labels to indices."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from components import pixels, preprocessing
from graftline import features
from tests import assets, images
from tests.conftest import Transformed
from trainer import backbones

_ORIENTATIONS = list(range(1, 9))


@pytest.mark.parametrize("name", [*{row.family: row.name for row in backbones.BACKBONES.values()}.values()])
def test_preprocessing_is_that_of_the_backbones_own_family(name: str) -> None:
    row = backbones.get(name)
    image = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(row.preprocess_input(image.copy()))
    np.testing.assert_allclose(preprocessing.preprocess(tf.constant(image), row.preprocessing), expected, atol=1e-4)


def test_all_four_preprocessing_modes_are_in_the_registry() -> None:
    assert {row.preprocessing for row in backbones.BACKBONES.values()} == {"tf", "torch", "caffe", "none"}


@pytest.mark.parametrize("orientation", _ORIENTATIONS)
def test_images_are_turned_as_a_viewer_turns_them(orientation: int) -> None:
    data = images.encoded(images.draw("rot", 1, (37, 23)), orientation=orientation)
    stored = Image.fromarray(tf.io.decode_image(data, channels=3).numpy())
    stored.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(pixels.decode_upright(tf.constant(data)), np.asarray(ImageOps.exif_transpose(stored)))


@pytest.mark.parametrize("kind", [3, 4], ids=["SHORT", "LONG"])
@pytest.mark.parametrize("byte_order", [b"II", b"MM"])
def test_exif_is_read_in_both_byte_orders_and_after_other_segments(byte_order: bytes, kind: int) -> None:
    order = "little" if byte_order == b"II" else "big"

    def number(value: int, width: int) -> bytes:
        return value.to_bytes(width, order)  # type: ignore[arg-type]

    entries = [(0x010F, 2, b"abcd"), (0x0112, kind, number(6, 2) + b"\0\0" if kind == 3 else number(6, 4))]
    ifd = number(len(entries), 2) + b"".join(number(t, 2) + number(k, 2) + number(1, 4) + v for t, k, v in entries)
    body = b"Exif\0\0" + byte_order + number(42, 2) + number(8, 4) + ifd + number(0, 4)
    jpeg = images.encoded(images.draw("rot", 1))
    comment = b"\xff\xfe" + (2 + 70_00).to_bytes(2, "big") + b"x" * 70_00
    exif = b"\xff\xe1" + (2 + len(body)).to_bytes(2, "big") + body
    assert pixels.exif_orientation(tf.constant(jpeg[:2] + comment + b"\xff" + exif + jpeg[2:])) == 6


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_damaged_exif_block_means_upright(tail: bytes, in_exif: bool) -> None:
    head = b"\xff\xd8\xff\xe1\x00\x40Exif\0\0II*\0" if in_exif else b"\xff\xd8"
    assert 1 <= int(pixels.exif_orientation(tf.constant(head + tail))) <= 8


def test_orientation_in_another_format_is_not_taken_from_chance_bytes() -> None:
    assert pixels.exif_orientation(tf.constant(images.encoded(images.draw("rot", 1), "PNG"))) == 1


@assets.needs_assets
@pytest.mark.parametrize(
    "path", sorted((assets.ASSETS / "awkward/exif-orientation").glob("*.jpg")), ids=lambda p: p.name
)
def test_real_photos_are_turned_as_pillow_turns_them(path: pathlib.Path) -> None:
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    got = pixels.decode_upright(tf.constant(path.read_bytes())).numpy().astype(int)
    assert got.shape == expected.shape
    assert np.abs(got - expected).mean() < 2  # two JPEG decoders


@pytest.mark.parametrize("name", ["MobileNetV2", "VGG16", "DenseNet121", "MobileNetV3Large"])
def test_a_file_becomes_what_keras_would_make_of_it(name: str) -> None:
    """One backbone of each mode: tf, caffe, torch, none."""
    row = backbones.get(name)
    data = images.encoded(images.draw("green", 3, (90, 60)))
    image = keras.ops.image.resize(np.float32(tf.io.decode_image(data, channels=3)), (32, 32), antialias=True)
    expected = row.preprocess_input(keras.ops.convert_to_numpy(image).copy())
    got = preprocessing.preprocess(pixels.decode_batch(tf.constant([data]), 32), row.preprocessing)[0]
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_the_transforms_output_is_what_keras_would_make_of_the_file(transformed: Transformed) -> None:
    layer = tf.function(tft.TFTransformOutput(transformed.directory).transform_features_layer())
    data = images.encoded(images.draw("green", 3, (90, 60)))
    image = keras.ops.image.resize(np.float32(tf.io.decode_image(data, channels=3)), (32, 32), antialias=True)
    expected = keras.applications.mobilenet_v2.preprocess_input(keras.ops.convert_to_numpy(image).copy())
    np.testing.assert_allclose(layer({features.IMAGE: tf.constant([[data]])})[features.PIXELS][0], expected, atol=1e-4)


def test_resizing_is_antialiased_as_keras_does_it() -> None:
    data = images.encoded(images.draw("green", 3, (300, 200)))
    image = np.float32(tf.io.decode_image(data, channels=3))
    expected = keras.ops.image.resize(image, (32, 32), interpolation="bilinear", antialias=True)
    np.testing.assert_allclose(pixels.decode_batch(tf.constant([data]), 32)[0], expected, atol=1e-3)


def test_classes_are_in_sorted_order_whatever_their_frequency(transformed: Transformed) -> None:
    output = tft.TFTransformOutput(transformed.directory)
    with open(f"{output.transform_savedmodel_dir}/assets/{features.LABELS_FILE}") as file:
        assert file.read().splitlines() == sorted(images.CLASSES)


def test_a_label_that_train_never_had_gets_minus_one(transformed: Transformed) -> None:
    # As a function, like every caller: run eagerly the graph would decode an image that is not there.
    layer = tf.function(tft.TFTransformOutput(transformed.directory).transform_features_layer())
    got = layer({features.LABEL: tf.constant([["rot"], ["nowhere"], ["blue sky"]])})
    assert got[features.LABEL_INDEX].numpy().tolist() == [2, -1, 0]
