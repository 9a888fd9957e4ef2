"""The boundary: where the graph is cut, and that training above it is training the whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import backbones, boundary, models, phases
from trainer.activations import Activations
from trainer.settings import BackboneSettings, FineTuningSettings, HeadSettings, TrainingSettings


def _pixels(name: str, count: int, size: int) -> np.ndarray:
    """Noise, as the backbone's family takes it."""
    noise = np.random.default_rng(1).uniform(0, 255, (count, size, size, 3)).astype(np.float32)
    return np.asarray(backbones.get(name).preprocess_input(noise), np.float32)


def _grafted(name: str = "MobileNetV2", size: int = 32) -> models.Grafted:
    keras.utils.set_random_seed(0)
    trunk = models.build_trunk(BackboneSettings(name=name, weights="none", input_size=size))
    models.calibrate(trunk, _pixels(name, 16, size))
    grafted = models.graft_head(trunk, HeadSettings(), 3)
    kernel = grafted.model.get_layer("probabilities").kernel
    kernel.assign(np.random.default_rng(2).normal(0, 0.01, kernel.shape))  # it begins at zero
    return grafted


@pytest.fixture(scope="module")
def mobilenet() -> models.Grafted:
    return _grafted()


@pytest.mark.parametrize(
    ("lowest", "cut_after"),
    [
        ("block_16_project", "block_16_depthwise_relu"),
        ("block_14_expand", "block_13_project_BN"),
        ("block_15_depthwise", "block_14_add"),
    ],
)
def test_the_cut_is_the_last_single_tensor_under_the_lowest_layer(
    mobilenet: models.Grafted, lowest: str, cut_after: str
) -> None:
    cut = boundary.find_cut(mobilenet.model, [mobilenet.model.get_layer(lowest)])
    assert cut._keras_history.operation.name == cut_after


def test_with_nothing_frozen_the_cut_is_the_input(mobilenet: models.Grafted) -> None:
    assert boundary.find_cut(mobilenet.model, mobilenet.trunk.layers) is mobilenet.model.inputs[0]


def test_with_all_frozen_the_cut_is_under_the_head(mobilenet: models.Grafted) -> None:
    assert boundary.find_cut(mobilenet.model, mobilenet.head_layers) is mobilenet.pooled


@pytest.mark.parametrize(
    ("name", "size"), [("MobileNetV2", 32), ("ResNet50", 32), ("DenseNet121", 32), ("MobileNetV3Small", 32)]
)
def test_below_and_above_the_cut_are_the_whole_model(name: str, size: int) -> None:
    grafted = _grafted(name, size)
    lowest = next(layer for layer in grafted.trunk.layers[-20:] if layer.weights)
    cut = boundary.find_cut(grafted.model, [lowest])
    assert cut is not grafted.model.inputs[0]
    pixels = _pixels(name, 5, size)
    pooled, at_cut = boundary.Frozen(grafted.model, [grafted.pooled, cut])(tf.constant(pixels))
    whole = keras.ops.convert_to_numpy(grafted.model(pixels, training=False))
    assert whole.std(axis=0).max() > 1e-3, "answers that are all alike would prove nothing"
    for tensor, values in ((grafted.pooled, pooled), (cut, at_cut)):
        above = boundary.above(grafted.model, tensor)
        np.testing.assert_allclose(above(values, training=False), whole, rtol=3e-5, atol=1e-6)


def test_the_part_above_shares_its_weights_with_the_whole(mobilenet: models.Grafted) -> None:
    above = boundary.above(mobilenet.model, mobilenet.pooled)
    assert above.get_layer("probabilities").kernel is mobilenet.model.get_layer("probabilities").kernel


def test_training_above_the_boundary_is_training_the_whole() -> None:
    """Same seed, same order, no dropout: the plain way over the images gives the same weights."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 48)
    pixels = (random.normal(size=(48, 32, 32, 3)) + labels[:, None, None, None]).astype(np.float32)
    settings = FineTuningSettings(epochs=3, learning_rate=1e-4, patience=9)

    def trained(cached: bool) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        trunk = models.build_trunk(BackboneSettings(weights="none", input_size=32, options={"alpha": 0.35}))
        models.calibrate(trunk, pixels)
        grafted = models.graft_head(trunk, HeadSettings(dropout=0.0), 3)
        unfrozen = models.layers_to_unfreeze(trunk, "block_15_expand")
        phases.freeze(grafted, unfrozen)
        x, model = pixels, grafted.model
        if cached:
            cut = phases.cut_under(grafted, unfrozen)
            x = boundary.Frozen(grafted.model, [cut])(tf.constant(pixels))[0].numpy()
            model = boundary.above(grafted.model, cut)
        head = [model.get_layer("probabilities")]
        layers = [*phases.trained(unfrozen), *head]
        part = phases.Part(model, layers, head, Activations(x, labels, 16, seed=5), Activations(x, labels, 16))
        result = phases.train("fine_tuning", part, settings, TrainingSettings(batch_size=16))
        assert result.kept
        return [variable.numpy() for variable in grafted.model.trainable_variables]

    plain, above = trained(False), trained(True)
    assert len(plain) > 2
    for one, other in zip(plain, above, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)


def test_each_epoch_sees_every_row_once_in_an_order_of_the_seed_alone() -> None:
    def epochs(seed: int) -> list[list[int]]:
        data = Activations(np.arange(10.0)[:, None], np.arange(10), 4, seed)
        orders = []
        for epoch in range(2):
            data.epoch = epoch
            orders.append([int(label) for index in range(len(data)) for label in data[index][1]])
        return orders

    first, second = epochs(1)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert epochs(1) == [first, second]
    assert epochs(2) != [first, second]


def test_layers_without_weights_count_in_the_name_of_what_is_computed() -> None:
    """With and without the last ReLU6, the weights and the shape are the same and the activations are not."""

    def name(cut_at: str | None) -> str:
        keras.utils.clear_session()
        trunk = models.build_trunk(BackboneSettings(weights="none", input_size=32, options={"alpha": 0.35}), cut_at)
        for variable in trunk.variables:
            variable.assign(np.ones(variable.shape))
        grafted = models.graft_head(trunk, HeadSettings(), 3)
        return boundary.Frozen(grafted.model, [grafted.pooled]).fingerprints("pixels")[0]

    assert name(None) == name(None)
    assert name(None) != name("Conv_1_bn")
