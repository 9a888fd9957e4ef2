"""What a file's header says, read before any decoder sees the data: its size, its orientation, and whether to trust it.

A file is *trusted* when the op of the serving graph shows it as a viewer does and needs no more time and memory for it
than its size in pixels leads one to expect. What is not trusted is transcoded in a process of its own (`isolated`).
"""

import io
import struct
from dataclasses import dataclass

from PIL import Image

ORIENTATION_TAG = 0x0112
CUT_OFF = "cut off"  # the distrust of a file that ends too early
# Pillow's plugins raise all of these on bad headers.
ERRORS = (OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError, struct.error, OverflowError)
# A photo has at most a dozen scans, and each is a pass over all pixels: a few kilobytes can ask for thousands.
_MAX_SCANS = 64
_MAX_JPEG_START = 4 << 20  # bytes; Pillow takes a second for a million empty segments
_SCAN = b"\xff\xda"  # the marker before each; in coded data 0xFF is followed by 0
_MAX_PACKED_TEXT = 64 << 10  # bytes in all; deflate makes at most a thousand times as much of them
_MAX_DEFLATE_RATIO = 1032  # of zlib, https://zlib.net/zlib_tech.html
_MAX_FRAME_PIXELS = 25_000_000  # of all frames of a GIF: TensorFlow unpacks them all to give the first
_MAX_NOTES = 100_000  # blocks of a GIF's extensions, which TensorFlow keeps at 50 bytes and more each
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@dataclass(frozen=True)
class Header:
    """`width` and `height` are upright, in pixels; 0 where only the decoder's own library can tell."""

    format: str  # as `formats.sniff` names it
    width: int = 0
    height: int = 0
    orientation: int = 1  # EXIF's, 1..8
    components: int = 3  # of a JPEG: 1 grey, 3 colour, 4 CMYK
    distrust: str = ""  # why it is not trusted, "" when it is

    @property
    def pixels(self) -> int:
        """How many an image of this size has."""
        return self.width * self.height


def read(data: bytes, image_format: str) -> Header:
    """The header of a file that begins like an `image_format`. Costs microseconds, whatever the size in pixels.

    Raises:
        ERRORS: the header is damaged.
        Image.DecompressionBombError: a JPEG of more than 179 megapixels.
    """
    reader = {"jpeg": _jpeg, "png": _png, "gif": _gif, "bmp": _bmp}.get(image_format)
    return reader(data) if reader else Header(image_format, distrust=f"{image_format} is not what serving decodes")


def _jpeg(data: bytes) -> Header:
    try:
        return _jpeg_with_start(data, data[:_MAX_JPEG_START])
    except ERRORS:
        if len(data) <= _MAX_JPEG_START:
            raise
        return Header("jpeg", distrust=f"no image in its first {_MAX_JPEG_START >> 20} MiB")


def _jpeg_with_start(data: bytes, start: bytes) -> Header:
    with Image.open(io.BytesIO(start), formats=["JPEG"]) as image:
        exif = image.info.get("exif")
        orientation = _orientation(exif) if exif else 1
        components = len(image.getbands())
        # libjpeg reads one scan where that holds all components, and looks for more in all other cases. The plugin has
        # read to the end of the first scan's header, which is so long when all are in it.
        at = image.fp.tell() - (8 + 2 * components) if image.fp else 0
        single = data[at : at + 2] == _SCAN and "progressive" not in image.info
        scans = 1 if single else data.count(_SCAN)  # and those of thumbnails
        return Header(
            "jpeg",
            *_upright(*image.size, orientation),
            orientation,
            components,
            f"{scans} scans" if scans > _MAX_SCANS else "",
        )


def _png(data: bytes) -> Header:
    """See https://www.w3.org/TR/png-3/#5DataRep; TensorFlow reads the chunks after the image, too."""
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    packed = image_bytes = 0
    orientation, distrust = 1, ""
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            image_bytes += size
        elif kind in (b"zTXt", b"iCCP") or (kind == b"iTXt" and _is_packed(data, at + 8, size)):
            packed += size
            if data.startswith(b"Raw profile type exif", at + 8):  # how ImageMagick kept EXIF before there was eXIf
                distrust = "EXIF in a text chunk"
        elif kind == b"eXIf":
            orientation = _orientation(b"Exif\0\0" + data[at + 8 : at + 8 + size])
        elif kind == b"IEND":
            break
        at += 12 + size
    if packed > _MAX_PACKED_TEXT:
        distrust = f"{packed >> 10} KiB of packed text"
    if width * height * _PNG_CHANNELS[colour] * depth // 8 > _MAX_DEFLATE_RATIO * (image_bytes + 64):
        distrust = "fewer bytes than its size takes"
    return Header("png", *_upright(width, height, orientation), orientation, distrust=distrust)


def _is_packed(data: bytes, at: int, size: int) -> bool:
    """Whether an iTXt chunk is compressed: the byte after its keyword."""
    end = data.find(b"\0", at, at + min(size, 80))
    return end >= 0 and data[end + 1 : end + 2] == b"\1"


def _gif(data: bytes) -> Header:
    """See https://www.w3.org/Graphics/GIF/spec-gif89a.txt.

    TensorFlow shows the first frame alone, which is less than the screen where it is smaller; it needs a palette; and
    it decodes all frames and keeps all notes. So a GIF is trusted when its first frame fills the screen and there is
    not too much of either.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _palette_bytes(flags)
    frames = pixels = notes = 0
    distrust = ""
    try:
        while data[at] != 0x3B and notes <= _MAX_NOTES:
            if data[at] == 0x21:
                at, blocks = _after_blocks(data, at + 2)
                notes += blocks + 1
                continue
            if data[at] != 0x2C:
                raise IndexError(f"no block begins with {data[at]:#04x}")
            *place, frame_flags = struct.unpack_from("<4HB", data, at + 1)
            frames += 1
            pixels += place[2] * place[3]
            if frames == 1 and place != [0, 0, width, height]:
                distrust = "its first frame does not fill the screen"
            if not (flags | frame_flags) & 0x80:
                distrust = "no palette"
            at, _ = _after_blocks(data, at + 11 + _palette_bytes(frame_flags))
    except (IndexError, struct.error):
        distrust = distrust or CUT_OFF  # perhaps in a later frame: a viewer shows the first
    if pixels > _MAX_FRAME_PIXELS:
        distrust = f"{frames} frames of {pixels // 10**6} megapixels in all"
    elif notes > _MAX_NOTES:
        distrust = f"more than {_MAX_NOTES} blocks of notes"
    elif not frames:
        distrust = distrust or "no frame"
    return Header("gif", width, height, distrust=distrust)


def _palette_bytes(flags: int) -> int:
    return 3 * (2 << (flags & 7)) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> tuple[int, int]:
    """Where a chain of blocks ends, and how many they are."""
    count = 0
    while size := data[at]:
        at += 1 + size
        count += 1
    return at + 1, count


def _bmp(data: bytes) -> Header:
    """TensorFlow takes palette indices for grey, ignores bit masks and refuses run-length encoding."""
    header_bytes, width, height, _, depth, compression = struct.unpack_from("<IiiHHI", data, 14)
    if header_bytes < 40:  # of OS/2, with other fields
        return Header("bmp", distrust="an old header")
    plain = depth == 24 and compression == 0
    return Header("bmp", abs(width), abs(height), distrust="" if plain else f"{depth} bits, compression {compression}")


def _orientation(exif: bytes) -> int:
    try:
        # Not Image.getexif(): that goes on to read XMP, which neither browsers nor the graph that serves do.
        block = Image.Exif()
        block.load(exif)
        value = int(block.get(ORIENTATION_TAG, 1))
    except ERRORS:  # damaged EXIF does not spoil the image
        return 1
    return value if 1 <= value <= 8 else 1


def _upright(width: int, height: int, orientation: int) -> tuple[int, int]:
    return (height, width) if orientation >= 5 else (width, height)
