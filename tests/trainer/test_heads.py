"""The head: layers by name, one logit, and several layers of the trunk joined."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from pydantic import ValidationError

from graftline import signatures
from graftline.errors import UserError
from graftline.references import read as read_references
from graftline.trainer import head_layers, heads, phases, run_fn
from graftline.trainer.settings import HeadSettings
from tests.trainer.runs import Data, activation_counts, assert_trained_alike, fn_args, prepare, train_both_phases


@pytest.fixture(scope="module")
def trunk() -> keras.Model:
    inputs = keras.Input([8, 8, 3])
    low = keras.layers.Conv2D(4, 3, name="low")(inputs)
    return keras.Model(inputs, keras.layers.Conv2D(5, 3, name="high")(low), name="trunk")


def _kinds(grafted: heads.Grafted) -> list[str]:
    return [type(layer).__name__ for layer in grafted.head_layers]


_CONVOLUTIONAL = [
    {"Conv2D": {"filters": 6, "kernel_size": 1, "kernel_regularizer": {"l2": 0.001}}},
    "BatchNormalization",
    "ReLU",
    "Flatten",
    {"Dropout": 0.2},
]


def test_layers_are_grafted_as_listed_with_their_arguments(trunk: keras.Model) -> None:
    grafted = heads.graft(trunk, HeadSettings(layers=_CONVOLUTIONAL), 3)
    assert _kinds(grafted) == ["Conv2D", "BatchNormalization", "ReLU", "Flatten", "Dropout", "Dense"]
    conv, norm, _, flatten, dropout, output = grafted.head_layers
    assert conv.output.shape == (None, 4, 4, 6)
    assert conv.kernel_regularizer.get_config() == {"l1": 0.0, "l2": 0.001}
    assert (conv.name, norm.name, dropout.name) == ("head_conv2d_0", "head_batchnormalization_0", "head_dropout_0")
    assert (dropout.rate, output.name, output.activation) == (0.2, "probabilities", keras.activations.softmax)
    assert grafted.embedding is flatten.output
    assert grafted.changing_head_layers == [conv, norm, dropout, output]
    (cut,) = phases.find_boundary(grafted, [])
    assert cut is trunk.output


def test_the_short_form_is_a_list_of_layers(trunk: keras.Model) -> None:
    short = heads.graft(trunk, HeadSettings(dense=[7, 6], dropout=0.3), 3)
    hidden = [
        layer for units in (7, 6) for layer in ({"Dropout": 0.3}, {"Dense": {"units": units, "activation": "relu"}})
    ]
    long = heads.graft(trunk, HeadSettings(layers=["GlobalAveragePooling2D", *hidden, {"Dropout": 0.3}]), 3)
    for ours, theirs in zip(short.head_layers[1:], long.head_layers[1:], strict=True):
        mine, other = ours.get_config(), theirs.get_config()
        assert mine == other


_ARGUMENTS = {
    "Activation": {"activation": "tanh"},
    "AlphaDropout": {"rate": 0.1},
    "AveragePooling2D": {"pool_size": 2, "strides": 1, "padding": "same"},
    "Conv2D": {"filters": 2, "kernel_size": [2, 1], "dilation_rate": 2},
    "Dense": {"units": 2, "kernel_initializer": "he_normal"},
    "DepthwiseConv2D": {"kernel_size": 2},
    "Dropout": {"rate": 0.1},
    "GaussianDropout": {"rate": 0.1},
    "GaussianNoise": {"stddev": 0.1},
    "GroupNormalization": {"groups": 5},
    "Rescaling": {"scale": 2.0},
    "SeparableConv2D": {"filters": 2, "kernel_size": 2},
    "SpatialDropout2D": {"rate": 0.1},
}


@pytest.mark.parametrize("kind", sorted(head_layers.LAYERS))
def test_every_layer_that_a_head_may_have_can_be_grafted(trunk: keras.Model, kind: str) -> None:
    arguments = _ARGUMENTS.get(kind, {})
    vectors = kind.startswith("Global") or kind == "Flatten"
    grafted = heads.graft(trunk, HeadSettings(layers=[{kind: arguments}, *([] if vectors else ["Flatten"])]), 3)
    assert _kinds(grafted)[0] == kind
    assert grafted.model(np.zeros([2, 8, 8, 3], np.float32)).shape == (2, 3)


def test_several_layers_are_pooled_and_joined(trunk: keras.Model) -> None:
    both = keras.Model(trunk.input, [trunk.get_layer("low").output, trunk.get_layer("high").output])
    grafted = heads.graft(both, HeadSettings(cut_at=["low", "high"], layers=[{"Dense": 4}]), 3)
    assert _kinds(grafted)[:3] == ["GlobalAveragePooling2D", "GlobalAveragePooling2D", "Concatenate"]
    assert grafted.embedding.shape == (None, 9)
    pixels = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    got = keras.Model(both.inputs, grafted.embedding)(pixels)
    expected = np.concatenate([np.mean(output, axis=(1, 2)) for output in both(pixels)], axis=1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    (cut,) = phases.find_boundary(grafted, [])
    assert cut is grafted.embedding


def test_one_logit_gives_two_probabilities_and_the_binary_cross_entropy(trunk: keras.Model) -> None:
    grafted = heads.graft(trunk, HeadSettings(output="sigmoid", dropout=0), 2)
    random = np.random.default_rng(0)
    logit_layer = grafted.model.get_layer("logit")
    assert grafted.model.output_shape == (None, 2)
    assert [weight.shape for weight in logit_layer.weights] == [(5, 1), (1,)]
    logit_layer.kernel.assign(random.normal(size=(5, 1)) * 3)
    pixels = random.normal(size=(200, 8, 8, 3)).astype(np.float32)
    labels = random.integers(0, 2, 200)
    logits = keras.Model(grafted.model.inputs, logit_layer.output)(pixels)[:, 0]
    probabilities = grafted.model(pixels)
    np.testing.assert_allclose(probabilities[:, 1], tf.sigmoid(logits), rtol=1e-5)
    ours = keras.losses.SparseCategoricalCrossentropy()(labels, probabilities)
    theirs = keras.losses.BinaryCrossentropy(from_logits=True)(labels, logits)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize(
    ("head", "classes", "message"),
    [
        ({"output": "sigmoid"}, 3, "head.output: sigmoid is one logit for two classes, but there are 3"),
        ({"layers": [{"Conv2D": {"filters": 2, "kernel_size": 1}}]}, 3, "ends in a feature map of [4, 4, 2], but must"),
        ({"layers": ["Flatten", "MaxPooling2D"]}, 3, "layers[1]: MaxPooling2D cannot stand on what is below it, [80]"),
        ({"layers": ["Flatten"], "dense": [3]}, 3, "head.dense is [3], too"),
        ({"layers": ["Flatten"], "dropout": 0.3}, 3, "head.dropout is 0.3, too"),
        ({"layers": ["Flatten"], "pooling": "max"}, 3, "head.pooling is max, too"),
    ],
)  # fmt: skip
def test_a_head_that_cannot_be_is_explained(trunk: keras.Model, head: dict, classes: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        heads.graft(trunk, HeadSettings.model_validate(head), classes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("GlobalAvgPooling2D", "did you mean 'GlobalAveragePooling2D'?"),
        ("Lambda", "one of Activation, "),
        ({"Dense": {"unit": 3}}, "without Dense's 'unit': Dense takes units, activation"),
        ({"Dense": None}, "with the units of Dense"),
        ({"Conv2D": 3}, "with the kernel_size of Conv2D"),
        ({"Dense": {"units": 0}}, "with a units of Dense that is greater than or equal to 1"),
        ({"Dense": {"units": 3, "activation": "softmax"}}, "with a activation of Dense that is 'elu', "),
        ({"Flatten": 3}, "without an argument of Flatten, which takes none"),
        (["Dense"], "one of Activation, "),
        ({"Dense": 3, "Dropout": 0.2}, "one layer: begin each layer with a dash of its own"),
    ],
)
def test_a_wrong_layer_is_explained(layer: object, message: str) -> None:
    with pytest.raises(ValidationError) as error:
        HeadSettings(layers=[layer])
    (fault,) = error.value.errors()
    assert fault["loc"] == ("layers", 0)
    assert message in fault["msg"]


def test_a_convolutional_head_trains_from_the_cache_as_from_pixels(data: Data, tmp_path: pathlib.Path) -> None:
    """Its BatchNormalization is in training mode, and its moving statistics are those of the best epoch."""
    head = {"cut_at": "conv_pw_4_relu", "layers": _CONVOLUTIONAL[:-1], "dropout": 0.2}
    cached = train_both_phases(data, tmp_path / "cached", head=head)
    streamed = train_both_phases(data, tmp_path / "streamed", head=head, boundary_cache={"enabled": False})
    assert activation_counts(cached.training)["computed"] == 31
    assert_trained_alike(streamed, cached, 1e-3)
    norm = cached.training.grafted.model.get_layer("head_batchnormalization_0")
    assert np.abs(norm.moving_mean.numpy()).max() > 0, "it has learned its statistics"


@pytest.mark.parametrize(
    "head", [{"layers": _CONVOLUTIONAL, "dropout": 0.2}, {"cut_at": ["conv_pw_3_relu", "conv_pw_4_relu"]}]
)
def test_what_is_served_equals_what_was_trained(data: Data, tmp_path: pathlib.Path, head: dict) -> None:
    run_fn.run_fn(fn_args(data, tmp_path, {"head": head}))  # type: ignore[arg-type]
    references = read_references(str(tmp_path / "model" / signatures.REFERENCES_FILE))
    served = tf.saved_model.load(str(tmp_path / "model" / "Format-Serving"))
    files = tf.constant([reference.image_bytes for reference in references])
    got = served.signatures[signatures.SERVING_DEFAULT](image_bytes=files)[signatures.PROBABILITIES]
    expected = np.stack([reference.probabilities for reference in references])
    assert expected.std(axis=0).max() > 1e-3, "answers that are all alike would prove nothing"
    np.testing.assert_allclose(got, expected, atol=1e-4)
    embedding = served.signatures[signatures.EMBEDDING](image_bytes=files)[signatures.EMBEDDING_OUTPUT]
    assert embedding.shape.rank == 2
    assert len(embedding) == len(references)


def test_one_logit_for_three_classes_is_refused_before_any_training(data: Data, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="one logit for two classes, but there are 3"):
        prepare(data, tmp_path, head={"output": "sigmoid"})
