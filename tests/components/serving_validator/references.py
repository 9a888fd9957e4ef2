"""What the Trainer would have predicted for drawn images, with the colour model of the server's tests."""

import io

import numpy as np
from PIL import Image

from graftline.references import Reference
from tests.images import image_of

_SHARPNESS = 5.0  # of `save_colour_model`


def probabilities(image: bytes) -> np.ndarray:
    """Return the colour model's probabilities, computed in another way than by its graph."""
    means = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), np.float64).mean(axis=(0, 1)) / 255
    powers = np.exp(_SHARPNESS * means[::-1])
    return np.float32(powers / powers.sum())


def draw_references(count: int = 4) -> list[Reference]:
    colours = ("red", "green", "blue")
    images = [image_of(colours[number % 3], 16 + number, "PNG") for number in range(count)]
    return [Reference(f"{n}.png", image, probabilities(image)) for n, image in enumerate(images)]
