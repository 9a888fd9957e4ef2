"""Makes a JPEG or PNG for the serving graph out of a file that it can't decode, or shows otherwise. Pillow only.

What is made shows what `ImageOps.exif_transpose(image).convert("RGB")` shows: the first frame or page, upright, without
alpha and without the colour profile, which the serving graph ignores in every format. The same bytes each time.
"""

import io
from dataclasses import dataclass

from PIL import AvifImagePlugin, Image, ImageOps

from graftline.serving.images import formats, headers

_JPEG_QUALITY = 95
# Up to here a PNG takes little more than a JPEG, and scans and drawings keep every pixel.
_SMALL = 256 * 256  # pixels
_LOSSLESS = ("png", "gif", "bmp")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_NO_HEIF = "HEIC needs pillow-heif: install graftline[heif]"

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a thread's stack and arena count as memory, and files come several at a time


@dataclass(frozen=True)
class Refused:
    """Why nothing was made. The reason is fit for a user."""

    reason: str


def transcode(data: bytes, image_format: str, max_side: int | None, keep: bool = False) -> bytes | Refused:
    """A JPEG or PNG of an image, its longer side at most `max_side`.

    Lossless sources become PNG when they are small or have a palette (a photo as PNG takes five times a JPEG's
    bytes); all others JPEG of quality 95, whose error is below what a lossy source has already.

    Args:
      data: the file.
      image_format: as `formats.sniff` names it; no other decoder is tried.
      max_side: pixels; None keeps the size.
      keep: b"" is returned for an image that is good, upright and small enough as it is.

    Raises:
        headers.ERRORS, MemoryError, Image.DecompressionBombError: the file is damaged, or too much to decode.
    """
    plugin = _plugin(image_format)
    if isinstance(plugin, Refused):
        return plugin
    with Image.open(io.BytesIO(data), formats=[plugin]) as image:
        if image.width * image.height > formats.MAX_PIXELS:
            return Refused(f"too many pixels: {image.width} x {image.height}")
        shrink = max_side is not None and max(image.size) > max_side
        if max_side and shrink:
            # A JPEG is decoded at 1/2, 1/4 or 1/8, but no smaller than this.
            image.draft(None, (2 * max_side, 2 * max_side))
        image.load()
        if keep and not shrink:
            return b""
        lossless = _is_lossless(image, image_format, data)
        palette = image.mode in ("1", "P", "PA")
        upright = _upright(image)
    if isinstance(upright, Refused):
        return upright
    if max_side and shrink:
        upright.thumbnail((max_side, max_side))
    small = upright.width * upright.height <= _SMALL
    made = io.BytesIO()
    if lossless and (small or (palette and not shrink)):
        upright.save(made, "PNG")
    else:
        # Drawings and screenshots have edges in their colour, which photos do not.
        upright.save(made, "JPEG", quality=_JPEG_QUALITY, subsampling=0 if lossless else 2)
    return made.getvalue()


def _plugin(image_format: str) -> str | Refused:
    if image_format != "heic":
        return image_format.upper()
    try:
        import pillow_heif
    except ImportError:
        return Refused(_NO_HEIF)
    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.register_heif_opener()
    return "HEIF"


def _is_lossless(image: Image.Image, image_format: str, data: bytes) -> bool:
    if image_format == "tiff":
        return image.info.get("compression") not in _LOSSY_TIFF
    return image_format in _LOSSLESS or (image_format == "webp" and b"VP8L" in data)


def _upright(image: Image.Image) -> Image.Image | Refused:
    """A new image of mode L or RGB, with nothing in its `info` that would be saved with it."""
    for key in ("xmp", "XML:com.adobe.xmp"):  # its orientation counts for neither browsers nor the serving graph
        image.info.pop(key, None)
    try:
        orientation = image.getexif().get(headers.ORIENTATION_TAG, 1)
    except headers.ERRORS:  # damaged EXIF does not spoil the image
        orientation = 1
    if image.mode.startswith("I;16"):
        image = _narrowed(image)
    elif image.mode in ("I", "F"):
        return Refused("samples of 32 bits have no agreed look: convert to 8 bits")
    plain = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    plain.info = {"exif": _exif(int(orientation) if orientation in range(1, 9) else 1)}
    ImageOps.exif_transpose(plain, in_place=True)
    plain.info = {}
    return plain


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[headers.ORIENTATION_TAG] = orientation
    return exif.tobytes()


def _narrowed(image: Image.Image) -> Image.Image:
    """Grey of up to 16 bits in 8: the high byte, as the serving graph takes it. Pillow's own conversion clips."""
    tags = getattr(image, "tag_v2", {})  # a TIFF's
    bits = tags.get(258, (16,))[0]
    # By way of 32 bits, as Pillow computes with only one of the orders that 16 may come in.
    narrowed = image.convert("I").point(lambda value: value * (1 / (1 << (bits - 8)))).convert("L")
    return ImageOps.invert(narrowed) if tags.get(262) == 0 else narrowed  # where 0 is white, which Pillow overlooks
