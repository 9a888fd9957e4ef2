"""What a user can set about training: the parts of the config that the trainer reads.

`pipeline.config` puts them into the one typed config; `trainer.run_fn` reads them back. Imports no Keras.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trainer import backbones

# Arguments of the builders that would make another model than the one around them expects.
NOT_OPTIONS = ("include_top", "include_preprocessing", "pooling", "weights", "input_shape", "input_tensor", "classes")


class Settings(BaseModel):
    """Base of every part of the config: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneSettings(Settings):
    """The pretrained trunk."""

    name: str = Field("MobileNetV2", description="a classifier of keras.applications, by its name there")
    weights: str = Field(
        "imagenet", description="imagenet (downloaded once by Keras), none (random), or a weights file"
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
    patience: int = Field(
        ge=0, description="stop after so many epochs without a better validation loss, and keep the best weights"
    )
    min_delta: float = Field(0.0, ge=0, description="by how much the validation loss must fall to count as better")


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


class TrainingSettings(Settings):
    """What both phases share."""

    batch_size: int = Field(32, ge=1, description="images in a training step")


class TrainerSettings(Settings):
    """The Trainer's `custom_config`: all that decides what it does, and so the whole of its cache key."""

    backbone: BackboneSettings
    head: HeadSettings
    training: TrainingSettings
    feature_extraction: FeatureExtractionSettings
    fine_tuning: FineTuningSettings
    seed: int
    code: str = Field("", description="hash of the trainer's sources: TFX's cache key does not see them")
    weights_sha256: str = Field("", description="of the weights file: another file under the same name is another run")
