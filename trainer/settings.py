"""The sections of the config that the trainer reads.

`pipeline.config` puts them into the one typed config, and `trainer.run_fn` reads them back. Imports no Keras.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from graftline.errors import did_you_mean
from graftline.settings import Settings, check_value
from graftline.trainer import backbones
from graftline.trainer.model_settings import BackboneSettings, HeadSettings
from graftline.trainer.solver_options import check_options as check_solver_options

# The keys of `optimizer_options` for each of Keras' optimizers, in Keras' names, and the types of their values.
_Fraction = Annotated[float, Field(ge=0, lt=1)]
_Positive = Annotated[float, Field(gt=0)]
_UpToHalf = Annotated[float, Field(ge=0, le=0.5)]
_Count = Annotated[int, Field(ge=0)]
_ANY_OPTIMIZER = {
    "weight_decay": Annotated[float, Field(ge=0)],
    "gradient_accumulation_steps": Annotated[int, Field(ge=2)],
}
_ADAM = {"beta_1": _Fraction, "beta_2": _Fraction, "epsilon": _Positive, "amsgrad": bool, **_ANY_OPTIMIZER}
OPTIMIZER_OPTIONS: dict[str, dict[str, Any]] = {
    "adam": _ADAM,
    "adamw": _ADAM,
    "rmsprop": {"rho": _Fraction, "momentum": _Fraction, "epsilon": _Positive, "centered": bool, **_ANY_OPTIMIZER},
    "sgd": {"momentum": _Fraction, "nesterov": bool, **_ANY_OPTIMIZER},
}
# The other arguments of the optimizers, and why a user cannot set them.
_BY_CLIP_NORM = "gradients are clipped by the key clip_norm, next to optimizer_options"
_BY_BEST_EPOCH = "the weights of the best epoch are kept, not an average"
NOT_OPTIMIZER_OPTIONS = {
    "learning_rate": "it is a key of its own, next to optimizer_options",
    "clipnorm": _BY_CLIP_NORM,
    "clipvalue": _BY_CLIP_NORM,
    "global_clipnorm": _BY_CLIP_NORM,
    "use_ema": _BY_BEST_EPOCH,
    "ema_momentum": _BY_BEST_EPOCH,
    "ema_overwrite_frequency": _BY_BEST_EPOCH,
    "loss_scale_factor": "training.precision=mixed_float16 scales the loss",
    "name": "Keras names it",
}

# Descriptions of keys that both phases have, with defaults of their own.
_EPOCHS = "maximum number of passes over the train split; 0 skips the phase"
_LEARNING_RATE = "learning rate of the optimizer"
_MIN_DELTA = "change of the monitored value that counts as better"
_PATIENCE = "stop after this many epochs that are not better than the best one; null: never"


class PhaseSettings(Settings):
    """One phase of training."""

    epochs: int = Field(ge=0, description=_EPOCHS)
    learning_rate: float = Field(gt=0, description=_LEARNING_RATE)
    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = Field("adam", description="adam, adamw, rmsprop or sgd")
    optimizer_options: dict[str, Any] = Field(
        {},
        description="arguments of Keras' optimizer, for example {weight_decay: 0.004}; other arguments have Keras' "
        "defaults, except sgd's momentum, which is 0.9",
    )
    schedule: Literal["constant", "cosine", "exponential"] = Field(
        "constant",
        description="schedule of the learning rate: constant, cosine (falls to alpha at the last of the epochs) or "
        "exponential (multiplied by decay_rate in each epoch)",
    )
    warmup_epochs: float = Field(
        0.0, ge=0, description="number of epochs (or a fraction) in which the learning rate rises from 0, step by step"
    )
    alpha: float = Field(0.0, ge=0, le=1, description="cosine: final learning rate, as a fraction of learning_rate")
    decay_rate: float = Field(0.9, gt=0, le=1, description="exponential: factor on the learning rate in each epoch")
    clip_norm: float | None = Field(
        None, gt=0, description="maximum norm of a step's gradients over all weights; null for no limit"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="makes lower layers learn more slowly: factor on the learning rate for each block further down. "
        "The head has the full rate. The trained layers of the trunk make 12 blocks of equal length (fewer than 12 "
        "layers: one block each), so the lowest block has at least layer_decay^12 of the rate",
    )
    monitor: Literal["val_loss", "val_accuracy"] = Field(
        "val_loss", description="what makes an epoch better than another: a lower val_loss or a higher val_accuracy"
    )
    patience: int | None = Field(ge=0, description=_PATIENCE)
    min_delta: float = Field(0.0, ge=0, description=_MIN_DELTA)
    restore_best_weights: bool = Field(
        True, description="keeps the weights of the best epoch; false keeps those of the last one"
    )

    @field_validator("optimizer_options")
    @classmethod
    def _check_optimizer_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        optimizer = info.data.get("optimizer")  # absent when its own value is invalid
        types = OPTIMIZER_OPTIONS.get(optimizer, {}) if optimizer else dict.fromkeys(options, Any)
        checked = {}
        for key, value in options.items():
            if key in NOT_OPTIMIZER_OPTIONS:
                raise ValueError(f"without '{key}': {NOT_OPTIMIZER_OPTIONS[key]}")
            if key not in types:
                suggestion = did_you_mean(str(key), list(types))
                raise ValueError(f"made of the options of {optimizer}: {', '.join(types)}{suggestion}")
            checked[key] = check_value(key, value, types[key])
        return checked

    @model_validator(mode="after")
    def _require_an_end(self) -> "PhaseSettings":
        if self.patience is None and "epochs" not in self.model_fields_set:
            raise ValueError("with epochs, too, because patience null never ends a phase before them")
        return self

    @field_validator("warmup_epochs")
    @classmethod
    def _require_shorter_warmup(cls, warmup_epochs: float, info: ValidationInfo) -> float:
        epochs = info.data.get("epochs")  # 0 skips the phase
        if epochs and warmup_epochs >= epochs:
            raise ValueError(f"less than epochs, which is {epochs}")
        return warmup_epochs


class FeatureExtractionSettings(PhaseSettings):
    """Phase 1: the head is trained on a frozen trunk."""

    epochs: int = Field(100, ge=0, description=_EPOCHS)
    learning_rate: float = Field(1e-3, gt=0, description=_LEARNING_RATE)
    patience: int | None = Field(10, ge=0, description=_PATIENCE)
    min_delta: float = Field(0.001, ge=0, description=_MIN_DELTA)
    solver: Literal["gradient", "logistic_regression", "linear_svm"] = Field(
        "gradient",
        description="gradient (epochs of an optimizer), or logistic_regression or linear_svm: scikit-learn solves a "
        "linear head to its optimum on the features of all training images and views. The other keys of this section "
        "have no effect then, except epochs: 0, which is refused",
    )
    solver_options: dict[str, Any] = Field(
        {},
        description="arguments of scikit-learn's LogisticRegression or LinearSVC: C (inverse strength of the penalty, "
        "1.0), tol and max_iter",
    )

    @field_validator("solver_options")
    @classmethod
    def _check_solver_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        solver = info.data.get("solver")  # absent when its own value is invalid
        return check_solver_options(options, solver) if solver else options


class FineTuningSettings(PhaseSettings):
    """Phase 2: the upper trunk is trained at a very low learning rate, with BatchNorm in inference mode."""

    epochs: int = Field(10, ge=0, description=_EPOCHS)
    learning_rate: float = Field(
        1e-5, gt=0, description="learning rate of the optimizer; a higher one may destroy the pretrained features"
    )
    patience: int | None = Field(3, ge=0, description=_PATIENCE)
    unfreeze_from: int | str = Field(
        "auto",
        description="layers of the trunk to train: auto for the backbone's last stage, a layer's name for all from "
        "that layer, all, none, or an index as in a Python slice: -30 for the last 30, 149 for all from index 149 (the "
        "InputLayer is 0)",
    )
    batch_norm: Literal["inference", "training"] = Field(
        "inference",
        description="BatchNormalization among these layers: inference keeps its statistics, scale and offset; training "
        "trains it and takes the statistics of each batch, as a training from scratch does",
    )


class AugmentationSettings(Settings):
    """Random changes to the training images; `augmentation: off` for none. A key that is 0 or none changes nothing."""

    flip: Literal["none", "horizontal", "vertical", "both"] = Field(
        "none", description="mirrors half of the images: none, horizontal, vertical or both"
    )
    rotation: _UpToHalf = Field(
        0.0, description="rotates by up to this fraction of a full turn, in either direction: 0.1 is 36 degrees"
    )
    zoom: float = Field(0.0, ge=0, lt=1, description="zooms in or out by up to this fraction")
    translation: _UpToHalf = Field(0.0, description="shifts by up to this fraction of the side, along each axis")
    crop: float = Field(
        0.0, ge=0, le=1, description="enlarges by this fraction and cuts out a random window of the original size"
    )
    contrast: float = Field(0.0, ge=0, lt=1, description="raises or lowers the contrast by up to this fraction")
    brightness: _Fraction = Field(0.0, description="makes lighter or darker by up to this fraction of the full range")
    views: _Count = Field(
        4,
        description="number of augmented views of each image in the boundary cache; epoch e trains on view e modulo "
        "views. 0 makes new views for each epoch and runs the whole trunk each time (no cache)",
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_off(cls, value: Any) -> Any:
        if isinstance(value, dict | cls):
            return value
        if value != "off":
            raise ValueError("'off' or a section of keys")
        return {}

    @property
    def enabled(self) -> bool:
        """Whether any image is changed."""
        amounts = (self.rotation, self.zoom, self.translation, self.crop, self.contrast, self.brightness)
        return self.flip != "none" or any(amounts)


def _require_import_path(path: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", path):
        raise ValueError("an import path such as package.module:factory")
    return path


class TensorBoardSettings(Settings):
    """What TensorBoard's logs hold, in addition to the loss and the accuracy of each epoch."""

    histogram_freq: _Count = Field(
        0, description="epochs between two histograms of the weights of the part that a phase trains; 0 for none"
    )
    write_graph: bool = Field(False, description="the graph of the part of the model that a phase trains")
    write_images: bool = Field(False, description="with histogram_freq: the weights as images")


class TrainingSettings(Settings):
    """Settings that both phases share."""

    batch_size: int = Field(32, ge=1, description="images in a training step")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="training steps that make an epoch; null: until each image was there once"
    )
    validation_steps: int | None = Field(
        None, ge=1, description="batches of the eval split that judge an epoch; null: all of its images"
    )
    label_smoothing: _Fraction = Field(
        0.0,
        description="share of each image's label that is spread over all classes, which makes the model less "
        "confident; 0.1 is usual",
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: images of rare classes weigh more, so that all classes weigh the same; or none"
    )
    warm_start: bool = Field(
        False,
        description="start from the weights of the last blessed model, for nightly runs; a new class starts at zero",
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32",
        description="precision of the trunk's computations: float32, mixed_bfloat16 (for GPUs, and CPUs with bfloat16) "
        "or mixed_float16 (for GPUs); the weights stay float32",
    )
    transfer_images_per_class: _Count | Literal["all"] = Field(
        0,
        description="measures what transfer is worth: trains twice more on up to this many images of each class, from "
        "the backbone's weights and from a random trunk, and reports both accuracies; 0 for no measurement. all: on "
        "all images, and the random trunk trains from scratch: every layer, with BatchNormalization in training mode",
    )
    callbacks: list[Annotated[str, AfterValidator(_require_import_path)]] = Field(
        [],
        description="import paths package.module:factory of your own callbacks; each phase calls the factory, without "
        "arguments, for a new keras.callbacks.Callback",
    )
    tensorboard: TensorBoardSettings = TensorBoardSettings()


class BoundaryCacheSettings(Settings):
    """The cache of the frozen part's activations, which the workspace keeps from run to run."""

    enabled: bool = Field(
        True,
        description="keeps the activations under the lowest trainable layer; false runs the whole trunk each epoch",
    )
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="float16 needs half the disk space and rounds the activations to three digits"
    )
    memory_mb: int = Field(256, ge=0, description="activations of a split up to this size stay in memory")
    disk_gb: float = Field(
        20.0, gt=0, description="above this size the least recently used activations of past runs are removed"
    )


class TrainerSettings(Settings):
    """The Trainer's `custom_config`: everything that decides its output, and so its whole cache key."""

    backbone: BackboneSettings
    head: HeadSettings
    training: TrainingSettings
    feature_extraction: FeatureExtractionSettings
    fine_tuning: FineTuningSettings
    augmentation: AugmentationSettings = AugmentationSettings()
    boundary_cache: BoundaryCacheSettings = BoundaryCacheSettings()
    resize: backbones.Resize = Field("stretch", description="how the Transform makes images square")
    materialize: bool = Field(False, description="whether the Transform has stored resized images")
    seed: int
    state: str = Field("", description="folder or URI of the workspace, for checkpoints and activations")
    preprocessing: str = Field("", description="how pixels are made from an image's bytes, with a hash of the sources")
    code: str = Field("", description="hash of the trainer's sources, which TFX's cache key does not see")
    served: str = Field(
        "", description="folder or URI of the served versions, which lists models that were rolled back from"
    )
    callbacks_sha256: str = Field("", description="digest of the sources of the user's callbacks")
    weights_sha256: str = Field(
        "", description="digest of the weights file, because another file may have the same name"
    )
