"""What the phases train on: the cached boundary is the plain method, from run to run, whatever happens to the cache."""

import functools
import hashlib
import json
import logging
import pathlib
import shutil
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf

from graftline import features
from graftline.errors import UserError
from tests import images
from tests.conftest import Transformed
from tests.trainer import disks
from trainer import backbones, models, run_fn
from trainer.inputs import Records
from trainer.settings import BackboneSettings, TrainerSettings

Photo = tuple[str, str, int]  # label, the class that it is drawn as, and a seed

_SEED, _BATCH = 3, 8


def _photos(seeds: Iterable[int], **names: str) -> list[Photo]:
    """One of each class for each seed; `names` gives classes other labels."""
    return [(names.get(label, label), label, seed) for seed in seeds for label in images.CLASSES]


def _records(path: pathlib.Path, photos: Iterable[Photo]) -> str:
    """A TFRecord of tf.Examples, as ImageExampleGen writes them."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for label, drawn_as, seed in photos:
            image = images.encoded(images.draw(drawn_as, seed))
            values = {
                features.IMAGE: image,
                features.SHA256: hashlib.sha256(image).hexdigest().encode(),
                features.LABEL: label.encode(),
                features.FILENAME: f"{label}/{seed}.jpg".encode(),
            }
            feature = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for k, v in values.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return str(path)


def _analysed(root: pathlib.Path, labels: Sequence[str], backbone: str, size: int) -> str:
    """A Transform's output directory: the real preprocessing_fn, analysed by TFT on Beam."""
    import apache_beam as beam
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tfx_bsl.public import tfxio

    from components.preprocessing import preprocessing_fn

    path = _records(root / "analysed", [(label, images.CLASSES[0], 0) for label in labels])
    spec = {name: tf.io.FixedLenFeature([1], tf.string) for name in (features.IMAGE, features.LABEL)}
    metadata = tft.DatasetMetadata.from_feature_spec(spec)
    source = tfxio.TFExampleRecord(path, schema=metadata.schema)
    config = {"backbone": backbone, "input_size": size}
    with beam.Pipeline("DirectRunner") as pipeline, tft_beam.Context(temp_dir=str(root / "tmp")):
        transform_fn = (
            (pipeline | source.BeamSource(), source.TensorAdapterConfig())
            | tft_beam.AnalyzeDataset(lambda inputs: preprocessing_fn(inputs, config))
        )  # fmt: skip
        _ = transform_fn | tft_beam.WriteTransformFn(str(root / "transform"))
        _ = metadata | tft_beam.WriteMetadata(str(root / "transform" / "metadata"), pipeline)
    return str(root / "transform")


@dataclass(frozen=True)
class Data:
    """Two splits of drawn images, 25 and 6, and what makes pixels of them."""

    transform: str
    train: list[str]
    eval: list[str]


Analyse = Callable[..., str]


@pytest.fixture(scope="module")
def analyse(tmp_path_factory: pytest.TempPathFactory, transformed: Transformed) -> Analyse:
    """Gives the Transform's output directory for labels, a backbone and a size; makes each once."""
    known = {(images.CLASSES, "tf", 32): transformed.directory}

    def directory(labels: tuple[str, ...] = images.CLASSES, backbone: str = "MobileNetV2", size: int = 32) -> str:
        key = (labels, backbones.get(backbone).preprocessing, size)
        if key not in known:
            known[key] = _analysed(tmp_path_factory.mktemp("analysed"), labels, backbone, size)
        return known[key]

    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, analyse: Analyse) -> Data:
    """The drawn images, with pixels for MobileNetV2 at 32 px."""
    root = tmp_path_factory.mktemp("records")
    # Four batches of 8 in an epoch, the last of one image.
    train, held_out = _photos(range(9))[:25], _photos(range(100, 102))
    return Data(analyse(), [_records(root / "train", train)], [_records(root / "eval", held_out)])


@dataclass(frozen=True)
class Outcome:
    """The weights before and after both phases, and the probabilities [n, C] of the eval split after them."""

    run: run_fn.Run
    before: list[np.ndarray]
    after: list[np.ndarray]
    probabilities: np.ndarray


# The upper trunk is cut off, so that a test takes a second or two: what is tested has nothing to do with its depth.
_SMALL = {
    "backbone": {"name": "MobileNet", "weights": "none", "input_size": 32, "options": {"alpha": 0.25}},
    "head": {"cut_at": "conv_pw_4_relu", "dropout": 0.0},
    "training": {"batch_size": _BATCH},
    "feature_extraction": {"epochs": 2, "learning_rate": 1e-2, "optimizer": "sgd", "min_delta": 0},
    "fine_tuning": {"epochs": 2, "learning_rate": 1e-2, "optimizer": "sgd", "unfreeze_from": "conv_dw_4"},
    "seed": _SEED,
}
_CUT = "conv_pad_4"


def _settings(changed: dict[str, object]) -> dict[str, object]:
    """Those of the small trunk, section by section with what is changed."""
    merged: dict[str, object] = dict(_SMALL)
    for section, value in changed.items():
        merged[section] = {**merged.get(section, {}), **value} if isinstance(value, dict) else value  # type: ignore[dict-item]
    return merged


def _args(data: Data, out: pathlib.Path, changed: dict[str, object]) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        custom_config=json.loads(json.dumps(_settings({"state": str(out / "state"), **changed}))),
        transform_output=data.transform,
        train_files=data.train,
        eval_files=data.eval,
        serving_model_dir=str(out / "model" / "Format-Serving"),
        model_run_dir=str(out / "run"),
        base_model=None,
    )


def _run(data: Data, out: pathlib.Path, **changed: object) -> run_fn.Run:
    """A run that is ready to train; its activations are there."""
    args = _args(data, out, changed)
    keras.utils.clear_session()
    keras.utils.set_random_seed(_SEED)
    return run_fn.Run(TrainerSettings.model_validate(args.custom_config), args, out / "scratch")  # type: ignore[arg-type]


def _trained(data: Data, out: pathlib.Path, **changed: object) -> Outcome:
    """Both phases."""
    run = _run(data, out, **changed)
    model = run.grafted.model
    before = model.get_weights()
    outcome = run.train()
    run.checkpoints.remove()
    assert all(result.kept for result in outcome.results), "a phase that was taken back would prove nothing"
    return Outcome(run, before, model.get_weights(), outcome.predictions.probabilities)


def _assert_trained_alike(one: Outcome, other: Outcome, tolerance: float) -> None:
    """Each variable ends where the other's does, but for `tolerance` of the way that training moved it."""
    for path, start, a, b in zip(
        [weight.path for weight in one.run.grafted.model.weights], one.before, one.after, other.after, strict=True
    ):
        moved = np.linalg.norm(b - start)
        assert np.linalg.norm(a - b) <= tolerance * moved, path  # not moved at all: not a bit
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=tolerance * 0.1)
    assert np.abs(one.probabilities - 1 / 3).max() > 0.1, "a model that has learned nothing would prove nothing"


def _assert_identical(one: Outcome, other: Outcome) -> None:
    for a, b in zip([*one.after, one.probabilities], [*other.after, other.probabilities], strict=True):
        np.testing.assert_array_equal(a, b)


# --- the same as the plain method -------------------------------------------------------------------------------------


def _plainly(like: Outcome, cut: str) -> Outcome:
    """Two-phase transfer learning as Keras' guide has it: `fit` on the whole model, from pixels, BatchNorm frozen.

    (https://keras.io/guides/transfer_learning/.) Of Graftline it takes the pixels and the weights to begin with.

    Args:
      like: its settings are taken; no dropout in the head.
      cut: name of the layer up to which the trunk is to give what it gives in inference. Keras' `trainable = False`
        does not see to that: Dropout drops on.
    """
    settings = like.run.settings
    ((pixels, labels),) = like.run._pixels.batches(like.run.train_records, lambda: np.arange(25), 25)
    ((held_out, held_out_labels),) = like.run._pixels.batches(like.run.val, lambda: np.arange(6), 6)
    pixels, labels = pixels.numpy(), labels.numpy()
    keras.utils.clear_session()
    keras.utils.set_random_seed(_SEED)
    size = settings.backbone.size
    trunk = getattr(keras.applications, settings.backbone.name)(
        include_top=False, weights=None, input_shape=(size, size, 3), **settings.backbone.options
    )
    if settings.head.cut_at:
        trunk = keras.Model(trunk.input, trunk.get_layer(settings.head.cut_at).output)
    head = keras.layers.Dense(3, activation="softmax")
    model = keras.Model(trunk.input, head(keras.layers.GlobalAveragePooling2D()(trunk.output)))
    model.set_weights(like.before)
    names = [layer.name for layer in trunk.layers]
    lowest = settings.fine_tuning.unfreeze_from
    first = names.index(lowest) if isinstance(lowest, str) else len(names) + lowest
    drop_rates = {layer.name: layer.rate for layer in trunk.layers if hasattr(layer, "rate")}
    phases = [
        (settings.feature_extraction, [], names),
        (settings.fine_tuning, trunk.layers[first:], names[: names.index(cut) + 1]),
    ]
    for phase, upper, inference in phases:
        for layer in model.layers:
            trains = layer is head or any(layer is other for other in upper)
            layer.trainable = trains and not isinstance(layer, keras.layers.BatchNormalization)
            if layer.name in drop_rates:
                layer.rate = 0 if layer.name in inference else drop_rates[layer.name]
        rate = phase.learning_rate
        optimizer = keras.optimizers.Adam(rate) if phase.optimizer == "adam" else keras.optimizers.SGD(rate, 0.9)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        optimizer.build(model.trainable_variables)  # or Keras traces the step twice
        # The weights of the best epoch are kept; those from before the second phase count as one.
        best = model.evaluate(held_out, held_out_labels, verbose=0) if upper else np.inf
        for epoch in range(phase.epochs):
            order = np.random.default_rng([_SEED, epoch]).permutation(len(pixels))
            model.fit(pixels[order], labels[order], batch_size=_BATCH, shuffle=False, verbose=0)
            loss = model.evaluate(held_out, held_out_labels, verbose=0)
            if loss < best:
                best, kept = loss, model.get_weights()
        model.set_weights(kept)
    return Outcome(like.run, like.before, model.get_weights(), model.predict(held_out, verbose=0))


# SGD's steps are as exact as the gradients. Adam's have the size of the learning rate also where a gradient is rounding
# alone, whose sign is a toss, so that single weights may go apart as far as they can move. They are few: over each
# variable the same tolerance holds.
@pytest.mark.parametrize(
    ("name", "size", "cut_at", "unfreeze_from", "cut", "optimizer", "rates"),
    [
        # With the upper trunk cut off, which takes seconds:
        ("MobileNetV2", 32, "block_5_add", "block_5_expand", "block_4_add", "adam", (1e-2, 1e-3)),
        (
            "MobileNetV3Small",
            32,
            "expanded_conv_4_add",
            "expanded_conv_4_expand",
            "expanded_conv_3_project_bn",
            "sgd",
            (1e-2, 1e-3),
        ),
        # Of its drop-connect layers block2b's lies under the boundary, block3b's above.
        ("EfficientNetB0", 32, "block3b_add", "block3b_expand_conv", "block3a_project_bn", "sgd", (1e-2, 1e-3)),
        # As they are:
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in [
                ("MobileNetV2", 32, None, -30, "block_13_project_BN", "sgd", (1e-3, 1e-3)),
                ("MobileNetV2", 32, None, -30, "block_13_project_BN", "adam", (1e-3, 1e-4)),
                ("MobileNetV3Small", 32, None, -30, "expanded_conv_8_project_bn", "sgd", (1e-2, 1e-3)),
                ("EfficientNetB0", 32, None, -30, "block6c_add", "sgd", (1e-2, 1e-3)),
                ("ResNet50", 32, None, -30, "conv4_block6_out", "sgd", (3e-4, 3e-4)),
                ("InceptionV3", 75, None, -30, "mixed9", "sgd", (1e-3, 1e-3)),
                ("DenseNet121", 32, None, -30, "conv5_block12_concat", "sgd", (1e-3, 1e-3)),
                # Each of its cells takes the outputs of the two before: between the stem and the last is no boundary.
                ("NASNetMobile", 32, None, -30, "stem_bn1", "sgd", (1e-3, 1e-4)),
            ]
        ),
    ],
)
def test_training_from_the_cache_is_training_the_whole_model_from_pixels(
    data: Data,
    analyse: Analyse,
    tmp_path: pathlib.Path,
    name: str,
    size: int,
    cut_at: str | None,
    unfreeze_from: int | str,
    cut: str,
    optimizer: str,
    rates: tuple[float, float],
) -> None:
    ours = _trained(
        Data(analyse(backbone=name, size=size), data.train, data.eval),
        tmp_path,
        backbone={"name": name, "input_size": size, "options": {}},
        head={"cut_at": cut_at},
        feature_extraction={"optimizer": optimizer, "learning_rate": rates[0]},
        fine_tuning={"optimizer": optimizer, "learning_rate": rates[1], "unfreeze_from": unfreeze_from},
    )
    assert ours.run.cut._keras_history.operation.name == cut
    assert ours.run.activations == {"computed": 31, "reused": 0}
    _assert_trained_alike(ours, _plainly(ours, cut), 1e-3)


@pytest.fixture(scope="module")
def cold(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Trained from an empty cache."""
    return _trained(data, tmp_path_factory.mktemp("cold"))


def test_dropout_of_the_head_and_class_weights_are_the_same_from_the_cache_as_without(
    data: Data, tmp_path: pathlib.Path
) -> None:
    records = [_records(tmp_path / "train", [*_photos(range(5)), *(("rot", "rot", seed) for seed in range(5, 15))])]
    uneven = Data(data.transform, records, data.eval)
    changed = {"head": {"dropout": 0.4, "dense": [8]}, "training": {"class_weights": "balanced"}}
    cached = _trained(uneven, tmp_path / "cached", **changed)
    streamed = _trained(uneven, tmp_path / "streamed", **changed, boundary_cache={"enabled": False})
    assert streamed.run.activations == {"computed": 0, "reused": 0}
    _assert_trained_alike(streamed, cached, 1e-3)


def test_a_cache_in_float16_is_close(data: Data, tmp_path: pathlib.Path, cold: Outcome) -> None:
    """float16 keeps 11 bits, so each activation is off by up to 2^-11 = 5e-4 of its size, and gradients by as much.

    Twice that for both factors of a weight's gradient, and with room for a ReLU that flips: 5e-3 of the way.
    """
    half = _trained(data, tmp_path, boundary_cache={"dtype": "float16"})
    _assert_trained_alike(half, cold, 5e-3)
    assert any((a != b).any() for a, b in zip(half.after, cold.after, strict=True)), "was it kept in float16 at all?"


# --- from run to run --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A trunk's weights file. (A random trunk is scaled by the first images, and so is another when those change.)"""
    keras.utils.set_random_seed(0)
    trunk = models.build_trunk(BackboneSettings.model_validate(_SMALL["backbone"]))
    models.calibrate(trunk, np.random.default_rng(0).uniform(-1, 1, (16, 32, 32, 3)).astype(np.float32))
    path = tmp_path_factory.mktemp("weights") / "trunk.weights.h5"
    trunk.save_weights(path)
    return path


@pytest.fixture(scope="module")
def first(data: Data, weights: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a first run with that file: all activations are in its cache."""
    out = tmp_path_factory.mktemp("first")
    assert _run(data, out, backbone={"weights": str(weights)}).activations == {"computed": 31, "reused": 0}
    return out


@pytest.fixture
def again(first: pathlib.Path, weights: pathlib.Path, tmp_path: pathlib.Path) -> Callable[..., run_fn.Run]:
    """Runs after the first one, in a copy of its cache, with data and settings."""
    shutil.copytree(first / "state", tmp_path / "state")

    def run(data: Data, **changed: object) -> run_fn.Run:
        return _run(data, tmp_path, **{**changed, "backbone": {"weights": str(weights), **changed.get("backbone", {})}})  # type: ignore[dict-item]

    return run


def _files(out: pathlib.Path) -> dict[str, dict[str, bytes]]:
    """What is in the folder of each store, without the mark that it was used."""
    stores = (out / "state" / "cache" / "boundary").iterdir()
    return {
        store.name: {file.name: file.read_bytes() for file in store.iterdir() if file.stat().st_size}
        for store in stores
    }


def test_a_second_run_computes_nothing(data: Data, again: Callable[..., run_fn.Run]) -> None:
    assert again(data).activations == {"computed": 0, "reused": 31}


def test_nor_does_one_with_other_settings_of_all_that_is_above_the_boundary(
    data: Data, again: Callable[..., run_fn.Run]
) -> None:
    run = again(
        data,
        head={"dropout": 0.5, "dense": [7]},
        training={"batch_size": 5, "label_smoothing": 0.1, "class_weights": "balanced"},
        feature_extraction={"learning_rate": 0.5, "optimizer": "adamw", "epochs": 7},
        fine_tuning={"learning_rate": 0.5, "layer_decay": 0.5},
        boundary_cache={"memory_mb": 0},
        seed=9,
        code="other sources",
    )
    assert run.activations == {"computed": 0, "reused": 31}


def _assert_stores_are_new(first: pathlib.Path, out: pathlib.Path, count: int) -> None:
    """As many as that have come, and the two of the first run are as they were."""
    before, after = _files(first), _files(out)
    assert (len(before), len(after)) == (2, 2 + count)
    assert {name: after[name] for name in before} == before


def _with_one_number_changed(weights: pathlib.Path, copy: pathlib.Path, layer: str) -> str:
    trunk = models.build_trunk(BackboneSettings.model_validate({**_SMALL["backbone"], "weights": str(weights)}))  # type: ignore[dict-item]
    values = trunk.get_layer(layer).get_weights()
    values[0].flat[0] = np.nextafter(values[0].flat[0], np.float32(np.inf))
    trunk.get_layer(layer).set_weights(values)
    trunk.save_weights(copy)
    return str(copy)


@pytest.mark.parametrize(
    "changed",
    [
        {"preprocessing": "other sources"},
        {"training": {"precision": "mixed_bfloat16"}},
        {"boundary_cache": {"dtype": "float16"}},
        {"backbone": {"input_size": 48}},
    ],
    ids=["preprocessing", "precision", "dtype", "input size"],
)
def test_with_other_settings_under_it_all_is_computed(
    data: Data,
    analyse: Analyse,
    again: Callable[..., run_fn.Run],
    first: pathlib.Path,
    tmp_path: pathlib.Path,
    changed: dict[str, dict[str, object]],
) -> None:
    data = Data(analyse(size=48) if "backbone" in changed else data.transform, data.train, data.eval)
    assert again(data, **changed).activations == {"computed": 31, "reused": 0}
    _assert_stores_are_new(first, tmp_path, 2)


def test_with_one_weight_under_it_changed_in_the_last_bit_all_is_computed(
    data: Data, again: Callable[..., run_fn.Run], weights: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = _with_one_number_changed(weights, tmp_path / "other.weights.h5", "conv1")
    assert again(data, backbone={"weights": other}).activations == {"computed": 31, "reused": 0}


def test_with_one_weight_above_it_changed_the_activations_are_kept_and_the_pooled_features_made_anew(
    data: Data, again: Callable[..., run_fn.Run], weights: pathlib.Path, first: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = _with_one_number_changed(weights, tmp_path / "other.weights.h5", "conv_pw_4")
    again(data, backbone={"weights": other})
    _assert_stores_are_new(first, tmp_path, 1)


@pytest.mark.parametrize(
    "changed",
    [{"fine_tuning": {"unfreeze_from": "conv_pw_3"}}, {"head": {"pooling": "max"}}],
    ids=["unfreeze_from", "pooling"],
)
def test_what_lies_at_the_other_tensor_is_kept(
    data: Data,
    again: Callable[..., run_fn.Run],
    first: pathlib.Path,
    tmp_path: pathlib.Path,
    changed: dict[str, object],
) -> None:
    again(data, **changed)
    _assert_stores_are_new(first, tmp_path, 1)


def test_of_a_folder_that_has_grown_the_new_images_are_computed(
    data: Data, again: Callable[..., run_fn.Run], tmp_path: pathlib.Path
) -> None:
    # The file comes first, so that every other image has another row than before.
    more = str(pathlib.Path(data.train[0]).with_name("a"))
    _records(pathlib.Path(more), _photos([50]))
    run = again(Data(data.transform, [*data.train, more], data.eval))
    assert run.activations == {"computed": 3, "reused": 31}
    _assert_rows_are_those_of_their_images(run)


def test_an_image_that_went_to_the_other_split_is_not_computed(
    data: Data, again: Callable[..., run_fn.Run], tmp_path: pathlib.Path
) -> None:
    train = _records(tmp_path / "train", _photos(range(8)))
    held_out = _records(tmp_path / "eval", [*_photos(range(9))[24:25], *_photos(range(100, 102))])
    run = again(Data(data.transform, [train], [held_out]))
    assert run.activations == {"computed": 0, "reused": 31}
    _assert_rows_are_those_of_their_images(run)


def test_with_classes_renamed_and_one_added_the_new_images_are_computed(
    data: Data, analyse: Analyse, again: Callable[..., run_fn.Run], tmp_path: pathlib.Path
) -> None:
    names = {"rot": "ásgarður ★", "green": "zöld"}  # the classes' order is another as well
    new = [("new", "rot", 60), ("new", "rot", 61)]
    train = _records(tmp_path / "train", [*_photos(range(9), **names)[:25], *new])
    held_out = _records(tmp_path / "eval", [*_photos(range(100, 102), **names), ("new", "rot", 62)])
    run = again(Data(analyse(("blue sky", "new", "zöld", "ásgarður ★")), [train], [held_out]))
    assert run.labels == ["blue sky", "new", "zöld", "ásgarður ★"]
    assert run.activations == {"computed": 3, "reused": 31}
    _assert_rows_are_those_of_their_images(run)
    assert run.train_records.labels[:3].tolist() == [0, 2, 3]


def _assert_rows_are_those_of_their_images(run: run_fn.Run) -> None:
    """Every activation of both splits is what the trunk gives for the image of its row."""
    below = keras.Model(run.grafted.model.input, run.cut)
    for split, records in (("train", run.train_records), ("val", run.val)):
        batches = run._feeds.batches(split, run.cut)
        batches.epoch = 1
        x = np.concatenate([x for x, _ in (batches.for_fit[i] for i in range(len(batches.for_fit)))])  # type: ignore[index,arg-type]
        rows = np.argsort(batches._order)  # type: ignore[attr-defined]
        ((pixels, _),) = run._pixels.batches(records, functools.partial(np.arange, len(records)), len(records))
        expected = below(pixels, training=False).numpy()
        np.testing.assert_allclose(x[rows], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        assert len(np.unique(expected.round(3), axis=0)) == len(records), "images that are alike would prove nothing"


def test_augmented_views_of_new_images_are_computed_and_those_of_another_seed_all(
    data: Data, again: Callable[..., run_fn.Run], tmp_path: pathlib.Path
) -> None:
    augmentation = {"flip": "both", "views": 2}
    assert again(data, augmentation=augmentation).activations == {"computed": 50, "reused": 6}
    # The views that are there already are the first of more; three more images have none yet.
    more = Data(data.transform, [*data.train, _records(tmp_path / "z", _photos([50]))], data.eval)
    run = again(more, augmentation={**augmentation, "views": 3}, fine_tuning={"epochs": 3})
    assert run.activations == {"computed": 25 + 3 * 3, "reused": 50 + 6}
    assert again(data, augmentation=augmentation, seed=9).activations == {"computed": 50, "reused": 6}


def test_a_warm_cache_gives_the_same_weights_to_the_last_bit(data: Data, cold: Outcome, tmp_path: pathlib.Path) -> None:
    out = pathlib.Path(cold.run.settings.state).parent
    shutil.copytree(out / "state", tmp_path / "state")
    warm = _trained(data, tmp_path)
    assert warm.run.activations == {"computed": 0, "reused": 31}
    _assert_identical(warm, cold)


def test_training_json_tells_what_was_computed(
    data: Data, again: Callable[..., run_fn.Run], weights: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    more = Data(data.transform, [*data.train, _records(tmp_path / "z", _photos([50]))], data.eval)
    run_fn.run_fn(_args(more, tmp_path, {"backbone": {"weights": str(weights)}}))  # type: ignore[arg-type]
    story = json.loads((tmp_path / "model" / run_fn.TRAINING_FILE).read_text())
    assert story["activations"] == {"computed": 3, "reused": 31}


# --- whatever happens to it -------------------------------------------------------------------------------------------


def _flip_a_byte(state: pathlib.Path, row: np.ndarray) -> pathlib.Path:
    """In the file where that row is kept."""
    for file in state.rglob("*"):
        data = bytearray(file.read_bytes() if file.is_file() else b"")
        place = data.find(row.tobytes()[:64])
        if place >= 0:
            data[place] ^= 1
            file.write_bytes(data)
            return file
    raise AssertionError("no such row")


def _told(caplog: pytest.LogCaptureFixture, file: pathlib.Path) -> str:
    """What the one warning that names the file says."""
    (message,) = (record.message for record in caplog.records if str(file) in record.message)
    return message


def test_a_damaged_row_is_computed_again_and_told(
    data: Data, cold: Outcome, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(cold.run.settings.state, tmp_path / "state")
    # The pooled features of one image and the activations of another: both run through the trunk together, and of
    # either only what was damaged is new.
    cuts = (cold.run.grafted.pooled, cold.run.cut)
    (pooled, _), (activations, _) = (next(iter(cold.run._feeds.batches("val", cut).for_fit)) for cut in cuts)  # type: ignore[call-overload]
    files = [_flip_a_byte(tmp_path / "state", row) for row in (pooled[1], activations[4])]
    with caplog.at_level(logging.WARNING):
        repaired = _trained(data, tmp_path)
    assert repaired.run.activations == {"computed": 2, "reused": 29}
    for file in files:
        assert _told(caplog, file) == f"{file} is damaged; rows to compute again: 1"
    # Few images may go through other kernels than many did.
    _assert_trained_alike(repaired, cold, 1e-3)


def test_a_file_that_was_cut_off_is_made_anew_and_told(
    data: Data, cold: Outcome, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(cold.run.settings.state, tmp_path / "state")
    files = [file for file in (tmp_path / "state").rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        repaired = _trained(data, tmp_path)
    assert repaired.run.activations == {"computed": 31, "reused": 0}
    assert _told(caplog, largest).endswith("its rows are computed again")
    _assert_identical(repaired, cold)


def test_what_the_disk_has_no_room_for_is_made_anew_in_each_epoch(
    data: Data, cold: Outcome, tmp_path: pathlib.Path
) -> None:
    """Of 31 images the pooled features take 8 kB, the activations 300 kB."""
    pooled = _trained(data, tmp_path / "pooled", boundary_cache={"disk_gb": 1e-5})
    assert pooled.run.activations == {"computed": 31, "reused": 0}
    (note,) = pooled.run.notes
    assert note.startswith(f"the activations at {_CUT} would take")
    assert "boundary_cache.disk_gb" in note
    _assert_trained_alike(pooled, cold, 1e-3)


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 0.8 MB: the activations of one run fit, with the copy that a commit makes, and not of two."""
    with disks.mounted(tmp_path / "small", "800k") as folder:
        yield folder


def test_activations_of_past_runs_make_room_before_new_ones_come(
    data: Data, small_disk: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for sources in ("one", "other"):
        run = _run(data, tmp_path, state=str(small_disk), preprocessing=sources)
        assert run.activations == {"computed": 31, "reused": 0}
        assert not run.notes
        assert len(list((small_disk / "cache" / "boundary").iterdir())) == 2


def test_activations_on_disk_and_for_one_run_alone_give_the_same_weights_to_the_last_bit(
    data: Data, cold: Outcome, tmp_path: pathlib.Path
) -> None:
    bound = _trained(data, tmp_path, state="", boundary_cache={"memory_mb": 0})
    assert bound.run.activations == {"computed": 31, "reused": 0}
    # The scratch folder is removed by run_fn, and TensorBoard's logs stay.
    assert {path.name for path in tmp_path.iterdir()} == {"scratch", "run"}
    _assert_identical(bound, cold)


# --- the records ------------------------------------------------------------------------------------------------------


def test_records_lie_as_in_their_files_in_the_order_of_the_files_names(tmp_path: pathlib.Path) -> None:
    shards = [_photos([1, 2]), [], [("zöld ★", "green", 3)], _photos([4])]
    for number, photos in enumerate(shards):
        _records(tmp_path / f"shard-{number}", photos)
    _records(tmp_path / "other", _photos([5]))
    classes = [*images.CLASSES, "zöld ★"]
    records = Records([str(tmp_path / "shard-[23]"), str(tmp_path / "shard-[01]")], classes)
    photos = [photo for shard in shards for photo in shard]
    assert len(records) == len(photos) == 10
    assert records.labels.dtype == np.int64
    assert [classes[index] for index in records.labels] == [label for label, _, _ in photos]
    assert records.filenames == [f"{label}/{seed}.jpg" for label, _, seed in photos]
    files = [images.encoded(images.draw(drawn_as, seed)) for _, drawn_as, seed in photos]
    assert records.keys == [hashlib.sha256(file).digest() for file in files]
    for rows in ([9, 0, 6, 6, 3], np.arange(10), []):
        assert list(records.images(rows)) == [files[row] for row in rows]


def test_files_without_records_are_a_split_of_none(tmp_path: pathlib.Path) -> None:
    _records(tmp_path / "shard", [])
    for pattern in ("shard", "nothing-*"):
        records = Records([str(tmp_path / pattern)], images.CLASSES)
        assert len(records) == len(records.labels) == len(list(records.read([]))) == 0


def test_a_class_that_the_train_split_never_had_is_told_by_name_and_file(data: Data, tmp_path: pathlib.Path) -> None:
    held_out = _records(tmp_path / "eval", [*_photos([1]), ("zöld", "green", 7)])
    with pytest.raises(UserError, match=r"^zöld/7.jpg is of the class 'zöld', which no image of the train split has: "):
        _run(Data(data.transform, data.train, [held_out]), tmp_path)
