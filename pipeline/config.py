"""The schema of the one typed config; the section of a node is in the folder of the node.

`pipeline.config_file` loads and prints it, the runners read it. Relative paths in the config (`images`, `workspace`,
`backbone.weights`) are relative to the current directory. Imports no TFX and no TensorFlow.
"""

from typing import Any, Literal

from pydantic import Field, field_validator

from graftline.components.data_validation import ValidationSettings
from graftline.components.evaluator import AccuracyThreshold, GateSettings
from graftline.components.image_example_gen import IngestSettings
from graftline.components.pusher import PushSettings
from graftline.components.serving_validator import ServingValidationSettings
from graftline.components.transform import TransformSettings
from graftline.pipeline import names
from graftline.settings import Settings
from graftline.trainer import (
    AugmentationSettings,
    BackboneSettings,
    BoundaryCacheSettings,
    FeatureExtractionSettings,
    FineTuningSettings,
    HeadSettings,
    TrainerSettings,
    TrainingSettings,
)

WORKSPACE = "./graftline-workspace"


class ModelSettings(Settings):
    """The served model."""

    name: str | None = Field(
        None,
        description="the name that clients ask for; null: the name of the images' folder, and a hash after it where a "
        "model's name cannot hold its characters",
    )

    @field_validator("name")
    @classmethod
    def _legal(cls, name: str | None) -> str | None:
        if name is not None and not names.LEGAL.fullmatch(name):
            raise ValueError("letters, digits, '.', '_' and '-', beginning with a letter or digit")
        if name is not None and name.casefold() in names.RESERVED:
            raise ValueError(f"another name than {name}, which is a file next to the models")
        return name


# An absl flag that TFX's Beam executors read from the pipeline's options: batches of 20 MiB instead of 1,000 images.
BYTE_BATCHES = "--tfxio_use_byte_size_batching"


class BeamSettings(Settings):
    """Where the Beam stages (ingest, statistics, Transform, evaluation) run."""

    runner: Literal["direct", "flink", "spark", "dataflow"] = Field(
        "direct", description="Beam's runner: direct (this machine), flink, spark or dataflow"
    )
    options: list[str] = Field([], description="flags of Beam, for example [--direct_num_workers=2]")


class DataSettings(IngestSettings, TransformSettings):
    """How the images are read, split, stored and validated."""

    schema_file: str | None = Field(
        None, description="a curated TFDV schema (schema.pbtxt); null: inferred from the images of each run"
    )
    validation: ValidationSettings = ValidationSettings()

    @property
    def ingest(self) -> IngestSettings:
        """The settings of ImageExampleGen."""
        return IngestSettings(**self.model_dump(include=set(IngestSettings.model_fields)))


class HousekeepingSettings(Settings):
    """What is removed after a run, so that nightly runs do not fill the disk."""

    keep_runs: int | None = Field(
        10,
        ge=1,
        description="keep the artifacts of this many latest runs and all that a kept model version was made from; null "
        "removes nothing",
    )


class ClusterSettings(Settings):
    """What `graftline compile` needs to know about the cluster."""

    image: str | None = Field(None, description="container image with Graftline in it; null: graftline:<version>")


def default_gate() -> GateSettings:
    """Return the gate of a config that sets no threshold."""
    return GateSettings(accuracy=AccuracyThreshold(min="majority", min_change=0.0))


class Config(Settings):
    """Everything that decides what a run does."""

    images: str | list[str] | None = Field(
        None,
        description="folder of images with one folder for each class, a list of such folders, or a URI such as gs://bucket/dir",
    )
    workspace: str = Field(
        WORKSPACE, description="folder for everything that runs keep: metadata, artifacts, models, logs"
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="seed of the new weights and of the order of the images in training"
    )
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    backbone: BackboneSettings = BackboneSettings()
    head: HeadSettings = HeadSettings()
    training: TrainingSettings = TrainingSettings()
    feature_extraction: FeatureExtractionSettings = FeatureExtractionSettings()
    fine_tuning: FineTuningSettings = FineTuningSettings()
    gate: GateSettings = Field(default_factory=default_gate)
    serving_validation: ServingValidationSettings = ServingValidationSettings()
    push: PushSettings = PushSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    boundary_cache: BoundaryCacheSettings = BoundaryCacheSettings()
    beam: BeamSettings = BeamSettings()
    housekeeping: HousekeepingSettings = HousekeepingSettings()
    cluster: ClusterSettings = ClusterSettings()

    @property
    def model_name(self) -> str:
        """The name that the model is served under: `model.name`, or the name of the images' folder."""
        return self.model.name or names.from_folder(self.image_folders[0] if self.image_folders else None)

    @property
    def image_folders(self) -> tuple[str, ...]:
        """The folders or URIs of `images`."""
        return (self.images,) if isinstance(self.images, str) else tuple(self.images or ())

    def trainer(self, state: str, base_path: str, **cache_key: str) -> dict[str, Any]:
        """Return the Trainer's `custom_config`.

        `state` holds what outlives a run, `base_path` the served versions, `cache_key` the other fields.
        """
        shared = {name: getattr(self, name) for name in TrainerSettings.model_fields if name in Config.model_fields}
        shared |= {"resize": self.data.resize, "materialize": self.data.materialize, **cache_key}
        served = base_path if self.training.warm_start else ""
        return TrainerSettings(**shared, state=state, served=served).model_dump(mode="json")
