"""What a user can set about the images and the data validation: the config's section `data`. Imports no TFX.

`pipeline.config` puts it into the one typed config; the DAG hands `IngestSettings` to ImageExampleGen as JSON.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from graftline.trainer.backbones import Resize

Action = Literal["warn", "stop"]


class IngestSettings(BaseModel):
    """What decides which images are stored, as what, and in which split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    manifest: str | None = Field(
        None,
        description="CSV file with the columns path and label, and optionally split and group, in place of folders "
        "that name the classes; its paths are relative to `images`",
    )
    spans: int | None = Field(
        None, ge=1, description="of the folders span-1, span-2, ... the latest so many are read; null reads all"
    )
    eval_fraction: float = Field(0.2, gt=0, lt=1, description="share of the images held back to judge the model by")
    split_seed: int = Field(0, description="salts the hash of an image's content that decides its split")
    near_duplicates: int | None = Field(
        4,
        ge=0,
        le=8,
        description="images whose perceptual hashes differ in at most so many of 64 bits go to one split; null: exact "
        "copies alone",
    )
    max_side: int | None = Field(
        None, ge=32, description="images with a longer side are stored shrunk to it, in pixels; null stores files as is"
    )
    max_bad_fraction: float = Field(
        0.05, ge=0, le=1, description="the run stops when a greater share of the files cannot be decoded"
    )
    strict: bool = Field(False, description="the run stops when a single file cannot be decoded")


class ValidationSettings(BaseModel):
    """What data validation does about each finding: warn, or stop the run before anything is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    new_label: Action = Field(
        "warn",
        description="a class that data.schema_file lacks; without such a file one that the last run of other images "
        "lacked, and then it never stops",
    )
    missing_class: Action = Field("warn", description="a class that they have and this run's images lack")
    drift: Action = Field(
        "warn", description="labels, formats, sizes or quality that differ from the last run of other images"
    )
    skew: Action = Field("warn", description="the same between the train and the eval split, by skew_threshold")
    schema_violation: Action = Field("warn", description="anything else that data.schema_file does not allow")
    drift_threshold: float = Field(
        0.2, gt=0, le=1, description="Jensen-Shannon divergence of two distributions, 0 (alike) to 1 (disjoint)"
    )
    skew_threshold: float = Field(0.2, gt=0, le=1, description="the same for train and eval")


class DataSettings(IngestSettings):
    """How the images are read, split, stored and validated."""

    resize: Resize = Field(
        "stretch",
        description="how an image becomes square: stretched, its middle cropped, or padded with black; antialiased",
    )
    materialize: bool = Field(
        False,
        description="whether the Transform writes resized images (uint8), so that training decodes none; costs disk",
    )
    schema_file: str | None = Field(
        None, description="a curated TFDV schema (schema.pbtxt); null infers one from the images of the run"
    )
    validation: ValidationSettings = ValidationSettings()

    @property
    def ingest(self) -> IngestSettings:
        """The part that ImageExampleGen reads."""
        return IngestSettings(**self.model_dump(include=set(IngestSettings.model_fields)))
