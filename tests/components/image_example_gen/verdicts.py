"""Verdicts on files, and pixels as the serving graph and as a viewer show them, for the tests of decoding."""

import io

import numpy as np
from PIL import Image, ImageOps

from graftline.components.image_example_gen.decoding import Decoded, Quarantined, decode, to_store
from graftline.components.storage import files
from graftline.components.transform import pixels


def reason(data: bytes) -> str:
    verdict = decode(data)
    assert isinstance(verdict, Quarantined), verdict
    return verdict.reason


def good(data: bytes, max_side: int | None = None) -> Decoded:
    verdict = decode(data, max_side)
    assert isinstance(verdict, Decoded), verdict
    return verdict


def stored(data: bytes, max_side: int | None = None) -> bytes:
    """What the record gets, which is always the same and what the verdict says."""
    verdict = good(data, max_side)
    made = to_store(data, verdict, max_side)
    assert isinstance(made, bytes) and made == to_store(data, verdict, max_side)
    assert (made != data) == verdict.transcoded
    assert served(made).shape == (verdict.height, verdict.width, 3)
    assert files.sniff(made[: files.HEAD_BYTES]) == verdict.format
    return made


def served(data: bytes) -> np.ndarray:
    """What the serving graph decodes, int [h, w, 3]."""
    return pixels.decode_upright(data).numpy().astype(int)


def shown(data: bytes) -> np.ndarray:
    """What a viewer shows, int [h, w, 3]: Pillow's first frame on white, upright by EXIF, of 16 bits the high 8."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        bits = image.tag_v2[258][0] if image.format == "TIFF" else 16
        for key in ("xmp", "XML:com.adobe.xmp"):
            image.info.pop(key, None)
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        samples = np.asarray(upright).astype(int)
        grey = np.where(samples == upright.info.get("transparency"), 255, samples >> (bits - 8))
        return np.repeat(grey[..., None], 3, 2)
    if upright.has_transparency_data:
        colour, alpha = np.split(np.asarray(upright.convert("RGBA")).astype(int), [3], axis=-1)
        return np.rint((colour * alpha + 255 * (255 - alpha)) / 255).astype(int)
    return np.asarray(upright.convert("RGB")).astype(int)


def distance(one: int, other: int) -> int:
    """Bits that differ."""
    return (one ^ other).bit_count()
