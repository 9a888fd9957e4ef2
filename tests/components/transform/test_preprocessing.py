"""The Transform's graph: bytes to upright, resized, preprocessed pixels, and labels to indices."""

import hashlib
import json
import math
import pathlib
import shutil
import zlib
from fractions import Fraction
from typing import get_args

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from graftline import features
from graftline import materialized as names
from graftline.components.transform import pixels, preprocessing
from graftline.errors import UserError
from graftline.pipeline import config_file
from graftline.pipeline.dag import create_pipeline
from graftline.pipeline.site import Site
from graftline.trainer import backbones, inputs, reference
from graftline.trainer.settings import BackboneSettings
from graftline.workspace import Workspace
from tests import assets, images
from tests.conftest import Materialized, Transformed

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
    data = images.encode(images.draw("rot", 1, (37, 23)), orientation=orientation)
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
    jpeg = images.encode(images.draw("rot", 1))
    comment = b"\xff\xfe" + (2 + 70_00).to_bytes(2, "big") + b"x" * 70_00
    exif = b"\xff\xe1" + (2 + len(body)).to_bytes(2, "big") + body
    assert pixels.exif_orientation(tf.constant(jpeg[:2] + comment + b"\xff" + exif + jpeg[2:])) == 6


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_damaged_exif_block_means_upright(tail: bytes, in_exif: bool) -> None:
    head = b"\xff\xd8\xff\xe1\x00\x40Exif\0\0II*\0" if in_exif else b"\xff\xd8"
    assert 1 <= int(pixels.exif_orientation(tf.constant(head + tail))) <= 8


def test_orientation_in_another_format_is_not_taken_from_chance_bytes() -> None:
    assert pixels.exif_orientation(tf.constant(images.encode(images.draw("rot", 1), "PNG"))) == 1


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


def test_resizing_is_antialiased_as_keras_does_it() -> None:
    data = images.encode(images.draw("green", 3, (300, 200)))
    image = np.float32(tf.io.decode_image(data, channels=3))
    expected = keras.ops.image.resize(image, (32, 32), interpolation="bilinear", antialias=True)
    np.testing.assert_allclose(pixels.decode_batch(tf.constant([data]), 32)[0], expected, atol=1e-3)


def _square(image: np.ndarray, size: int, resize: pixels.Resize) -> np.ndarray:
    """What each mode means, in Pillow and NumPy: uint8 [h, w, 3] to float32 [size, size, 3]."""
    height, width = image.shape[:2]
    if resize == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    # Rounded by fractions: size * side / longest may lie on a half, where floats would say one or the other.
    exact = [Fraction(side * size, max(height, width)) if resize == "pad" else size for side in (height, width)]
    rows, columns = (max(1, math.floor(side + Fraction(1, 2))) for side in exact)
    # In mode F, for Pillow rounds what it resizes of bytes after each of the two axes.
    channels = [Image.fromarray(image[..., c].astype(np.float32), "F") for c in range(3)]
    resized = [np.asarray(one.resize((columns, rows), Image.Resampling.BILINEAR)) for one in channels]
    above, before = (size - rows) // 2, (size - columns) // 2
    around = ((above, size - rows - above), (before, size - columns - before), (0, 0))
    return np.pad(np.stack(resized, axis=-1), around)


_SIDES = [
    (1, 1),
    (1, 3000),
    (3000, 1),
    (2, 3),
    (37, 23),
    (23, 37),
    (32, 32),
    (31, 33),
    (199, 200),
    (500, 333),
    (64, 63),
]
_MODES: tuple[pixels.Resize, ...] = get_args(pixels.Resize)


@pytest.mark.parametrize("resize", _MODES)
@pytest.mark.parametrize("size", [32, 33])
def test_each_way_to_a_square_is_that_of_pillow_pixel_for_pixel(resize: pixels.Resize, size: int) -> None:
    random = np.random.default_rng(0)
    given = [random.integers(0, 256, (*sides, 3), np.uint8) for sides in _SIDES]
    files = tf.constant([images.encode(Image.fromarray(image), "PNG") for image in given])
    got = tf.function(lambda data: pixels.decode_batch(data, size, resize))(files).numpy()
    for sides, ours, image in zip(_SIDES, got, given, strict=True):
        np.testing.assert_allclose(ours, _square(image, size, resize), atol=2e-3, err_msg=str(sides))
        own = reference._resize(image, size, resize)  # the second path from bytes to pixels
        np.testing.assert_allclose(ours, own, atol=2e-3, err_msg=str(sides))


@pytest.mark.parametrize("resize", _MODES)
def test_squares_are_made_of_upright_images(resize: pixels.Resize) -> None:
    image = images.draw("rot", 1, (61, 40))
    files = [images.encode(image, orientation=orientation) for orientation in _ORIENTATIONS]
    got = tf.function(lambda data: pixels.decode_batch(data, 24, resize))(tf.constant(files)).numpy()
    stored = Image.fromarray(tf.io.decode_image(files[0], channels=3).numpy())
    for orientation, ours in zip(_ORIENTATIONS, got, strict=True):
        stored.getexif()[0x0112] = orientation
        expected = _square(np.asarray(ImageOps.exif_transpose(stored)), 24, resize)
        np.testing.assert_allclose(ours, expected, atol=2e-3, err_msg=str(orientation))


def test_the_three_ways_differ_and_pad_leaves_black_above_and_below() -> None:
    data = tf.constant([images.encode(images.draw("green", 3, (90, 60)), "PNG")])
    stretched, cropped, padded = (pixels.decode_batch(data, 30, resize).numpy()[0] for resize in _MODES)
    assert np.abs(stretched - cropped).mean() > 1
    assert not padded[:5].any()
    assert not padded[25:].any()
    assert padded[5:25].min(axis=-1).all(), "the image is 30 x 20, in the middle"


def _stored(materialized: Materialized, split: str) -> dict[str, tuple[np.ndarray, int]]:
    """Pixels uint8 [32, 32, 3] and label index of the images that the Transform wrote, by the sha256 of the file."""
    found = {}
    for path in pathlib.Path(materialized.examples, f"Split-{split}").iterdir():
        for record in tf.data.TFRecordDataset([str(path)]).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            data = zlib.decompress(feature[names.IMAGE].bytes_list.value[0])
            sha256 = feature[features.SHA256].bytes_list.value[0].decode()
            label = feature[features.LABEL_INDEX].int64_list.value[0]
            found[sha256] = np.frombuffer(data, np.uint8).reshape(32, 32, 3), label
    return found


@pytest.mark.parametrize("split", features.SPLITS)
def test_a_materialized_transform_writes_each_image_rounded_and_its_labels_index(
    materialized: Materialized, split: str
) -> None:
    stored = _stored(materialized, split)
    raw = list(tf.data.TFRecordDataset([getattr(materialized.transformed, split)]).as_numpy_iterator())
    assert len(stored) == len(raw)
    for record in raw:
        feature = tf.train.Example.FromString(record).features.feature
        data = feature[features.IMAGE].bytes_list.value[0]
        image, label = stored[hashlib.sha256(data).hexdigest()]
        upright = pixels.decode_upright(tf.constant(data)).numpy()
        assert np.abs(image - _square(upright, 32, "pad")).max() <= 0.5 + 2e-3
        assert images.CLASSES[label] == feature[features.LABEL].bytes_list.value[0].decode()
    folders = {path.name for path in pathlib.Path(materialized.examples).iterdir()}
    assert folders == {"Split-train", "Split-eval"}, "nothing unfinished is left"


def test_training_reads_the_stored_images_and_gets_what_the_served_graph_makes_of_the_files(
    materialized: Materialized,
) -> None:
    """In any order, and with no use of the files' bytes; equal but for the last bit of a division."""
    given = materialized.transformed
    records, other = (inputs.Records([path], images.CLASSES) for path in (given.train, given.eval))
    resized = inputs.Resized(given.directory, BackboneSettings(input_size=32), [records, other])
    output = tft.TFTransformOutput(given.directory)
    rows = np.random.default_rng(0).permutation(len(records))[:40]
    layer = tf.function(output.transform_features_layer())
    served = layer({features.IMAGE: tf.constant([[data] for data in records.images(rows)])})[features.PIXELS].numpy()
    assert served.std() > 0.1

    records.read = lambda rows: iter([b""] * len(rows))  # type: ignore[method-assign]
    batches = inputs.Pixels(output, resized=resized).batches(records, lambda: rows, 16)
    got = [(x.numpy(), y.numpy()) for x, y in batches]
    assert [len(y) for _, y in got] == [16, 16, 8]
    np.testing.assert_array_equal(np.concatenate([y for _, y in got]), records.labels[rows])
    np.testing.assert_allclose(np.concatenate([x for x, _ in got]), served, atol=2e-7)


@pytest.mark.parametrize("name", ["MobileNetV2", "VGG16", "DenseNet121", "MobileNetV3Large"])
def test_the_rest_of_the_graph_is_the_same_for_stored_images(name: str) -> None:
    """One backbone of each mode: tf, caffe, torch, none."""
    row = backbones.get(name)
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)), tf.float32)
    rest = tf.function(row.preprocess_input)(image)
    np.testing.assert_array_equal(rest, tf.function(preprocessing.preprocess)(image, row.preprocessing))


def test_an_image_that_is_not_among_the_stored_ones_is_named(
    materialized: Materialized, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "Split-train").mkdir()
    (tmp_path / names.POINTER).write_text(str(tmp_path))
    shutil.copytree(pathlib.Path(materialized.examples, "Split-train"), tmp_path / "Split-train", dirs_exist_ok=True)
    records = inputs.Records([materialized.transformed.eval], images.CLASSES)
    with pytest.raises(
        UserError, match=r"blue sky/100.jpg is not among the resized images in .*: set data.materialize"
    ):
        inputs.Resized(str(tmp_path), BackboneSettings(input_size=32), [records])


def test_pixels_that_are_made_in_another_way_are_other_activations_in_the_cache() -> None:
    made, site = {}, Site(Workspace("workspace"), fingerprint="")
    for changed in ({}, {"data.resize": "crop"}, {"data.resize": "pad"}, {"data.materialize": True}):
        settings = config_file.load(None, ["backbone.weights=none"], {"images": "photos", **changed})
        nodes = {node.id: node for node in create_pipeline(settings, site).components}
        assert ("transformed_examples" in nodes["Transform"].outputs) == bool(changed.get("data.materialize"))
        trainer = json.loads(nodes["Trainer"].exec_properties["custom_config"])
        transform = json.loads(nodes["Transform"].exec_properties["custom_config"])
        assert {key: trainer[key] for key in ("resize", "materialize")} == {
            key: transform[key] for key in ("resize", "materialize")
        }
        made[repr(changed)] = trainer["preprocessing"]
    assert len(set(made.values())) == 4


def test_classes_are_in_sorted_order_whatever_their_frequency(transformed: Transformed) -> None:
    output = tft.TFTransformOutput(transformed.directory)
    with open(f"{output.transform_savedmodel_dir}/assets/{features.LABELS_FILE}") as file:
        assert file.read().splitlines() == sorted(images.CLASSES)


def test_a_label_that_train_never_had_gets_minus_one(transformed: Transformed) -> None:
    # As a function, like every caller: run eagerly the graph would decode an image that is not there.
    layer = tf.function(tft.TFTransformOutput(transformed.directory).transform_features_layer())
    got = layer({features.LABEL: tf.constant([["rot"], ["nowhere"], ["blue sky"]])})
    assert got[features.LABEL_INDEX].numpy().tolist() == [2, -1, 0]
