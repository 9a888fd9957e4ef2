"""What decides the shipped weights, with the seed."""

from pydantic import Field

from graftline.settings import Settings


class Recipe(Settings):
    """How many programs and images, and how they are learned."""

    programs: int = Field(5000, ge=2, description="classes")
    each: int = Field(24, ge=1, description="images drawn of each; each is seen many times, cropped and coloured anew")
    images: int = Field(2_900_000, ge=1, description="images seen in all; at least 100 steps")
    # Of the trunk's input in pixels, each with the part of the images that is seen at it.
    sizes: tuple[tuple[int, float], ...] = ((64, 0.8), (96, 0.2))
    batch: int = Field(128, ge=2, multiple_of=2, description="images in a step")
    rate: float = Field(3e-3, gt=0, description="AdamW's learning rate after a warm-up; it falls to 0 along a cosine")
    decay: float = Field(0.02, ge=0, description="of the weights, not of biases and BatchNormalization")
    # With it the features need not forget what the images of a program have not in common (Wang et al.,
    # https://arxiv.org/abs/2112.00496).
    projection: int = Field(
        256, ge=0, description="width of the layer between the features and the programs' numbers; 0 for none"
    )
    attributes: float = Field(0.6, ge=0, description="weight of each attribute's loss, beside 1 of the program's")
    smallest_crop: float = Field(0.2, gt=0, le=1, description="least part of an image's area that is cropped out")
    gray: float = Field(0.15, ge=0, le=1, description="part of the images without colour")
    jitter: float = Field(0.4, ge=0, lt=1, description="of brightness, contrast and saturation, each way")
