"""The settings that, with the seed, decide the shipped weights."""

from pydantic import Field

from graftline.settings import Settings


class Recipe(Settings):
    """How many programs and images there are, and how the trunk learns from them."""

    programs: int = Field(5000, ge=2, description="number of classes")
    each: int = Field(24, ge=1, description="images of each class; each is used often, with new crops and colours")
    images: int = Field(2_900_000, ge=1, description="images to train on in total; at least 100 steps")
    # Sides of the trunk's input in pixels, and the share of the images that is trained at each.
    sizes: tuple[tuple[int, float], ...] = ((64, 0.8), (96, 0.2))
    batch: int = Field(128, ge=2, multiple_of=2, description="images in a step")
    rate: float = Field(3e-3, gt=0, description="AdamW's learning rate after the warm-up; falls to 0 along a cosine")
    decay: float = Field(0.02, ge=0, description="weight decay, except for biases and BatchNormalization")
    # With this layer the features need not forget what differs between a program's images (Wang et al.,
    # https://arxiv.org/abs/2112.00496).
    projection: int = Field(256, ge=0, description="width of a layer between features and programs' logits; 0: none")
    attributes: float = Field(0.6, ge=0, description="weight of each attribute's loss; the program's loss has 1")
    smallest_crop: float = Field(0.2, gt=0, le=1, description="smallest crop, as a fraction of the image's area")
    gray: float = Field(0.15, ge=0, le=1, description="fraction of the images without colour")
    jitter: float = Field(0.4, ge=0, lt=1, description="change of brightness, contrast and saturation, up or down")
