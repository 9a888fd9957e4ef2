"""Small trainings of both phases on drawn images, and comparisons of two of them."""

import json
import pathlib
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from graftline.trainer import training
from graftline.trainer.settings import TrainerSettings
from tests import artifacts, images

Photo = tuple[str, str, int]  # label, the class that it is drawn as, and a seed

SEED, BATCH_SIZE = 3, 8


def photos(seeds: Iterable[int], **names: str) -> list[Photo]:
    """Return one photo of each class for each seed; `names` gives classes other labels."""
    return [(names.get(label, label), label, seed) for seed in seeds for label in images.CLASSES]


def write_records(path: pathlib.Path, photos: Iterable[Photo]) -> str:
    """Write a TFRecord of tf.Examples, as ImageExampleGen does."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for label, drawn_as, seed in photos:
            image = images.encode(images.draw(drawn_as, seed))
            writer.write(artifacts.example(image, label, f"{label}/{seed}.jpg"))
    return str(path)


def write_transform(root: pathlib.Path, labels: Sequence[str], preprocessing: str, size: int) -> str:
    """Write a Transform's output directory: the real preprocessing_fn, analysed by TFT on Beam."""
    path = write_records(root / "analysed", [(label, images.CLASSES[0], 0) for label in labels])
    return artifacts.write_transform(path, root, preprocessing, size)


@dataclass(frozen=True)
class Data:
    """Two splits of drawn images, 25 and 6, and the Transform's output."""

    transform: str
    train: list[str]
    eval: list[str]


Analyse = Callable[..., str]


@dataclass(frozen=True)
class Outcome:
    """The weights before and after both phases, and the probabilities [n, C] of the eval split after them."""

    training: training.PreparedTraining
    before: list[np.ndarray]
    after: list[np.ndarray]
    probabilities: np.ndarray


# The upper trunk is cut off, so that a test takes a second or two. Its depth does not matter here.
SMALL = {
    "backbone": {"name": "MobileNet", "weights": "none", "input_size": 32, "options": {"alpha": 0.25}},
    "head": {"cut_at": "conv_pw_4_relu", "dropout": 0.0},
    "training": {"batch_size": BATCH_SIZE},
    "feature_extraction": {"epochs": 2, "learning_rate": 1e-2, "optimizer": "sgd", "min_delta": 0},
    "fine_tuning": {"epochs": 2, "learning_rate": 1e-2, "optimizer": "sgd", "unfreeze_from": "conv_dw_4"},
    "seed": SEED,
}
CUT = "conv_pad_4"


def _settings(changed: dict[str, object]) -> dict[str, object]:
    """Return the settings of the small trunk with the changes, section by section."""
    merged: dict[str, object] = dict(SMALL)
    for section, value in changed.items():
        merged[section] = {**merged.get(section, {}), **value} if isinstance(value, dict) else value  # type: ignore[dict-item]
    return merged


def fn_args(data: Data, out: pathlib.Path, changed: dict[str, object]) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        custom_config=json.loads(json.dumps(_settings({"state": str(out / "state"), **changed}))),
        transform_output=data.transform,
        train_files=data.train,
        eval_files=data.eval,
        serving_model_dir=str(out / "model" / "Format-Serving"),
        model_run_dir=str(out / "run"),
        base_model=None,
    )


def prepare(data: Data, out: pathlib.Path, **changed: object) -> training.PreparedTraining:
    """Prepare a training; its activations are computed."""
    args = fn_args(data, out, changed)
    settings = TrainerSettings.model_validate(args.custom_config)
    training.reset_keras(SEED)
    dataset = training.read_dataset(settings, args.transform_output, args.train_files, args.eval_files)
    return training.prepare(settings, dataset, out / "scratch")


def activation_counts(prepared: training.PreparedTraining) -> dict[str, int]:
    """Return how many images ran through the frozen part, and how many had done so in earlier runs."""
    return {"computed": prepared.inputs.computed, "reused": prepared.inputs.reused}


def train_both_phases(data: Data, out: pathlib.Path, **changed: object) -> Outcome:
    """Train both phases."""
    prepared = prepare(data, out, **changed)
    model = prepared.grafted.model
    before = model.get_weights()
    checkpoints = training.open_checkpoints(prepared.settings, prepared.dataset, None)
    outcome = training.train(prepared, checkpoints, str(out / "run"))
    checkpoints.remove()
    assert all(result.kept for result in outcome.results), "a phase whose weights were discarded would prove nothing"
    return Outcome(prepared, before, model.get_weights(), outcome.predictions.probabilities)


def assert_trained_alike(one: Outcome, other: Outcome, tolerance: float) -> None:
    """Assert that each variable ends where the other's does, up to `tolerance` of the way that training moved it."""
    for path, start, a, b in zip(
        [weight.path for weight in one.training.grafted.model.weights], one.before, one.after, other.after, strict=True
    ):
        moved = np.linalg.norm(b - start)
        assert np.linalg.norm(a - b) <= tolerance * moved, path  # not moved at all: not a bit
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=tolerance * 0.1)
    assert np.abs(one.probabilities - 1 / 3).max() > 0.1, "a model that has learned nothing would prove nothing"


def assert_identical(one: Outcome, other: Outcome) -> None:
    for a, b in zip([*one.after, one.probabilities], [*other.after, other.probabilities], strict=True):
        np.testing.assert_array_equal(a, b)
