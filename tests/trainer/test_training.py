"""Two-phase training, weight by weight, and the export: served equals trained."""

import io
import json
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from PIL import Image, PngImagePlugin

from graftline import features, signatures
from graftline.references import read as read_references
from graftline.trainer import export, models, phases, reference, run_fn, training
from graftline.trainer.activations import CachedBatches
from graftline.trainer.checkpoints import Checkpoints
from graftline.trainer.settings import TrainerSettings, TrainingSettings
from tests import images
from tests.conftest import Materialized, Transformed

_PARTS = {
    "backbone": {"weights": "none", "input_size": 32, "options": {"alpha": 0.35}},
    "head": {},
    "training": {"batch_size": 16},
    "feature_extraction": {"epochs": 3, "learning_rate": 0.001},
    "fine_tuning": {"epochs": 2, "learning_rate": 0.00003, "unfreeze_from": "block_16_expand"},
    "seed": 1,
}


def _fn_args(transformed: Transformed, out: pathlib.Path, **changed: object) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        custom_config=json.loads(json.dumps({**_PARTS, **changed})),
        transform_output=transformed.directory,
        train_files=[transformed.train],
        eval_files=[transformed.eval],
        serving_model_dir=str(out / "model" / "Format-Serving"),
        model_run_dir=str(out / "run"),
        base_model=None,
    )


def _prepare(args: types.SimpleNamespace, out: pathlib.Path) -> training.PreparedTraining:
    settings = TrainerSettings.model_validate(args.custom_config)
    keras.utils.set_random_seed(1)
    dataset = training.read_dataset(settings, args.transform_output, args.train_files, args.eval_files)
    return training.prepare(settings, dataset, out / "scratch")


def _part(
    model: keras.Model, train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray]
) -> phases.TrainedPart:
    """Return a part that trains a whole model, on batches that do not change from epoch to epoch."""

    def batches(x: np.ndarray, y: np.ndarray) -> CachedBatches:
        return CachedBatches(x, y, 16)  # type: ignore[arg-type]

    return phases.TrainedPart(model, model.layers, model.layers, batches(*train), batches(*val))


def _weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {
        variable.path: variable.numpy().copy() for variable in model.variables if "seed_generator" not in variable.path
    }


def _moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {path for path in before if before[path].tobytes() != after[path].tobytes()}


@pytest.mark.parametrize("unfreeze_from", ["block_16_expand", "all"])
def test_each_phase_moves_exactly_what_it_trains(
    transformed: Transformed, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, unfreeze_from: str
) -> None:
    fine_tuning = {**_PARTS["fine_tuning"], "unfreeze_from": unfreeze_from}
    args = _fn_args(transformed, tmp_path, fine_tuning=fine_tuning)
    prepared = _prepare(args, tmp_path)
    grafted = prepared.grafted
    snapshots = [_weights(grafted.model)]
    train_phase = phases.train_phase

    def and_snapshot(*args: object, **kwargs: object) -> phases.PhaseResult:
        result = train_phase(*args, **kwargs)  # type: ignore[arg-type]
        assert result.kept, "a phase whose weights were discarded would hide what moved"
        snapshots.append(_weights(grafted.model))
        return result

    monkeypatch.setattr(phases, "train_phase", and_snapshot)
    outcome = training.train(prepared, Checkpoints("", ""))
    assert [result.name for result in outcome.results] == ["feature_extraction", "fine_tuning"]

    head = {"probabilities/kernel", "probabilities/bias"}
    assert _moved(snapshots[0], snapshots[1]) == head

    unfrozen = models.layers_to_unfreeze(grafted.trunk, unfreeze_from)
    norms = [layer for layer in grafted.trunk.layers if isinstance(layer, keras.layers.BatchNormalization)]
    expected = {v.path for layer in unfrozen if layer not in norms for v in layer.variables} | head
    assert len(norms) == 52
    moved = _moved(snapshots[1], snapshots[2])
    assert not moved & {v.path for layer in norms for v in layer.variables}
    assert moved == expected


def test_the_weights_of_a_phase_that_does_not_lower_the_validation_loss_are_discarded() -> None:
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(2, activation="softmax")])
    model.set_weights([np.array([[-5, 5], [0, 0], [0, 0], [0, 0]], np.float32), np.zeros(2, np.float32)])
    before = [weight.copy() for weight in model.get_weights()]
    settings = phases.PhaseSettings(epochs=2, learning_rate=0.5, patience=5)
    result = phases.train_phase("p", _part(model, (x, 1 - y), (x, y)), settings, TrainingSettings(batch_size=16))
    assert not result.kept
    assert result.val_accuracy == 1.0
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_phase_ends_at_its_plateau_or_at_its_epochs_and_says_which() -> None:
    x, y = np.ones([8, 1], np.float32), np.zeros([8], np.int64)

    def run(epochs: int, learning_rate: float) -> phases.PhaseResult:
        model = keras.Sequential([keras.Input([1]), keras.layers.Dense(2, activation="softmax")])
        settings = phases.PhaseSettings(epochs=epochs, learning_rate=learning_rate, patience=2, min_delta=1e-3)
        return phases.train_phase("p", _part(model, (x, y), (x, y)), settings, TrainingSettings(batch_size=16))

    assert run(3, 0.1).ended == "epochs"
    stopped = run(50, 1e-9)
    assert (stopped.ended, stopped.epochs) == ("plateau", 2)  # the loss before the phase counts


@pytest.fixture(scope="module")
def exported(transformed: Transformed, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The model artifact of a whole run_fn."""
    out = tmp_path_factory.mktemp("exported")
    run_fn.run_fn(_fn_args(transformed, out))  # type: ignore[arg-type]
    return out / "model"


def test_the_same_seed_gives_the_same_weights(
    transformed: Transformed, exported: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run_fn.run_fn(_fn_args(transformed, tmp_path))  # type: ignore[arg-type]
    ours, theirs = (keras.saving.load_model(root / "model.keras") for root in (exported, tmp_path / "model"))
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_served_equals_trained(exported: pathlib.Path) -> None:
    references = read_references(str(exported / signatures.REFERENCES_FILE))
    assert len(references) == 18  # all of the eval split, among them every EXIF orientation
    served = tf.saved_model.load(str(exported / "Format-Serving")).signatures[signatures.SERVING_DEFAULT]
    got = served(image_bytes=tf.constant([r.image_bytes for r in references]))
    expected = np.stack([r.probabilities for r in references])
    assert expected.std(axis=0).max() > 1e-3, "answers that are all alike would prove nothing"
    np.testing.assert_allclose(got[signatures.PROBABILITIES], expected, atol=1e-4)


def test_transparent_pixels_are_white_to_a_served_model(exported: pathlib.Path) -> None:
    colours = images.draw("rot", 1).convert("RGBA")
    colours.putalpha(Image.linear_gradient("L").resize(colours.size))
    on_white = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
    files = [images.encode(image, "PNG") for image in (colours, on_white, colours.convert("RGB"))]
    served = tf.saved_model.load(str(exported / "Format-Serving")).signatures[signatures.SERVING_DEFAULT]
    transparent, white, opaque = served(image_bytes=tf.constant(files))[signatures.PROBABILITIES].numpy()
    np.testing.assert_allclose(transparent, white, atol=1e-3)
    assert np.abs(transparent - opaque).max() > 1e-2


def test_a_model_that_was_trained_on_stored_images_is_served_as_it_was_trained(
    materialized: Materialized, tmp_path: pathlib.Path
) -> None:
    """The Transform pads and rounds the images, and so do the served graph and the references."""
    made = {"resize": "pad", "materialize": True}
    run_fn.run_fn(_fn_args(materialized.transformed, tmp_path, **made))  # type: ignore[arg-type]
    references = read_references(str(tmp_path / "model" / signatures.REFERENCES_FILE))
    served = tf.saved_model.load(str(tmp_path / "model" / "Format-Serving")).signatures[signatures.SERVING_DEFAULT]
    got = served(image_bytes=tf.constant([r.image_bytes for r in references]))[signatures.PROBABILITIES]
    expected = np.stack([r.probabilities for r in references])
    assert expected.std(axis=0).max() > 1e-3, "answers that are all alike would prove nothing"
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_stored_images_train_a_model_as_good_as_decoded_ones(
    transformed: Transformed, materialized: Materialized, tmp_path: pathlib.Path
) -> None:
    changed = {
        "backbone": {"name": "MobileNet", "weights": "none", "input_size": 32, "options": {"alpha": 0.25}},
        "head": {"cut_at": "conv_pw_4_relu"},
        "feature_extraction": {"epochs": 15, "learning_rate": 1e-2},
        "fine_tuning": {"epochs": 0},
    }
    for name, data, made in (
        ("decoded", transformed, {}),
        ("stored", materialized.transformed, {"resize": "pad", "materialize": True}),
    ):
        args = _fn_args(data, tmp_path / name, **changed, **made)
        outcome = training.train(_prepare(args, tmp_path / name), Checkpoints("", ""))
        assert outcome.results[-1].val_accuracy > 0.9, name


@pytest.fixture(scope="module")
def exported_with_variables(
    transformed: Transformed, exported: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The same model's SavedModel, written as if the weights were too large for constants."""
    out = tmp_path_factory.mktemp("variables")
    trained = keras.saving.load_model(exported / "model.keras")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "_MAX_CONSTANTS", 0)
        pooled = trained.get_layer("probabilities").input
        export.export(trained, pooled, tft.TFTransformOutput(transformed.directory), str(out))
    return out


@pytest.mark.parametrize("weights", ["constants", "variables"])
def test_the_model_answers_in_a_session_as_tensorflow_serving_runs_it(
    exported: pathlib.Path, exported_with_variables: pathlib.Path, weights: str
) -> None:
    """`tf.saved_model.load` hides variables that are saved twice; a session does not (tensorflow issue 72963)."""
    references = read_references(str(exported / signatures.REFERENCES_FILE))
    directory = str(exported / "Format-Serving" if weights == "constants" else exported_with_variables)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], directory)
        signature = meta.signature_def[signatures.SERVING_DEFAULT]
        got = session.run(
            signature.outputs[signatures.PROBABILITIES].name,
            {signature.inputs[signatures.IMAGE_BYTES].name: [r.image_bytes for r in references]},
        )
    np.testing.assert_allclose(got, np.stack([r.probabilities for r in references]), atol=1e-4)


def _stored(directory: pathlib.Path) -> list[tuple[int, ...]]:
    """Return the sorted shapes of the variables in a SavedModel."""
    stored = tf.train.list_variables(str(directory / "variables" / "variables"))
    return sorted(tuple(shape) for name, shape in stored if "CHECKPOINTABLE" not in name and shape)


def test_each_weight_is_stored_once(exported: pathlib.Path, exported_with_variables: pathlib.Path) -> None:
    trained = keras.saving.load_model(exported / "model.keras")
    assert _stored(exported_with_variables) == sorted(tuple(weight.shape) for weight in trained.weights)
    assert _stored(exported / "Format-Serving") == []
    size = (exported / "Format-Serving" / "saved_model.pb").stat().st_size
    assert size < 1.5 * sum(weight.numpy().nbytes for weight in trained.weights)


def test_the_signatures_agree_with_each_other(exported: pathlib.Path, transformed: Transformed) -> None:
    functions = tf.saved_model.load(str(exported / "Format-Serving")).signatures
    assert set(functions) == {"serving_default", "serving_examples", "transform_features", "embedding"}
    examples = list(tf.data.TFRecordDataset([transformed.eval]).as_numpy_iterator())
    parsed = [tf.train.Example.FromString(example).features.feature for example in examples]
    files = [feature[features.IMAGE].bytes_list.value[0] for feature in parsed]
    by_bytes = functions["serving_default"](image_bytes=tf.constant(files))
    by_example = functions["serving_examples"](examples=tf.constant(examples))
    for key, value in by_bytes.items():
        assert value.shape[0] == 18
        np.testing.assert_array_equal(value, by_example[key])
    probabilities = by_bytes["probabilities"].numpy()
    names = np.array(images.CLASSES)
    assert [label.decode() for label in by_bytes["label"].numpy()] == names[probabilities.argmax(1)].tolist()
    np.testing.assert_array_equal(by_bytes["score"], probabilities.max(1))
    np.testing.assert_array_equal(by_bytes["top_k_scores"], -np.sort(-probabilities, axis=1))
    assert [label.decode() for label in by_bytes["top_k_labels"].numpy()[:, 0]] == names[
        probabilities.argmax(1)
    ].tolist()
    labels = [images.CLASSES.index(feature[features.LABEL].bytes_list.value[0].decode()) for feature in parsed]
    assert functions["transform_features"](examples=tf.constant(examples))["label_index"].numpy().tolist() == labels
    assert functions["embedding"](image_bytes=tf.constant(files))["embedding"].shape == (18, 1280)


def test_more_images_than_a_chunk_and_none_at_all_are_answered(exported: pathlib.Path) -> None:
    served = tf.saved_model.load(str(exported / "Format-Serving")).signatures[signatures.SERVING_DEFAULT]
    files = [images.encode(images.draw("rot", seed % 5)) for seed in range(70)]
    got = served(image_bytes=tf.constant(files))["probabilities"].numpy()
    assert got.shape == (70, 3)
    np.testing.assert_allclose(got, np.tile(got[:5], (14, 1)), atol=1e-6)
    assert served(image_bytes=tf.constant([], tf.string))["probabilities"].shape == (0, 3)


def test_the_saved_model_loads_where_only_tensorflow_can_be_imported(exported: pathlib.Path) -> None:
    code = f"""
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow_transform", "tfx", "tfx_bsl", "apache_beam", "graftline"):
            raise ImportError(name)
sys.meta_path.insert(0, Only())
import tensorflow as tf
model = tf.saved_model.load({str(exported / "Format-Serving")!r})
image = tf.io.encode_jpeg(tf.zeros([20, 30, 3], tf.uint8))
out = model.signatures["serving_default"](image_bytes=tf.stack([image]))
print(out["probabilities"].shape, out["probabilities"].dtype.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "(1, 3) float32"


def test_labels_and_warmup_requests_are_exported(exported: pathlib.Path) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    served = exported / "Format-Serving"
    assert (served / "assets" / features.LABELS_FILE).read_text().splitlines() == list(images.CLASSES)
    records = tf.data.TFRecordDataset(str(served / "assets.extra" / signatures.WARMUP_FILE)).as_numpy_iterator()
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    requests = []
    for request in (log.predict_log.request for log in logs):
        batch = tf.make_ndarray(request.inputs["image_bytes"])
        assert tf.io.decode_image(batch[-1]).shape == (64, 64, 3)
        requests.append((request.model_spec.signature_name, list(request.output_filter), len(batch)))
    assert requests == [
        ("serving_default", [], 1),
        ("serving_default", [], 8),
        ("serving_default", ["label", "score", "top_k_labels", "top_k_scores"], 1),
        ("embedding", [], 1),
    ]


def test_the_keras_file_loads_and_can_be_trained(exported: pathlib.Path) -> None:
    model = keras.saving.load_model(exported / run_fn.KERAS_FILE)
    before = model.get_layer("probabilities").kernel.numpy().copy()
    model.fit(np.random.default_rng(0).normal(size=(4, 32, 32, 3)), np.array([0, 1, 2, 0]), verbose=0)
    assert (model.get_layer("probabilities").kernel.numpy() != before).any()


def test_the_history_of_both_phases_is_kept(exported: pathlib.Path) -> None:
    story = json.loads((exported / run_fn.TRAINING_FILE).read_text())
    assert story["labels"] == list(images.CLASSES)
    assert [(p["name"], p["epochs"], len(p["history"]["val_loss"])) for p in story["phases"]] == [
        ("feature_extraction", 3, 3),
        ("fine_tuning", 2, 2),
    ]


def test_labels_are_read_in_the_models_order(transformed: Transformed) -> None:
    assert export.read_labels(tft.TFTransformOutput(transformed.directory)) == list(images.CLASSES)


def test_our_server_answers_bytes_that_are_not_an_example_with_one_clear_error(exported: pathlib.Path) -> None:
    from graftline.serving.server.errors import ServingError
    from graftline.serving.server.model.loaded_model import LoadedModel

    model = LoadedModel(str(exported / "Format-Serving"))
    image = images.encode(images.draw("rot", 1))
    with model, pytest.raises(ServingError) as caught:
        model.predict(signatures.SERVING_EXAMPLES, {signatures.EXAMPLES: np.array([image], object)})
    assert caught.value.code.name == "INVALID_ARGUMENT"
    assert caught.value.message.startswith("Could not parse")
    model.retire()


def test_a_new_head_is_kept_even_if_no_epoch_lowered_the_validation_loss() -> None:
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    model = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(2, activation="softmax", kernel_initializer="zeros")]
    )
    settings = phases.PhaseSettings(epochs=2, learning_rate=0.1, patience=5)
    part = _part(model, (x, y), (x, 1 - y))
    result = phases.train_phase("p", part, settings, TrainingSettings(batch_size=16), may_discard=False)
    assert result.kept
    assert np.abs(model.get_weights()[0]).max() > 0


def test_a_png_that_pillow_refuses_and_tensorflow_reads_has_a_reference_too() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "0" * (2 << 20), zip=True)  # more than Pillow decompresses
    image = images.draw("rot", 0)
    data = images.encode(image, "PNG", pnginfo=text)
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
        Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(reference._upright(data), np.asarray(image))


def test_an_image_with_damaged_exif_still_has_a_reference() -> None:
    image = images.draw("rot", 0)
    whole = images.encode(image)
    garbage = b"Exif\0\0no TIFF at all"
    segment = b"\xff\xe1" + (2 + len(garbage)).to_bytes(2, "big") + garbage
    data = whole[:2] + segment + whole[2:]
    assert reference._upright(data).shape == (*image.size[::-1], 3)
