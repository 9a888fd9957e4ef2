"""Small real images made with Pillow, for the tests of ImageExampleGen."""

import io
import pathlib

import numpy as np
from PIL import Image


def encoded(seed: int = 0, image_format: str = "JPEG", size: tuple[int, int] = (48, 32), **options: object) -> bytes:
    """A noisy coloured image that differs with the seed; `size` is (width, height)."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format, **options)
    return file.getvalue()


def put(root: pathlib.Path, path: str, data: bytes) -> pathlib.Path:
    """Write `data` to `root/path`, making folders."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def folder_of_images(root: pathlib.Path, **counts: int) -> pathlib.Path:
    """`root/<class>/<n>.jpg`, all different."""
    seed = 0
    for label, count in counts.items():
        for i in range(count):
            seed += 1
            put(root, f"{label}/{i}.jpg", encoded(seed))
    return root
