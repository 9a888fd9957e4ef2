"""The settings of the Transform: keys of the config's section `data`. Imports no TFX."""

from pydantic import Field

from graftline.settings import Settings
from graftline.trainer.backbones import Resize


class TransformSettings(Settings):
    """Settings that decide how an image becomes the model's input."""

    resize: Resize = Field(
        "stretch", description="how an image becomes square: stretched, cropped to its middle, or padded with black"
    )
    materialize: bool = Field(
        False,
        description="whether the Transform writes resized images (uint8): training then decodes no image; costs disk",
    )
