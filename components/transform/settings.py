"""What a user can set about the Transform: keys of the config's section `data`. Imports no TFX."""

from pydantic import Field

from graftline.settings import Settings
from graftline.trainer.backbones import Resize


class TransformSettings(Settings):
    """How an image becomes the model's input."""

    resize: Resize = Field(
        "stretch",
        description="how an image becomes square: stretched, its middle cropped, or padded with black; antialiased",
    )
    materialize: bool = Field(
        False,
        description="whether the Transform writes resized images (uint8), so that training decodes none; costs disk",
    )
