"""Tests of the materialized Transform and of training on its images."""

import functools
import hashlib
import json
import pathlib
import shutil
import zlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from graftline import features
from graftline import materialized as names
from graftline.components.transform import pixels, preprocessing
from graftline.errors import UserError
from graftline.pipeline import config_file
from graftline.pipeline.dag import create_pipeline
from graftline.pipeline.site import Site
from graftline.trainer import backbones, inputs
from graftline.trainer.settings import BackboneSettings
from graftline.workspace import Workspace
from tests import images
from tests.components.transform import preprocessing_modes
from tests.components.transform.squares import make_square
from tests.conftest import Materialized


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
        assert np.abs(image - make_square(upright, 32, "pad")).max() <= 0.5 + 2e-3
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


@pytest.mark.parametrize("mode", preprocessing_modes.ALL)
def test_the_rest_of_the_graph_is_the_same_for_stored_images(mode: backbones.Mode) -> None:
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)), tf.float32)
    rest = tf.function(backbones.preprocess_input(mode))(image)
    np.testing.assert_array_equal(rest, tf.function(functools.partial(preprocessing.preprocess, mode=mode))(image))


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
