"""The layers that `head.layers` may name, with the arguments that each takes. Imports no Keras.

A layer is written as in Keras: `GlobalAveragePooling2D`, or with its first argument, `Dense: 256`, or with several,
`Dense: {units: 256, activation: relu}`. What is not here is not for a head that classifies images, or would run code.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from graftline.errors import did_you_mean
from graftline.settings import Settings, check_value


class Regularizer(Settings):
    """A penalty on a layer's kernel: keras.regularizers.L1L2."""

    l1: float = Field(0.0, ge=0)
    l2: float = Field(0.0, ge=0)


_Count = Annotated[int, Field(ge=1)]
_Rate = Annotated[float, Field(ge=0, lt=1)]
_Positive = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]
_Size = _Count | tuple[_Count, _Count]
_Padding = Literal["valid", "same"]
_Activation = Literal[
    "elu", "gelu", "hard_sigmoid", "hard_silu", "leaky_relu", "linear", "mish", "relu", "relu6", "selu", "sigmoid",
    "silu", "softplus", "softsign", "swish", "tanh",
]  # fmt: skip
_Initializer = Literal[
    "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "lecun_normal", "lecun_uniform", "orthogonal",
    "random_normal", "random_uniform", "truncated_normal", "zeros",
]  # fmt: skip

_KERNEL = {
    "activation": _Activation,
    "use_bias": bool,
    "kernel_initializer": _Initializer,
    "kernel_regularizer": Regularizer,
}
_CONV = {"kernel_size": _Size, "strides": _Size, "padding": _Padding, "dilation_rate": _Size}
_POOL = {"pool_size": _Size, "strides": _Size, "padding": _Padding}
_DEPTHWISE = {"activation": _Activation, "use_bias": bool, "depth_multiplier": _Count}

# For each layer its arguments and their types, in Keras' order: the first may stand alone.
LAYERS: dict[str, dict[str, Any]] = {
    "Activation": {"activation": _Activation},
    "AlphaDropout": {"rate": _Rate},
    "AveragePooling2D": _POOL,
    "BatchNormalization": {"momentum": _Rate, "epsilon": _Positive, "center": bool, "scale": bool},
    "Conv2D": {"filters": _Count, **_CONV, "groups": _Count, **_KERNEL},
    "Dense": {"units": _Count, **_KERNEL},
    "DepthwiseConv2D": {**_CONV, **_DEPTHWISE},
    "Dropout": {"rate": _Rate},
    "ELU": {"alpha": _NotNegative},
    "Flatten": {},
    "GaussianDropout": {"rate": _Rate},
    "GaussianNoise": {"stddev": _NotNegative},
    "GlobalAveragePooling2D": {},
    "GlobalMaxPooling2D": {},
    "GroupNormalization": {"groups": _Count, "epsilon": _Positive},
    "LayerNormalization": {"epsilon": _Positive},
    "LeakyReLU": {"negative_slope": _NotNegative},
    "MaxPooling2D": _POOL,
    "PReLU": {},
    "ReLU": {"max_value": _Positive, "negative_slope": _NotNegative, "threshold": _NotNegative},
    "Rescaling": {"scale": float, "offset": float},
    "SeparableConv2D": {"filters": _Count, **_CONV, **_DEPTHWISE},
    "SpatialDropout2D": {"rate": _Rate},
    "UnitNormalization": {},
    "ZeroPadding2D": {"padding": _Size},
}
# Those that have weights: a head with one of them is not linear in the features that are cached.
WITH_WEIGHTS = {
    "BatchNormalization", "Conv2D", "Dense", "DepthwiseConv2D", "GroupNormalization", "LayerNormalization", "PReLU",
    "SeparableConv2D",
}  # fmt: skip
# Those without which Keras cannot build a layer.
_REQUIRED = {
    "Activation": ("activation",),
    "AlphaDropout": ("rate",),
    "Conv2D": ("filters", "kernel_size"),
    "Dense": ("units",),
    "DepthwiseConv2D": ("kernel_size",),
    "Dropout": ("rate",),
    "GaussianDropout": ("rate",),
    "GaussianNoise": ("stddev",),
    "Rescaling": ("scale",),
    "SeparableConv2D": ("filters", "kernel_size"),
    "SpatialDropout2D": ("rate",),
}


class HeadLayer(NamedTuple):
    """One layer of a head."""

    kind: str  # its class in keras.layers
    arguments: Mapping[str, Any]


def parse(item: Any) -> HeadLayer:
    """Return the layer that an item of `head.layers` means; raise ValueError, whose message says what it must be."""
    if isinstance(item, Mapping):
        if len(item) != 1:
            raise ValueError("one layer: begin each layer with a dash of its own")
        ((kind, value),) = item.items()
    else:
        kind, value = item, None
    if not isinstance(kind, str) or kind not in LAYERS:
        raise ValueError(f"one of {', '.join(LAYERS)}{did_you_mean(str(kind), list(LAYERS))}")
    types = LAYERS[kind]
    arguments = value if isinstance(value, Mapping) else {} if value is None else {_first(kind): value}
    checked = {}
    for key, argument in arguments.items():
        if key not in types:
            known = f"takes {', '.join(types)}{did_you_mean(str(key), list(types))}" if types else "takes no arguments"
            raise ValueError(f"without {kind}'s '{key}': {kind} {known}")
        checked[key] = check_value(f"{key} of {kind}", argument, types[key], strict=False)  # YAML has no tuples
    if missing := [key for key in _REQUIRED.get(kind, ()) if key not in checked]:
        raise ValueError(f"with the {' and the '.join(missing)} of {kind}")
    return HeadLayer(kind, checked)


def _first(kind: str) -> str:
    try:
        return next(iter(LAYERS[kind]))
    except StopIteration:
        raise ValueError(f"without an argument of {kind}, which takes none") from None
