"""Squares of images by Pillow and NumPy, for the tests of the Transform."""

import math
from fractions import Fraction

import numpy as np
from PIL import Image

from graftline.components.transform import pixels


def make_square(image: np.ndarray, size: int, resize: pixels.Resize) -> np.ndarray:
    """Resize as each mode requires, in Pillow and NumPy: uint8 [h, w, 3] to float32 [size, size, 3]."""
    height, width = image.shape[:2]
    if resize == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    # Rounded by fractions: size * side / longest may lie on a half, where floats would say one or the other.
    exact = [Fraction(side * size, max(height, width)) if resize == "pad" else size for side in (height, width)]
    rows, columns = (max(1, math.floor(side + Fraction(1, 2))) for side in exact)
    # In mode F, for Pillow rounds what it resizes of bytes after each of the two axes.
    channels = [Image.fromarray(image[..., c].astype(np.float32), "F") for c in range(3)]
    resized = [np.asarray(one.resize((columns, rows), Image.Resampling.BILINEAR)) for one in channels]
    above, before = (size - rows) // 2, (size - columns) // 2
    around = ((above, size - rows - above), (before, size - columns - before), (0, 0))
    return np.pad(np.stack(resized, axis=-1), around)
