"""Small runs of both phases on drawn images, and what is the same in two of them, for the tests of what is fed."""

import json
import pathlib
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from graftline.trainer import run_fn
from graftline.trainer.settings import TrainerSettings
from tests import artifacts, images

Photo = tuple[str, str, int]  # label, the class that it is drawn as, and a seed

_SEED, _BATCH = 3, 8


def _photos(seeds: Iterable[int], **names: str) -> list[Photo]:
    """One of each class for each seed; `names` gives classes other labels."""
    return [(names.get(label, label), label, seed) for seed in seeds for label in images.CLASSES]


def _records(path: pathlib.Path, photos: Iterable[Photo]) -> str:
    """A TFRecord of tf.Examples, as ImageExampleGen writes them."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for label, drawn_as, seed in photos:
            image = images.encode(images.draw(drawn_as, seed))
            writer.write(artifacts.example(image, label, f"{label}/{seed}.jpg"))
    return str(path)


def _analysed(root: pathlib.Path, labels: Sequence[str], backbone: str, size: int) -> str:
    """A Transform's output directory: the real preprocessing_fn, analysed by TFT on Beam."""
    path = _records(root / "analysed", [(label, images.CLASSES[0], 0) for label in labels])
    return artifacts.write_transform(path, root, backbone, size)


@dataclass(frozen=True)
class Data:
    """Two splits of drawn images, 25 and 6, and what makes pixels of them."""

    transform: str
    train: list[str]
    eval: list[str]


Analyse = Callable[..., str]


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
