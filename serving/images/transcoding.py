"""Convert a file that the serving graph cannot decode, or shows otherwise than a viewer, to JPEG or PNG. Pillow only.

The result shows what a browser shows on a white page: the first frame or page, upright, with transparent pixels laid on
white, but without the colour profile, which the serving graph ignores in every format. A file always gives the same
bytes.
"""

import io
import math

from PIL import AvifImagePlugin, Image, ImageOps

from graftline.serving.images import formats, headers
from graftline.serving.images.trust import Refused

_JPEG_QUALITY = 95
# Up to this size a PNG takes little more than a JPEG, and scans and drawings keep every pixel.
_SMALL = 256 * 256  # pixels
_LOSSLESS = ("png", "gif", "bmp")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_NO_HEIF = "HEIC needs pillow-heif: install graftline[heif]"

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the stack and arena of each thread count as memory


def must_shrink(width: int, height: int, max_side: int | None) -> bool:
    """Return whether an image of this size, in pixels, is stored smaller: see `transcode`."""
    limit = _longest_side(width, height, max_side)
    return limit is not None and max(width, height) > limit


def _longest_side(width: int, height: int, max_side: int | None) -> int | None:
    """Return the longest side that an image may have: `max_side`, or less to have `formats.MAX_DECODED_PIXELS`."""
    most, longest, shortest = formats.MAX_DECODED_PIXELS, max(width, height), min(width, height)
    if longest * shortest <= most:
        return max_side
    side = math.isqrt(most * longest // shortest)
    while side * -(-side * shortest // longest) > most:  # the short side is rounded, perhaps up
        side -= 1
    return min(side, max_side or side)


def transcode(data: bytes, image_format: str, max_side: int | None) -> bytes | Refused:
    """Convert an image to JPEG or PNG, with a longer side of at most `max_side` and at most 25 megapixels.

    Lossless sources become PNG when they are small or have a palette; a photo as PNG takes five times the bytes of a
    JPEG. All others become JPEG of quality 95, whose error is below that of a lossy source.

    Args:
      data: the file's bytes.
      image_format: as `formats.sniff` names it; no other decoder is tried.
      max_side: pixels; None keeps the size, up to `formats.MAX_DECODED_PIXELS`.

    Raises:
      headers.ERRORS, MemoryError, Image.DecompressionBombError: the file is damaged, or too large to decode.
    """
    plugin = _plugin(image_format)
    if isinstance(plugin, Refused):
        return plugin
    with Image.open(io.BytesIO(data), formats=[plugin]) as image:
        if image.width * image.height > formats.MAX_PIXELS:
            return Refused(f"too many pixels: {image.width} x {image.height}")
        max_side = _longest_side(*image.size, max_side)
        shrink = max_side is not None and max(image.size) > max_side
        if max_side and shrink:
            # A JPEG is decoded at 1/2, 1/4 or 1/8, but no smaller than this.
            image.draft(None, (2 * max_side, 2 * max_side))
        image.load()
        lossless = _is_lossless(image, image_format, data)
        palette = image.mode in ("1", "P", "PA")
        upright = _to_upright(image)
    if isinstance(upright, Refused):
        return upright
    if max_side and shrink:
        upright.thumbnail((max_side, max_side))
    small = upright.width * upright.height <= _SMALL
    converted = io.BytesIO()
    if lossless and (small or (palette and not shrink)):
        upright.save(converted, "PNG")
    else:
        # No subsampling for lossless sources: drawings and screenshots have sharp edges between colours.
        upright.save(converted, "JPEG", quality=_JPEG_QUALITY, subsampling=0 if lossless else 2)
    return converted.getvalue()


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


def _to_upright(image: Image.Image) -> Image.Image | Refused:
    """Return a new upright image of mode L or RGB. Its `info` is empty, so that nothing of it is saved."""
    for key in ("xmp", "XML:com.adobe.xmp"):  # neither browsers nor the serving graph heed XMP's orientation
        image.info.pop(key, None)
    try:
        orientation = image.getexif().get(headers.ORIENTATION_TAG, 1)
    except headers.ERRORS:  # damaged EXIF does not spoil the image
        orientation = 1
    if image.mode.startswith("I;16"):
        image.info.pop("transparency", None)  # one grey of 16 bits, which Pillow cannot look for
        image = _to_8_bits(image)
    elif image.mode in ("I", "F"):
        return Refused("samples of 32 bits have no defined brightness: convert to 8 bits")
    plain = _lay_on_white(image)
    exif = Image.Exif()
    exif[headers.ORIENTATION_TAG] = int(orientation) if orientation in range(1, 9) else 1
    plain.info = {"exif": exif.tobytes()}
    ImageOps.exif_transpose(plain, in_place=True)
    plain.info = {}
    return plain


def _lay_on_white(image: Image.Image) -> Image.Image:
    """Return an image of mode L or RGB, with transparent pixels laid on white, as `transform.pixels` lays them.

    Both round to the nearest level.
    """
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not image.has_transparency_data:
        return image.convert(mode)
    with_alpha = image.convert("LA" if image.mode in ("LA", "La") else "RGBA")
    ground = Image.new(mode, image.size, "white")
    ground.paste(with_alpha.convert(mode), mask=with_alpha.getchannel("A"))
    return ground


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert grey of up to 16 bits to the high 8, as the serving graph does. Pillow's own conversion clips."""
    tags = getattr(image, "tag_v2", {})  # a TIFF's
    bits = tags.get(258, (16,))[0]
    # By way of 32 bits: Pillow's arithmetic takes only one of the two byte orders of 16 bits.
    grey = image.convert("I").point(lambda value: value * (1 / (1 << (bits - 8)))).convert("L")
    return ImageOps.invert(grey) if tags.get(262) == 0 else grey  # 0 is white, which Pillow overlooks for 16 bits
