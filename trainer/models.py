"""Builds the model: a pretrained trunk from the registry with a new head grafted on, as one flat Keras graph."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from graftline.errors import UserError
from graftline.trainer import backbones, unfreezing, weights_loading
from graftline.trainer.settings import BackboneSettings
from graftline.trainer.weights_reader import MisfitError, RefusedError

# Bytes of weights that become constants; a graph holds at most 2 GB.
_MAX_CONSTANTS = 1 << 30

# The weights that a trunk takes, by whether it has its classifier.
_KIND = {
    False: "without its classifier (Keras' no_top files)",
    True: "with its classifier, or set include_top to false",
}


def build_trunk(settings: BackboneSettings, cuts: Sequence[str] = (), precision: str = "float32") -> keras.Model:
    """Build the trunk up to the layers `cuts` and load its weights. It has its classifier if `include_top` is set.

    It has an output for each of them, in that order; without any, one output of the last layer.

    `precision` is Keras' dtype policy of the layers. In "mixed_bfloat16" and "mixed_float16" they compute in 16 bits.
    The weights are float32 variables in any case (Micikevicius et al., https://arxiv.org/abs/1710.03740).

    Raises:
      UserError: the builder does not take an option, the weights cannot be downloaded or read or do not fit, or there
        is no layer of `cuts`.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)  # Keras' builders take no dtype
    try:
        trunk = _build(settings)
    finally:
        keras.config.set_dtype_policy(policy)
    if (file := backbones.weights_file(settings.weights)) is not None:
        _load_weights(trunk, settings, str(file))
    if not cuts:
        return trunk
    names = [layer.name for layer in trunk.layers]
    for name in cuts:
        if name not in names:
            raise UserError(
                f"head.cut_at: {trunk.name} has no layer '{name}'{unfreezing.name_near_layers(name, names)}"
            )
    outputs = [trunk.get_layer(name).output for name in cuts]
    if settings.include_top and all(max(output.shape[1:-1], default=1) > 1 for output in outputs):
        raise UserError(
            f"backbone.include_top: head.cut_at {', '.join(cuts)} is a feature map under the classifier, which would "
            "do nothing: set backbone.include_top=false, or cut at a layer of the classifier"
        )
    return keras.Model(trunk.input, outputs[0] if len(outputs) == 1 else outputs, name=trunk.name)


def _build(settings: BackboneSettings) -> keras.Model:
    backbone = backbones.get(settings.name)
    weights = "imagenet" if settings.weights == "imagenet" else None
    shape = (settings.size, settings.size, 3)
    arguments = {"include_top": settings.include_top, "input_shape": shape, **settings.options}
    try:
        if backbone.imagenet_graph and backbones.weights_file(settings.weights) is not None:
            return _build_imagenet_graph(backbone, arguments)
        with mock.patch.object(keras.Model, "load_weights", _load_downloaded):
            return backbone.builder(weights=weights, **arguments)
    except TypeError as error:
        raise UserError(f"backbone.options: {backbone.name} does not take {dict(settings.options)}: {error}") from error
    except ValueError as error:
        if weights is not None and os.path.sep in str(error):  # a damaged file in Keras' cache
            raise UserError(f"backbone.weights: {error}; remove the file, and Keras downloads it again") from error
        raise UserError(
            f"backbone: {backbone.name} cannot be built with input_size {settings.size}: {error}"
        ) from error
    except Exception as error:  # Keras raises a bare Exception when a download fails
        if weights is None:
            raise
        raise UserError(
            f"backbone.weights: the ImageNet weights of {backbone.name} could not be downloaded ({error}). "
            "Put the file into $KERAS_HOME/models (~/.keras/models), give a weights file with "
            "--set backbone.weights=FILE, or try the small trunk that ships with Graftline: "
            "--set backbone.weights=procedural, without backbone.name and backbone.options"
        ) from error


def _build_imagenet_graph(backbone: backbones.Backbone, arguments: Mapping[str, Any]) -> keras.Model:
    """Build the graph that Keras builds for weights="imagenet", with random weights and without a download.

    EfficientNetB0 to B7 get one more Rescaling layer there, because their weights were trained with it.
    """
    with (
        mock.patch("keras.src.utils.file_utils.get_file", return_value=""),
        mock.patch.object(keras.Model, "load_weights"),
    ):
        return backbone.builder(weights="imagenet", **arguments)


def _load_downloaded(trunk: keras.Model, path: str) -> None:
    """Replace `keras.Model.load_weights` in Keras' builders: their cache may hold a file that somebody put there."""
    try:
        weights_loading.load(trunk, path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used ({error})") from error


def _load_weights(trunk: keras.Model, settings: BackboneSettings, path: str) -> None:
    if not os.path.isfile(path):
        raise UserError(
            f"backbone.weights: there is no file '{path}': give one of {', '.join(backbones.WEIGHTS)} or a weights file"
        )
    try:
        weights_loading.load(trunk, path, trusted=path == str(backbones.PROCEDURAL))
        if not all(np.isfinite(weight).all() for weight in trunk.get_weights()):
            raise MisfitError("it holds NaN or infinite numbers")
    except RefusedError as error:
        raise UserError(f"backbone.weights: '{path}' is refused: {error}; give a file that Keras wrote") from error
    except weights_loading.DamagedError as error:
        trouble = "is incomplete" if "truncated file" in str(error) else "cannot be read"  # HDF5's words
        raise UserError(f"backbone.weights: '{path}' {trouble} ({error}): copy or download it again") from error
    except MisfitError as error:
        raise UserError(
            f"backbone.weights: '{path}' does not fit {settings.name} with backbone.options {dict(settings.options)} "
            f"({error}): give weights of this backbone that were saved {_KIND[settings.include_top]}, "
            "and the options that they were trained with, such as alpha"
        ) from error


def calibrate(trunk: keras.Model, pixels: keras.KerasTensor) -> None:
    """Scale a random trunk's activations to unit size, once, by the variance of its BatchNormalization layers.

    The scale is measured on some preprocessed images, float32 [n, size, size, 3].

    BatchNorm stays in inference mode in both phases. A pretrained trunk has its statistics. In a random one they are 0
    and 1, and the signal of MobileNetV2 falls to 1e-12. Each layer gets one factor, as in layer-sequential
    unit-variance initialisation (Mishkin and Matas, https://arxiv.org/abs/1511.06422). A mean and variance for each
    channel would pull similar images apart: a ResNet50 on digits fell from 0.94 to 0.28.
    """

    def calibrated(operation: keras.Operation) -> Callable[..., Any]:
        if not isinstance(operation, keras.layers.BatchNormalization):
            takes_training = isinstance(operation, keras.Layer) and operation._call_has_training_arg
            return functools.partial(operation, training=False) if takes_training else operation

        def scaled(x: keras.KerasTensor, **_: object) -> keras.KerasTensor:
            power = keras.ops.mean(keras.ops.square(keras.ops.cast(x, "float32")))  # float16 ends at 65,504
            operation.moving_variance.assign(keras.ops.full(operation.moving_variance.shape, power))
            return operation(x, training=False)

        return scaled

    trunk._run_through_graph(pixels, operation_fn=calibrated)


def layers_to_unfreeze(trunk: keras.Model, unfreeze_from: int | str, landmark: str | None = None) -> list[keras.Layer]:
    """Return the trunk's layers from `unfreeze_from` on, as `trainer.unfreezing.first_layer` finds it.

    BatchNormalization is among them; `trainer.phases` keeps it frozen.
    """
    names = [layer.name for layer in trunk.layers]
    return list(trunk.layers[unfreezing.first_layer(unfreeze_from, names, trunk.name, landmark) :])


def inference(model: keras.Model) -> tuple[Callable[[tf.Tensor], list[tf.Tensor]], list[tf.Variable]]:
    """Return the model with `training=False`, for a graph, and the variables that it reads there.

    It is a function from pixels float32 [b, size, size, 3] to the model's outputs, float32 [b, …]. The graph holds the
    present weights as constants. TensorFlow then folds BatchNormalization into the convolution before it, which made
    MobileNetV2 1.3 times faster here. Models of more than 1 GiB keep their variables.
    """
    values = [(variable, variable.numpy()) for variable in model.weights]
    variables = []
    if sum(value.nbytes for _, value in values) > _MAX_CONSTANTS:
        values, variables = [], [variable.value for variable in model.weights]

    def run(pixels: tf.Tensor) -> list[tf.Tensor]:
        with keras.StatelessScope(state_mapping=[(variable, tf.constant(value)) for variable, value in values]):
            outputs = keras.tree.flatten(model(pixels, training=False))  # Keras unwraps a list of one
        return [tf.cast(output, tf.float32) for output in outputs]

    return run, variables
