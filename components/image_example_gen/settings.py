"""What a user can set about reading and splitting images: keys of the config's section `data`. Imports no TFX."""

from pydantic import Field

from graftline.settings import Settings


class IngestSettings(Settings):
    """What decides which images are stored, as what, and in which split."""

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
