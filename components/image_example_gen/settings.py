"""The settings of ImageExampleGen: keys of the config's section `data`. Imports no TFX."""

from pydantic import Field

from graftline.settings import Settings


class IngestSettings(Settings):
    """Settings that decide which images are stored, in which form, and in which split."""

    manifest: str | None = Field(
        None,
        description="CSV file with the columns path and label, and optionally split and group, in place of class "
        "folders; its paths are relative to `images`",
    )
    spans: int | None = Field(
        None, ge=1, description="number of the latest folders span-1, span-2, ... to read; null reads all"
    )
    eval_fraction: float = Field(0.2, gt=0, lt=1, description="share of the images that evaluate the model")
    split_seed: int = Field(0, description="salt of the content's hash, which decides the split")
    near_duplicates: int | None = Field(
        4,
        ge=0,
        le=8,
        description="images whose 64-bit perceptual hashes differ in at most this many bits go to one split; null: "
        "only exact copies",
    )
    max_side: int | None = Field(
        None,
        ge=32,
        description="longest side of a stored image in pixels; larger images are shrunk; null keeps all sizes",
    )
    max_bad_fraction: float = Field(
        0.05, ge=0, le=1, description="the run stops if a larger share of the files cannot be decoded"
    )
    strict: bool = Field(False, description="the run stops if any file cannot be decoded")
