"""What a user can set about training: the parts of the config that the trainer reads.

`pipeline.config` puts them into the one typed config; `trainer.run_fn` reads them back. Imports no Keras.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from graftline.errors import UserError, did_you_mean
from graftline.settings import Settings
from graftline.trainer import backbones

# Arguments of the builders that would make another model than the one around them expects.
NOT_OPTIONS = ("include_top", "include_preprocessing", "pooling", "weights", "input_shape", "input_tensor", "classes")

# What each of Keras' optimizers can be told in `optimizer_options`, in Keras' names, and what each value may be.
_FRACTION = Annotated[float, Field(ge=0, lt=1)]
_POSITIVE = Annotated[float, Field(gt=0)]
_ANY_OPTIMIZER = {
    "weight_decay": Annotated[float, Field(ge=0)],
    "gradient_accumulation_steps": Annotated[int, Field(ge=2)],
}
_ADAM = {"beta_1": _FRACTION, "beta_2": _FRACTION, "epsilon": _POSITIVE, "amsgrad": bool, **_ANY_OPTIMIZER}
OPTIMIZER_OPTIONS: dict[str, dict[str, Any]] = {
    "adam": _ADAM,
    "adamw": _ADAM,
    "rmsprop": {"rho": _FRACTION, "momentum": _FRACTION, "epsilon": _POSITIVE, "centered": bool, **_ANY_OPTIMIZER},
    "sgd": {"momentum": _FRACTION, "nesterov": bool, **_ANY_OPTIMIZER},
}
# The rest of their arguments, and why a user does not give them.
_BY_CLIP_NORM = "gradients are clipped by the key clip_norm, beside optimizer_options"
_BY_BEST_EPOCH = "the weights of the best epoch are kept, not an average"
NOT_OPTIMIZER_OPTIONS = {
    "learning_rate": "it is a key of its own, beside optimizer_options",
    "clipnorm": _BY_CLIP_NORM,
    "clipvalue": _BY_CLIP_NORM,
    "global_clipnorm": _BY_CLIP_NORM,
    "use_ema": _BY_BEST_EPOCH,
    "ema_momentum": _BY_BEST_EPOCH,
    "ema_overwrite_frequency": _BY_BEST_EPOCH,
    "loss_scale_factor": "training.precision=mixed_float16 scales the loss",
    "name": "Keras names it",
}


class BackboneSettings(Settings):
    """The pretrained trunk."""

    name: str = Field("MobileNetV2", description="a classifier of keras.applications, by its name there")
    weights: str = Field(
        "imagenet",
        description="imagenet (downloaded once by Keras), procedural (ships with Graftline, for trying things out: "
        "MobileNetV2 with options {alpha: 0.35} at 96 pixels, learned from drawings), none (random), or a "
        "weights file",
    )
    input_size: int | None = Field(
        None, ge=1, description="side of the square input in pixels; the backbone's native size when null"
    )
    options: dict[str, Any] = Field(
        {}, description="keyword arguments of the backbone's builder, for example {alpha: 0.35}"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        backbones.get(name)
        return name

    @field_validator("options")
    @classmethod
    def _ours_to_set(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in options:
            if key in NOT_OPTIONS:
                raise ValueError(f"without '{key}', which Graftline sets itself")
        return options

    @model_validator(mode="before")
    @classmethod
    def _procedural_alone(cls, given: Any) -> Any:
        """Those weights fit one trunk: where nothing else is asked for, it is that."""
        if not isinstance(given, dict) or given.get("weights") != "procedural":
            return given
        own = {"options": backbones.PROCEDURAL_OPTIONS, "input_size": backbones.PROCEDURAL_SIZE}
        return {**given, **{key: value for key, value in own.items() if given.get(key) in (None, {})}}

    @model_validator(mode="after")
    def _procedural_fits(self) -> "BackboneSettings":
        if self.weights == "procedural":
            wrong = {"name": self.name, "options": self.options}
            right = {"name": backbones.PROCEDURAL_NAME, "options": backbones.PROCEDURAL_OPTIONS}
            for key, value in wrong.items():
                if value != right[key]:
                    raise UserError(
                        f"backbone.weights: procedural goes with backbone.{key} {right[key]} only, and here it is "
                        f"{value}: leave backbone.{key} away, or give other weights"
                    )
        return self

    @property
    def size(self) -> int:
        """Side of the square input, pixels."""
        return self.input_size or backbones.get(self.name).input_size


class HeadSettings(Settings):
    """What is grafted onto the trunk."""

    cut_at: str | None = Field(None, description="layer of the trunk that the head is grafted onto; its last when null")
    pooling: Literal["avg", "max", "flatten"] = Field(
        "avg", description="how the trunk's last feature map becomes a vector"
    )
    dense: list[Annotated[int, Field(ge=1)]] = Field(
        [], description="units of hidden dense layers (ReLU), in order; empty for a linear head"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="rate of the dropout before each dense layer, in training only")


class PhaseSettings(Settings):
    """One phase of training."""

    epochs: int = Field(ge=0, description="at most so many passes over the train split")
    learning_rate: float = Field(gt=0, description="of the optimizer")
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = Field("adam", description="adam, adamw, rmsprop or sgd")
    optimizer_options: dict[str, Any] = Field(
        {},
        description="arguments of Keras' optimizer, for example {weight_decay: 0.004}; where it is silent Keras' "
        "defaults hold, but for sgd's momentum, which is 0.9",
    )
    schedule: Literal["constant", "cosine", "exponential"] = Field(
        "constant",
        description="course of the learning rate: constant, cosine (down to alpha at the last of the epochs) or "
        "exponential (times decay_rate in each epoch)",
    )
    warmup_epochs: float = Field(
        0.0, ge=0, description="in the first so many epochs (parts count) the learning rate rises from 0, step by step"
    )
    alpha: float = Field(
        0.0, ge=0, le=1, description="cosine: the learning rate at the end, as a fraction of learning_rate"
    )
    decay_rate: float = Field(0.9, gt=0, le=1, description="exponential: factor on the learning rate for each epoch")
    clip_norm: float | None = Field(
        None, gt=0, description="the gradients of a step are scaled down to this norm, over all weights; null for never"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="lower layers learn slower: factor on the learning rate for each block further down. The head has "
        "the full rate; the layers of the trunk that are trained make 12 blocks of equal length (fewer than 12 "
        "layers: one block each), so the lowest has at least layer_decay^12 of it",
    )
    patience: int = Field(
        ge=0, description="stop after so many epochs without a better validation loss, and keep the best weights"
    )
    min_delta: float = Field(0.0, ge=0, description="by how much the validation loss must fall to count as better")

    @field_validator("optimizer_options")
    @classmethod
    def _taken_by_the_optimizer(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        optimizer = info.data.get("optimizer")  # absent when it was itself refused
        known = OPTIMIZER_OPTIONS.get(optimizer, {}) if optimizer else dict.fromkeys(options, Any)
        checked = {}
        for key, value in options.items():
            if key in NOT_OPTIMIZER_OPTIONS:
                raise ValueError(f"without '{key}': {NOT_OPTIMIZER_OPTIONS[key]}")
            if key not in known:
                near = did_you_mean(str(key), list(known))
                raise ValueError(f"made of the options of {optimizer}: {', '.join(known)}{near}")
            try:
                checked[key] = TypeAdapter(known[key]).validate_python(value, strict=True)
            except ValidationError as error:
                fault = error.errors()[0]["msg"].removeprefix("Input should be ")
                raise ValueError(f"with a {key} that is {fault}") from None
        return checked

    @field_validator("warmup_epochs")
    @classmethod
    def _over_before_the_end(cls, warmup_epochs: float, info: ValidationInfo) -> float:
        epochs = info.data.get("epochs")  # 0 skips the phase
        if epochs and warmup_epochs >= epochs:
            raise ValueError(f"less than epochs, which is {epochs}")
        return warmup_epochs


class FeatureExtractionSettings(PhaseSettings):
    """Phase 1: the head is trained on a frozen trunk."""

    epochs: int = Field(100, ge=0, description="at most so many passes over the train split; 0 skips the phase")
    learning_rate: float = Field(1e-3, gt=0, description="of the optimizer")
    patience: int = Field(
        10, ge=0, description="stop after so many epochs without a better validation loss, and keep the best weights"
    )
    min_delta: float = Field(0.001, ge=0, description="by how much the validation loss must fall to count as better")


class FineTuningSettings(PhaseSettings):
    """Phase 2: the upper trunk is unfrozen and trained on at a very low learning rate, BatchNorm in inference mode."""

    epochs: int = Field(10, ge=0, description="at most so many passes over the train split; 0 skips the phase")
    learning_rate: float = Field(
        1e-5, gt=0, description="of the optimizer; very low, or the pretrained features are lost"
    )
    patience: int = Field(
        3, ge=0, description="stop after so many epochs without a better validation loss, and keep the best weights"
    )
    unfreeze_from: int | str = Field(
        -30,
        description="what of the trunk is trained, as a Python slice of its layers: -30 the last 30, 149 from index "
        "149 (InputLayer is 0), a layer's name from that layer on, all, or none",
    )


class AugmentationSettings(Settings):
    """Random changes to the training images; `augmentation: off` for none. What is 0 or none is not done."""

    flip: Literal["none", "horizontal", "vertical", "both"] = Field(
        "none", description="mirrored or not, each with a chance of one half: none, horizontal, vertical or both"
    )
    rotation: float = Field(
        0.0, ge=0, le=0.5, description="turned by up to this fraction of a full turn, either way: 0.1 is 36 degrees"
    )
    zoom: float = Field(0.0, ge=0, lt=1, description="zoomed in or out by up to this fraction")
    translation: float = Field(
        0.0, ge=0, le=0.5, description="shifted by up to this fraction of the side, along each axis"
    )
    crop: float = Field(
        0.0, ge=0, le=1, description="enlarged by this fraction, and a random window of the original size cut out"
    )
    contrast: float = Field(0.0, ge=0, lt=1, description="contrast raised or lowered by up to this fraction")
    brightness: float = Field(
        0.0, ge=0, lt=1, description="made lighter or darker by up to this fraction of the full range"
    )
    views: int = Field(
        4,
        ge=0,
        description="augmented views of each image that the boundary cache holds, epoch e trains on view e modulo "
        "views; 0 draws fresh ones for each epoch and runs the whole trunk each time (no cache)",
    )

    @model_validator(mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        if isinstance(value, dict | cls):
            return value
        if value != "off":
            raise ValueError("'off' or a section of keys")
        return {}

    @property
    def enabled(self) -> bool:
        """Whether anything is changed at all."""
        amounts = (self.rotation, self.zoom, self.translation, self.crop, self.contrast, self.brightness)
        return self.flip != "none" or any(amounts)


class TrainingSettings(Settings):
    """What both phases share."""

    batch_size: int = Field(32, ge=1, description="images in a training step")
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of each image's label that is spread over all classes, so that the model grows less sure of "
        "itself; 0.1 is usual",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: images of rare classes weigh more, so that each class weighs the same; or none"
    )
    warm_start: bool = Field(
        False,
        description="start from the weights of the last blessed model, for nightly runs; a class that is new begins at "
        "zero",
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32",
        description="what the trunk computes in: float32, mixed_bfloat16 (for GPUs, and CPUs with bfloat16) or "
        "mixed_float16 (for GPUs); the weights stay float32",
    )
    transfer_images_per_class: int = Field(
        0,
        ge=0,
        description="train twice more, on up to so many images of each class, from the backbone's weights and from a "
        "random trunk, all else alike, and say how far each comes: what transfer is worth here; 0 for no",
    )


class BoundaryCacheSettings(Settings):
    """What is kept of the frozen part's work, in the workspace, from run to run."""

    enabled: bool = Field(
        True, description="keep the activations under the lowest trainable layer; false runs the whole trunk each epoch"
    )
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="float16 takes half the disk, and rounds the activations to three digits"
    )
    memory_mb: int = Field(256, ge=0, description="activations of a split up to this size are held in memory")
    disk_gb: float = Field(
        20.0, gt=0, description="when the activations of past runs pass this size, the longest unused go"
    )


class TrainerSettings(Settings):
    """The Trainer's `custom_config`: all that decides what it does, and so the whole of its cache key."""

    backbone: BackboneSettings
    head: HeadSettings
    training: TrainingSettings
    feature_extraction: FeatureExtractionSettings
    fine_tuning: FineTuningSettings
    augmentation: AugmentationSettings = AugmentationSettings()
    boundary_cache: BoundaryCacheSettings = BoundaryCacheSettings()
    resize: backbones.Resize = Field("stretch", description="how the Transform makes images square")
    materialize: bool = Field(False, description="whether the Transform has written resized images, as uint8")
    seed: int
    state: str = Field("", description="folder or URI of what outlives a run: checkpoints and activations")
    preprocessing: str = Field("", description="how pixels are made of an image's bytes, with a hash of the sources")
    code: str = Field("", description="hash of the trainer's sources: TFX's cache key does not see them")
    served: str = Field("", description="folder or URI of the served versions, which tells what was rolled back from")
    weights_sha256: str = Field("", description="of the weights file: another file under the same name is another run")
