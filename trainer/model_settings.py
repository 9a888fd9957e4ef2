"""The settings of the model: what is built, before anything is trained. Imports no Keras and no TensorFlow."""

import contextlib
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, field_validator, model_validator

from graftline.errors import UserError
from graftline.settings import Settings
from graftline.trainer import backbones, head_layers

# Arguments of the builders that would change the model's inputs, outputs or weights.
NOT_OPTIONS = ("include_top", "include_preprocessing", "pooling", "weights", "input_shape", "input_tensor", "classes")

_Positive = Annotated[float, Field(gt=0)]


class NormalizationSettings(Settings):
    """Pixels are (x - mean) / sqrt(variance), as keras.layers.Normalization has it; x is RGB in 0..255."""

    mean: float | tuple[float, float, float] = Field(description="of all channels, or of red, green and blue")
    variance: _Positive | tuple[_Positive, _Positive, _Positive] = Field(
        description="of all channels, or of red, green and blue"
    )


class BackboneSettings(Settings):
    """The pretrained trunk."""

    name: str = Field("MobileNetV2", description="name of a classifier in keras.applications")
    weights: str = Field(
        "imagenet",
        description="imagenet (Keras downloads it once), procedural (ships with Graftline, for first experiments: "
        "MobileNetV2 with options {alpha: 0.35} at 96 pixels, trained on drawings), none (random), or a "
        "weights file",
    )
    input_size: int | None = Field(
        None, ge=1, description="side of the square input in pixels; the backbone's native size when null"
    )
    preprocessing: backbones.Preprocessing | NormalizationSettings | None = Field(
        None,
        description="how RGB in 0..255 becomes the trunk's input: null for what the backbone was trained with, or tf "
        "(x / 127.5 - 1), torch, caffe, rescale (x / 255), none (as it is), or {mean: m, variance: v}; other pixels "
        "than those of its training make a pretrained trunk worse",
    )
    options: dict[str, Any] = Field(
        {}, description="keyword arguments of the backbone's builder, for example {alpha: 0.35}"
    )
    include_top: bool = Field(
        False,
        description="whether the trunk has its own classifier, too, so that head.cut_at can name one of its layers, "
        "such as VGG16's fc2; the weights must have it",
    )

    @field_validator("name")
    @classmethod
    def _require_backbone(cls, name: str) -> str:
        backbones.get(name)
        return name

    @field_validator("preprocessing", mode="before")
    @classmethod
    def _check_preprocessing(cls, value: Any) -> Any:
        """Explain the key's three kinds of value in one sentence; pydantic would write one for each kind."""
        with contextlib.suppress(ValidationError):
            if isinstance(value, dict):
                return NormalizationSettings.model_validate(value)
            return value if value is None else TypeAdapter(backbones.Preprocessing).validate_python(value)
        raise ValueError(
            f"null, {', '.join(get_args(backbones.Preprocessing))}, or {{mean: m, variance: v}} with a number or three "
            "(red, green, blue) for each, and a variance above 0"
        )

    @field_validator("options")
    @classmethod
    def _refuse_fixed_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in options:
            if key in NOT_OPTIONS:
                raise ValueError(f"without '{key}', which Graftline sets itself")
        return options

    @model_validator(mode="before")
    @classmethod
    def _fill_in_procedural(cls, section: Any) -> Any:
        """Set the options and the input size of the one trunk that the procedural weights fit, unless they are set."""
        if not isinstance(section, dict) or section.get("weights") != "procedural":
            return section
        defaults = {"options": backbones.PROCEDURAL_OPTIONS, "input_size": backbones.PROCEDURAL_SIZE}
        return {**section, **{key: value for key, value in defaults.items() if section.get(key) in (None, {})}}

    @model_validator(mode="after")
    def _require_procedural_trunk(self) -> "BackboneSettings":
        required = {"name": backbones.PROCEDURAL_NAME, "options": backbones.PROCEDURAL_OPTIONS}
        for key, value in required.items() if self.weights == "procedural" else ():
            if getattr(self, key) != value:
                raise UserError(
                    f"backbone.weights: procedural needs backbone.{key} {value}, but it is {getattr(self, key)}: "
                    f"leave out backbone.{key}, or give other weights"
                )
        return self

    @property
    def mode(self) -> backbones.Mode:
        """How RGB in 0..255 becomes the trunk's input: `preprocessing`, or what the backbone was trained with."""
        if isinstance(self.preprocessing, NormalizationSettings):
            return self.preprocessing.model_dump()
        return self.preprocessing or backbones.get(self.name).preprocessing

    @property
    def size(self) -> int:
        """Side of the square input in pixels."""
        return self.input_size or backbones.get(self.name).input_size

    @property
    def landmark(self) -> str:
        """The layer where the backbone's last stage begins."""
        return backbones.get(self.name).landmark


def _check_layer(item: Any) -> Any:
    head_layers.parse(item)
    return item


class HeadSettings(Settings):
    """The head that is grafted onto the trunk."""

    cut_at: str | list[str] | None = Field(
        None,
        description="layer of the trunk that the head is grafted onto; null for the last layer. With a list of layers "
        "the feature map of each is pooled, and the vectors are joined",
    )
    pooling: Literal["avg", "max", "flatten"] = Field(
        "avg", description="how the trunk's last feature map becomes a vector"
    )
    dense: list[Annotated[int, Field(ge=1)]] = Field(
        [], description="units of the hidden dense layers (ReLU), in order; empty for a linear head"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout rate before each dense layer, in training only")
    layers: list[Annotated[Any, AfterValidator(_check_layer)]] | None = Field(
        None,
        description="the head's layers below its output, lower to upper, in place of pooling, dense and dropout: "
        "layers of Keras by name with their arguments, for example [GlobalAveragePooling2D, Dense: {units: 256, "
        "activation: relu}, Dropout: 0.2]; they end in one vector",
    )
    output: Literal["softmax", "sigmoid"] = Field(
        "softmax",
        description="softmax (a logit for each class), or sigmoid (one logit, for two classes); both give a "
        "probability for each class",
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_both_forms(cls, section: Any) -> Any:
        """Refuse `layers` next to the keys that it replaces, unless they have their defaults."""
        if not isinstance(section, dict) or section.get("layers") is None:
            return section
        short = ["dense", "dropout", *([] if isinstance(section.get("cut_at"), list) else ["pooling"])]
        for key in short:
            default = cls.model_fields[key].default
            if section.get(key, default) != default:
                raise UserError(
                    f"head.layers: it lists all layers of the head, but head.{key} is {section[key]}, too: write it as "
                    f"a layer of head.layers, or leave out head.layers"
                )
        return section

    @property
    def cuts(self) -> tuple[str, ...]:
        """The layers of `cut_at`; empty for the trunk's last layer."""
        return (self.cut_at,) if isinstance(self.cut_at, str) else tuple(self.cut_at or ())

    @field_validator("cut_at")
    @classmethod
    def _check_cuts(cls, cut_at: str | list[str] | None) -> str | list[str] | None:
        if isinstance(cut_at, list) and len(set(cut_at)) != max(len(cut_at), 1):
            raise ValueError("a layer's name or a list of different ones")
        return cut_at


def check_output(output: str, classes: int) -> None:
    """Raise UserError for one logit, which stands for two classes, where there is another number of classes."""
    if output == "sigmoid" and classes != 2:
        raise UserError(
            f"head.output: sigmoid is one logit for two classes, but there are {classes}: set head.output=softmax"
        )


def check_top(backbone: BackboneSettings, head: HeadSettings) -> None:
    """Raise UserError for a trunk with its classifier that no layer is named in, or whose weights have none."""
    if not backbone.include_top:
        return
    if backbone.weights == "procedural":
        raise UserError(
            "backbone.include_top: the procedural weights have no classifier: set backbone.include_top=false"
        )
    if not head.cuts:
        raise UserError(
            "backbone.include_top: it needs head.cut_at, the layer of the classifier that the head is grafted onto, "
            "for example head.cut_at=fc2 on VGG16: set it, or set backbone.include_top=false"
        )
