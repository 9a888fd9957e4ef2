"""Every classifier of Keras: its preprocessing, its landmark, its boundary, and one step of each phase.

`pytest -s` prints a row of the table in docs/performance.md for each.
"""

import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from graftline.trainer import backbones, boundary, heads, models, phases
from graftline.trainer.activations import CachedBatches
from graftline.trainer.settings import (
    BackboneSettings,
    FeatureExtractionSettings,
    FineTuningSettings,
    HeadSettings,
    TrainingSettings,
)
from tests import assets

_QUICK = {"MobileNetV3Small"}
_LABELS = np.array([0, 1, 2, 0, 1, 2])


def _gradients(model: keras.Model, x: object, weights: list[keras.Variable]) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(_LABELS, model(x, training=False)))
    return [tf.convert_to_tensor(one).numpy() for one in tape.gradient(loss, [weight.value for weight in weights])]


def _difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Return the largest difference of two lists of arrays, as a fraction of the largest number."""
    largest = max(float(np.abs(one).max()) for one in theirs)
    assert largest > 0
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)) / largest


def test_keras_has_no_classifier_that_the_registry_lacks() -> None:
    builders = {name for name in dir(keras.applications) if name[0].isupper()}
    assert builders == set(backbones.BACKBONES)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in _QUICK else pytest.mark.slow) for name in backbones.BACKBONES]
)
def test_a_backbone_trains_from_its_landmark(name: str) -> None:
    start = time.monotonic()
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    entry = backbones.get(name)
    noise = np.random.default_rng(1).uniform(0, 255, (6, entry.min_size, entry.min_size, 3)).astype(np.float32)
    pixels = np.asarray(backbones.preprocess_input(entry.preprocessing)(noise.copy()), np.float32)
    np.testing.assert_array_equal(pixels, entry.preprocess_input(noise.copy()))

    trunk = models.build_trunk(BackboneSettings(name=name, weights="none", input_size=entry.min_size))
    models.calibrate(trunk, pixels)
    grafted = heads.graft(trunk, HeadSettings(dropout=0), 3)
    kernel = grafted.model.get_layer(heads.PROBABILITIES).kernel
    kernel.assign(np.random.default_rng(2).normal(0, 0.01, kernel.shape))  # it starts at zero
    planned = phases.plan(
        grafted,
        FeatureExtractionSettings(epochs=1, optimizer="sgd"),
        FineTuningSettings(epochs=1, optimizer="sgd", learning_rate=1e-2),
        entry.landmark,
    )
    assert entry.landmark in [layer.name for layer in trunk.layers]
    trained = sum(layer.count_params() for layer in planned[1].trained)
    assert 0.1 < trained / trunk.count_params() < 0.9

    differences, cuts = [], [phase.boundary for phase in planned]
    assert not any(boundary.is_input(grafted.model, cut) for cut in cuts)
    for phase, cut in zip(planned, cuts, strict=True):
        phases.freeze_trunk(grafted, phase.trained)
        cached = boundary.FrozenPart(grafted.model, cut)(tf.constant(pixels))
        plain = keras.tree.flatten(keras.Model(grafted.model.input, list(cut))(pixels, training=False))
        below = [values.numpy() for values in plain]
        differences.append(_difference([values.numpy() for values in cached], below))
        # Not from the cached values: where one of few ReLUs flips by rounding, a gradient changes much.
        x, above = boundary.as_inputs(below), boundary.part_above(grafted.model, cut)
        layers = [*phase.trained, grafted.model.get_layer(heads.PROBABILITIES)]
        weights = [weight for layer in layers for weight in layer.trainable_weights]
        assert len(weights) == len(grafted.model.trainable_weights)
        differences.append(_difference(_gradients(above, x, weights), _gradients(grafted.model, pixels, weights)))

        before = {weight.path: weight.numpy() for weight in grafted.model.weights}
        batches = CachedBatches(x, _LABELS, len(_LABELS))
        part = phases.TrainedPart(above, layers, layers[-1:], batches, batches)
        phases.train_phase(phase.name, part, phase.settings, TrainingSettings(), may_discard=False)
        moved = {weight.path for weight in grafted.model.weights if (weight.numpy() != before[weight.path]).any()}
        assert moved <= {weight.path for weight in weights}
        trunk_moved = moved - {weight.path for weight in layers[-1].weights}
        assert bool(trunk_moved) == bool(phase.trained)
        assert moved > trunk_moved
    assert max(differences) < 1e-4

    names = ", ".join(f"`{tensor._keras_history.operation.name}`" for tensor in cuts[1])
    sys.stdout.write(
        f"\n| {name} | {time.monotonic() - start:.0f} | {trunk.count_params() / 1e6:.1f} | {trained / 1e6:.1f} "
        f"| {names} | {max(differences):.0e} |\n"
    )


def test_the_documented_landmarks_are_those_of_the_registry() -> None:
    text = (assets.ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    table = text[text.index("## What auto unfreezes") : text.index("## Warm start")]
    for entry in backbones.BACKBONES.values():
        size = entry.name.removeprefix("ConvNeXt").lower()
        assert f"`{entry.landmark.replace(f'convnext_{size}_', 'convnext_tiny_')}`" in table, entry.name
