"""The registry of backbones: one entry each, as data, without importing Keras.

`components.transform.preprocessing` and the config read an entry's input size and preprocessing mode. `trainer.models`
calls its builder. An entry holds everything about a backbone: no other code compares a backbone's name.
"""

import functools
import importlib
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from graftline.errors import UserError, did_you_mean

# What `keras.applications.<family>.preprocess_input` does to RGB in 0..255 (keras/src/applications/imagenet_utils.py):
#   tf     x / 127.5 - 1
#   torch  (x / 255 - mean) / std, ImageNet's mean and deviation
#   caffe  RGB to BGR, ImageNet's mean subtracted, not scaled
#   none   unchanged: the model holds its own rescaling layer
# A user may also choose, in place of the backbone's own:
#   rescale                   x / 255
#   {mean: m, variance: v}    (x - m) / sqrt(v), as keras.layers.Normalization has it; each one number, or one for each
#                             of R, G and B
Preprocessing = Literal["tf", "torch", "caffe", "rescale", "none"]
Mode = Preprocessing | Mapping[str, Any]
Resize = Literal["stretch", "crop", "pad"]  # how an image becomes square before the preprocessing


@dataclass(frozen=True)
class Backbone:
    """One entry."""

    name: str  # its function in keras.applications
    family: str  # its module there
    preprocessing: Preprocessing
    input_size: int  # the native side in pixels
    landmark: str  # the layer where the last stage begins, for `fine_tuning.unfreeze_from: auto`
    min_size: int = 32  # the smallest side that builds
    imagenet_graph: bool = False  # Keras builds another graph, with the same weights, for weights="imagenet"

    @property
    def builder(self) -> Callable[..., Any]:
        """The function of `keras.applications` that builds it; imports Keras."""
        return getattr(importlib.import_module("keras").applications, self.name)

    @property
    def preprocess_input(self) -> Callable[..., Any]:
        """The family's own `preprocess_input`; imports Keras."""
        return getattr(importlib.import_module("keras").applications, self.family).preprocess_input


_ENTRIES = (
    Backbone("MobileNet", "mobilenet", "tf", 224, "conv_dw_12"),
    Backbone("MobileNetV2", "mobilenet_v2", "tf", 224, "block_13_project_BN"),
    Backbone("MobileNetV3Small", "mobilenet_v3", "none", 224, "expanded_conv_9_expand"),
    Backbone("MobileNetV3Large", "mobilenet_v3", "none", 224, "expanded_conv_13_expand"),
    Backbone("VGG16", "vgg16", "caffe", 224, "block5_conv1"),
    Backbone("VGG19", "vgg19", "caffe", 224, "block5_conv1"),
    Backbone("ResNet50", "resnet", "caffe", 224, "conv5_block1_1_conv"),
    Backbone("ResNet101", "resnet", "caffe", 224, "conv5_block1_1_conv"),
    Backbone("ResNet152", "resnet", "caffe", 224, "conv5_block1_1_conv"),
    Backbone("ResNet50V2", "resnet_v2", "tf", 224, "conv5_block1_preact_bn"),
    Backbone("ResNet101V2", "resnet_v2", "tf", 224, "conv5_block1_preact_bn"),
    Backbone("ResNet152V2", "resnet_v2", "tf", 224, "conv5_block1_preact_bn"),
    Backbone("DenseNet121", "densenet", "torch", 224, "conv5_block1_0_bn"),
    Backbone("DenseNet169", "densenet", "torch", 224, "conv5_block1_0_bn"),
    Backbone("DenseNet201", "densenet", "torch", 224, "conv5_block1_0_bn"),
    Backbone("InceptionV3", "inception_v3", "tf", 299, "mixed8", min_size=75),
    Backbone("InceptionResNetV2", "inception_resnet_v2", "tf", 299, "mixed_7a", min_size=75),
    Backbone("Xception", "xception", "tf", 299, "block13_sepconv1_act", min_size=71),
    Backbone("NASNetMobile", "nasnet", "tf", 224, "reduction_concat_reduce_8"),
    Backbone("NASNetLarge", "nasnet", "tf", 331, "reduction_concat_reduce_12"),
    Backbone("EfficientNetB0", "efficientnet", "none", 224, "block7a_expand_conv", imagenet_graph=True),
    Backbone("EfficientNetB1", "efficientnet", "none", 240, "block7a_expand_conv", imagenet_graph=True),
    Backbone("EfficientNetB2", "efficientnet", "none", 260, "block7a_expand_conv", imagenet_graph=True),
    Backbone("EfficientNetB3", "efficientnet", "none", 300, "block7a_expand_conv", imagenet_graph=True),
    Backbone("EfficientNetB4", "efficientnet", "none", 380, "block7a_expand_conv", imagenet_graph=True),
    Backbone("EfficientNetB5", "efficientnet", "none", 456, "block7a_expand_conv", imagenet_graph=True),
    Backbone("EfficientNetB6", "efficientnet", "none", 528, "block7a_expand_conv", imagenet_graph=True),
    Backbone("EfficientNetB7", "efficientnet", "none", 600, "block7a_expand_conv", imagenet_graph=True),
    Backbone("EfficientNetV2B0", "efficientnet_v2", "none", 224, "block6a_expand_conv"),
    Backbone("EfficientNetV2B1", "efficientnet_v2", "none", 240, "block6a_expand_conv"),
    Backbone("EfficientNetV2B2", "efficientnet_v2", "none", 260, "block6a_expand_conv"),
    Backbone("EfficientNetV2B3", "efficientnet_v2", "none", 300, "block6a_expand_conv"),
    Backbone("EfficientNetV2S", "efficientnet_v2", "none", 384, "block6a_expand_conv"),
    Backbone("EfficientNetV2M", "efficientnet_v2", "none", 480, "block7a_expand_conv"),
    Backbone("EfficientNetV2L", "efficientnet_v2", "none", 480, "block7a_expand_conv"),
    Backbone("ConvNeXtTiny", "convnext", "none", 224, "convnext_tiny_stage_3_block_0_depthwise_conv"),
    Backbone("ConvNeXtSmall", "convnext", "none", 224, "convnext_small_stage_3_block_0_depthwise_conv"),
    Backbone("ConvNeXtBase", "convnext", "none", 224, "convnext_base_stage_3_block_0_depthwise_conv"),
    Backbone("ConvNeXtLarge", "convnext", "none", 224, "convnext_large_stage_3_block_0_depthwise_conv"),
    Backbone("ConvNeXtXLarge", "convnext", "none", 224, "convnext_xlarge_stage_3_block_0_depthwise_conv"),
)
BACKBONES: dict[str, Backbone] = {entry.name: entry for entry in _ENTRIES}


def preprocess_input(mode: Mode) -> Callable[..., Any]:
    """Return Keras' own function from RGB in 0..255, float32 [..., 3], to the pixels of a mode; imports Keras."""
    keras = importlib.import_module("keras")
    if isinstance(mode, Mapping):
        return keras.layers.Normalization(mean=mode["mean"], variance=mode["variance"])
    if mode == "rescale":
        return lambda pixels: pixels / 255.0
    if mode == "none":
        return lambda pixels: pixels
    return functools.partial(keras.applications.imagenet_utils.preprocess_input, mode=mode)


# The values of `backbone.weights` that are not a file's path.
WEIGHTS = ("imagenet", "procedural", "none")

# The weights that ship as "procedural", and the trunk that they fit. recipes/procedural_trunk made them.
PROCEDURAL = pathlib.Path(__file__).with_name("weights") / "mobilenet_v2_0.35_procedural.weights.h5"
PROCEDURAL_NAME, PROCEDURAL_OPTIONS, PROCEDURAL_SIZE = "MobileNetV2", {"alpha": 0.35}, 96


def weights_file(weights: str) -> pathlib.Path | None:
    """Return the file that `backbone.weights` means; None for random weights and those that Keras downloads."""
    if weights == "procedural":
        return PROCEDURAL
    return None if weights in WEIGHTS else pathlib.Path(weights)


def get(name: str) -> Backbone:
    """Return the entry of that name, or raise UserError, whose message names the nearest."""
    if name not in BACKBONES:
        raise UserError(
            f"backbone.name: there is no backbone '{name}'{did_you_mean(name, list(BACKBONES)) or '.'} "
            f"Known: {', '.join(BACKBONES)}"
        )
    return BACKBONES[name]
