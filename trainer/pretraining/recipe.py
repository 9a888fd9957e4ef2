"""What decides the shipped weights, with the seed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How many programs and images, and how they are learned.

    Attributes:
      programs: classes.
      each: images drawn of each; each is seen many times, cropped and coloured anew.
      images: how many are seen in all.
      sizes: pixels of the trunk's input, and for which part of the images.
      batch: images in a step.
      rate: AdamW's learning rate, after a warm-up; it falls to 0 along a cosine.
      decay: of the weights (not of biases and BatchNormalization).
      projection: width of the layer between the features and the programs' numbers: with it the features need not
        forget what all images of a program have not in common (Wang et al., https://arxiv.org/abs/2112.00496).
      attributes: weight of each attribute's loss, beside 1 of the program's.
      smallest_crop: least part of an image's area that is cropped out of it.
      gray: part of the images without colour.
      jitter: of brightness, contrast and saturation, each way.
    """

    programs: int = 5000
    each: int = 24
    images: int = 2_900_000
    sizes: tuple[tuple[int, float], ...] = ((64, 0.8), (96, 0.2))
    batch: int = 128
    rate: float = 3e-3
    decay: float = 0.02
    projection: int = 256
    attributes: float = 0.6
    smallest_crop: float = 0.2
    gray: float = 0.15
    jitter: float = 0.4
