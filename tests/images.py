"""Small drawn images for tests: classes that a random trunk can tell apart, in folders as a user would have them."""

import io
import pathlib

import numpy as np
from PIL import Image

CLASSES = ("blue sky", "green", "rot")
_COLOURS = {"blue sky": (60, 90, 220), "green": (40, 180, 60), "rot": (210, 50, 40)}


def draw(label: str, seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A noisy image in its class' colour, `size` is (width, height)."""
    random = np.random.default_rng([seed, CLASSES.index(label)])
    noise = random.normal(0, 15, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(_COLOURS[label]) + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", orientation: int | None = None) -> bytes:
    """The image as a file's bytes, with an EXIF orientation when asked."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    image.save(buffer, kind, exif=exif.tobytes() if orientation is not None else b"", **options)
    return buffer.getvalue()


def folder(root: pathlib.Path, count: int, classes: tuple[str, ...] = CLASSES) -> pathlib.Path:
    """Writes `count` images a class as `root/<class>/<number>.jpg`."""
    for label in classes:
        (root / label).mkdir(parents=True)
        for number in range(count):
            (root / label / f"{number}.jpg").write_bytes(encoded(draw(label, number)))
    return root
