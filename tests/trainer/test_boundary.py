"""The boundary: where the graph is cut, and that the parts below and above it are the whole model."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from graftline.trainer import backbones, boundary, heads, models
from graftline.trainer.settings import BackboneSettings, HeadSettings


def _pixels(name: str, count: int, size: int) -> np.ndarray:
    """Return noise, preprocessed for the backbone's family."""
    noise = np.random.default_rng(1).uniform(0, 255, (count, size, size, 3)).astype(np.float32)
    return np.asarray(backbones.get(name).preprocess_input(noise), np.float32)


def _grafted(name: str = "MobileNetV2", size: int = 32, cut_at: str | None = None) -> heads.Grafted:
    keras.utils.set_random_seed(0)
    trunk = models.build_trunk(BackboneSettings(name=name, weights="none", input_size=size), [cut_at] if cut_at else [])
    models.calibrate(trunk, _pixels(name, 16, size))
    grafted = heads.graft(trunk, HeadSettings(), 3)
    kernel = grafted.model.get_layer("probabilities").kernel
    kernel.assign(np.random.default_rng(2).normal(0, 0.01, kernel.shape))  # the kernel starts at zero
    return grafted


@pytest.fixture(scope="module")
def mobilenet() -> heads.Grafted:
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
    mobilenet: heads.Grafted, lowest: str, cut_after: str
) -> None:
    (cut,) = boundary.find_cut(mobilenet.model, [mobilenet.model.get_layer(lowest)])
    assert cut._keras_history.operation.name == cut_after


def _reached(model: keras.Model, start: keras.KerasTensor, without: set[int]) -> set[str]:
    """Return the names of the layers that depend on `start` by a path that passes no tensor of `without`, their ids."""
    reached = {id(start)}
    layers = set()
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if any(id(tensor) in reached for tensor in node.input_tensors):
                layers.add(node.operation.name)
                reached |= {id(tensor) for tensor in node.output_tensors if id(tensor) not in without}
    return layers


@pytest.mark.parametrize(
    ("name", "size", "cut_after"),
    [
        ("MobileNetV3Small", 32, "expanded_conv_8_project_bn"),
        ("DenseNet121", 32, "conv5_block12_concat"),
        ("InceptionV3", 75, "mixed9"),
    ],
)
def test_every_path_from_the_input_passes_the_cut_and_no_higher_tensor_is_a_cut(
    name: str, size: int, cut_after: str
) -> None:
    trunk = models.build_trunk(BackboneSettings(name=name, weights="none", input_size=size))
    wanted = [layer for layer in trunk.layers[-30:] if layer.weights]
    (cut,) = boundary.find_cut(trunk, wanted)
    assert cut._keras_history.operation.name == cut_after

    def separates(tensor: keras.KerasTensor) -> bool:
        """From all that is wanted, and from the output, which the part above must come to."""
        unseparated = _reached(trunk, trunk.inputs[0], without={id(tensor)})
        end = trunk.outputs[0]._keras_history.operation.name
        return end not in unseparated and not unseparated & {layer.name for layer in wanted}

    assert separates(cut)
    above = _reached(trunk, cut, without=set())
    higher = [layer.output for layer in trunk.layers if layer.name in above]
    assert len(higher) >= 30
    assert not any(separates(tensor) for tensor in higher if tensor is not trunk.outputs[0])


@pytest.mark.parametrize("lowest", [-30, "reduction_concat_reduce_8"])
def test_nasnets_boundary_is_several_tensors_that_hold_less_than_the_one_in_its_stem(lowest: int | str) -> None:
    """Each cell reads the two before it."""
    trunk = models.build_trunk(BackboneSettings(name="NASNetMobile", weights="none", input_size=32))
    wanted = [layer for layer in models.layers_to_unfreeze(trunk, lowest) if layer.weights]
    cut = boundary.find_cut(trunk, wanted)
    names = [tensor._keras_history.operation.name for tensor in cut]
    assert len(names) == len(set(names)) > 1
    assert boundary.numbers(cut) < boundary.numbers((trunk.get_layer("stem_bn1").output,))

    def unseparated(without: set[int]) -> set[str]:
        return _reached(trunk, trunk.inputs[0], without) & {trunk.layers[-1].name, *(layer.name for layer in wanted)}

    assert not unseparated(set(map(id, cut)))
    assert all(unseparated({id(tensor) for tensor in cut if tensor is not one}) for one in cut), "one is not needed"


def _two_branches(stem: int, left: int, right: int) -> keras.Model:
    """Return a model whose trained layer `top` reads two branches of as many channels."""
    x = inputs = keras.Input([4])
    x = keras.layers.Dense(stem, name="stem")(x)
    a, b = keras.layers.Dense(left, name="left")(x), keras.layers.Dense(right, name="right")(x)
    relus = [keras.layers.ReLU()(a), keras.layers.ReLU()(a), keras.layers.ReLU(name="right_relu")(b)]
    x = keras.layers.Concatenate(name="join")([keras.layers.Dense(9, name=f"top_{n}")(r) for n, r in enumerate(relus)])
    return keras.Model(inputs, keras.layers.Dense(2)(x))


@pytest.mark.parametrize(
    ("widths", "cut"),
    [
        ((10, 3, 3), {"left", "right_relu"}),  # not the two ReLUs of the left branch, which hold more
        ((6, 3, 3), {"stem"}),  # as many: one tensor is simpler
        ((5, 3, 3), {"stem"}),
    ],
)
def test_several_tensors_are_the_boundary_where_they_hold_fewer_numbers(
    widths: tuple[int, int, int], cut: set[str]
) -> None:
    model = _two_branches(*widths)
    above = [layer for layer in model.layers if layer.name.startswith("top")]
    tensors = boundary.find_cut(model, above)
    names = {tensor._keras_history.operation.name for tensor in tensors}
    assert names == cut
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    below = boundary.FrozenPart(model, tensors)(tf.constant(x))
    expected = model(x, training=False)
    np.testing.assert_allclose(boundary.part_above(model, tensors)(boundary.as_inputs(below)), expected, rtol=1e-5)


def test_with_nothing_frozen_the_cut_is_the_input(mobilenet: heads.Grafted) -> None:
    assert boundary.is_input(mobilenet.model, boundary.find_cut(mobilenet.model, mobilenet.trunk.layers))


def test_with_all_frozen_the_cut_is_under_the_head(mobilenet: heads.Grafted) -> None:
    (cut,) = boundary.find_cut(mobilenet.model, mobilenet.changing_head_layers)
    assert cut is mobilenet.embedding


@pytest.mark.parametrize(
    ("name", "size"), [("MobileNetV2", 32), ("ResNet50", 32), ("DenseNet121", 32), ("MobileNetV3Small", 32)]
)
def test_below_and_above_the_cut_are_the_whole_model(name: str, size: int) -> None:
    grafted = _grafted(name, size)
    lowest = next(layer for layer in grafted.trunk.layers[-20:] if layer.weights)
    (cut,) = boundary.find_cut(grafted.model, [lowest])
    assert cut is not grafted.model.inputs[0]
    pixels = _pixels(name, 5, size)
    pooled, at_cut = boundary.FrozenPart(grafted.model, [grafted.embedding, cut])(tf.constant(pixels))
    whole = keras.ops.convert_to_numpy(grafted.model(pixels, training=False))
    assert whole.std(axis=0).max() > 1e-3, "answers that are all alike would prove nothing"
    for tensor, values in ((grafted.embedding, pooled), (cut, at_cut)):
        above = boundary.part_above(grafted.model, (tensor,))
        np.testing.assert_allclose(above(values, training=False), whole, rtol=3e-5, atol=1e-6)


def test_the_part_above_shares_its_weights_with_the_whole(mobilenet: heads.Grafted) -> None:
    above = boundary.part_above(mobilenet.model, (mobilenet.embedding,))
    assert above.get_layer("probabilities").kernel is mobilenet.model.get_layer("probabilities").kernel


def test_the_frozen_part_drops_nothing() -> None:
    """Keras' EfficientNet drops whole blocks at random in training, even if it is frozen."""
    grafted = _grafted("EfficientNetB0", 32, cut_at="block3b_add")
    pixels = _pixels("EfficientNetB0", 4, 32)
    cut = grafted.trunk.get_layer("block2b_add").output
    whole = keras.Model(grafted.model.input, cut)
    whole.trainable = False
    inference, training = (keras.ops.convert_to_numpy(whole(pixels, training=flag)) for flag in (False, True))
    assert np.abs(training - inference).max() > 0.1, "a trunk that never drops would prove nothing"
    (frozen,) = boundary.FrozenPart(grafted.model, [cut])(tf.constant(pixels))
    np.testing.assert_allclose(frozen, inference, rtol=3e-5, atol=1e-5)


@pytest.mark.parametrize("folded", [True, False])
def test_the_frozen_part_gives_the_same_with_constants_and_with_variables(
    mobilenet: heads.Grafted, monkeypatch: pytest.MonkeyPatch, folded: bool
) -> None:
    if not folded:
        monkeypatch.setattr(models, "_MAX_CONSTANTS", 0)
    pixels = _pixels("MobileNetV2", 4, 32)
    cut = mobilenet.trunk.get_layer("block_3_project_BN").output
    (frozen,) = boundary.FrozenPart(mobilenet.model, [cut])(tf.constant(pixels))
    expected = keras.Model(mobilenet.model.input, cut)(pixels, training=False)
    np.testing.assert_allclose(frozen, expected, rtol=1e-3, atol=1e-4)


def _names(model: keras.Model, layer: str, identity: str = "pixels") -> list[str]:
    return boundary.FrozenPart(model, [model.get_layer(layer).output]).fingerprints(identity)


def test_fingerprints_differ_for_other_content_and_are_the_same_when_built_again() -> None:
    def model(scale: bool = False, activation: str = "relu", weight: float = 1.0) -> keras.Model:
        keras.utils.clear_session()
        x = inputs = keras.Input([8, 8, 3])
        if scale:
            x = keras.layers.Rescaling(2.0)(x)  # Keras' EfficientNet has this layer only with ImageNet's weights
        x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.Constant(weight), name="conv")(x)
        x = {"relu": keras.layers.ReLU, "softmax": keras.layers.Softmax}[activation]()(x)
        return keras.Model(inputs, keras.layers.Conv2D(2, 3, name="above")(keras.layers.ReLU(name="cut")(x)))

    fingerprint = _names(model(), "cut")
    assert _names(model(), "cut") == fingerprint, "the random weights above do not matter"
    others = [
        *_names(model(), "conv"),
        *_names(model(), "cut", "other pixels"),
        *_names(model(scale=True), "cut"),
        *_names(model(activation="softmax"), "cut"),
        *_names(model(weight=float(np.nextafter(np.float32(1), np.float32(2)))), "cut"),
    ]
    assert len({*fingerprint, *others}) == 6
