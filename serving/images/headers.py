"""What an image file's header says, read before any decoder sees the file. `trust` decides by it.

A file is trusted when the serving graph shows it as a viewer does, and when its size in pixels bounds the time and
memory of its decoding. Reading a header takes microseconds, and at most 10 ns for each byte of the file: a file with
more parts than honest files have is not read to its end. It needs no Pillow.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from graftline.serving.images import formats

ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE = 258  # a tag of TIFF
_NOT_SERVED = "not a format of served models"
CUT_OFF = "cut off"  # the distrust of a file that ends too early
# Pillow's plugins raise all of these on damaged headers.
ERRORS = (OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError, struct.error, OverflowError)
# Parts are chunks of a PNG, and blocks of a GIF with the pieces of up to 255 bytes in which they come.
_FREE_PARTS = 1_000
_BYTES_OF_PART = 64  # of further parts, on average: encoders write pieces of 255 bytes and chunks of 8 KiB
# Segments and filling bytes of a JPEG before its first scan. The serving graph looks at each of them in turn for EXIF,
# which takes 40 us a segment. A photo has some 20; a colour profile adds at most 255.
_MAX_SEGMENTS = 1_000
_MAX_JPEG_START = 4 << 20  # bytes before the first scan
# A photo has at most a dozen scans, and each is a pass over all pixels. A few kilobytes can ask for thousands.
_MAX_SCANS = 64
_MAX_SCANNED_PIXELS = 300_000_000  # of all scans together
_ARITHMETIC_COST = 4  # a scan of arithmetic coding takes as long as four others
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame; the other three are tables
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_ARITHMETIC = frozenset(range(0xC9, 0xD0))
_APP1, _SOS = 0xE1, 0xDA
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers that no length follows
_MAX_PACKED_TEXT = 64 << 10  # bytes in all; deflate unpacks them to at most a thousand times as much
_MAX_DEFLATE_RATIO = 1032  # of zlib, https://zlib.net/zlib_tech.html
_ALPHA_HEAD_BYTES = 4 * 65536  # in which the serving graph (`transform.pixels`) looks for a PNG's tRNS
_STRETCH_BYTES = 1 << 20
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@dataclass(frozen=True)
class Header:
    """What a file's header says. `width` and `height` are upright, in pixels; 0 where only the decoder can tell."""

    format: str  # as `formats.sniff` names it
    width: int = 0
    height: int = 0
    orientation: int = 1  # EXIF's, 1..8
    components: int = 3  # of a JPEG: 1 grey, 3 colour, 4 CMYK
    has_alpha: bool = False  # of a PNG: it may have transparent pixels
    is_deep: bool = False  # of a PNG or TIFF: it has 16 bits a sample
    distrust: str = ""  # why the file is not trusted; "" when it is
    is_costly: bool = False  # whether its decoding may take longer, or more memory, than its size in pixels tells
    frame_pixels: int = 0  # of a GIF: those of all its frames, which TensorFlow unpacks to return the first
    animation_pixels: int = 0  # of a GIF: those of `tf.io.decode_image` with all frames, each as large as the screen

    @property
    def pixels(self) -> int:
        """The number of pixels of one image of this size."""
        return self.width * self.height

    @property
    def decoded_pixels(self) -> int:
        """The number of pixels that the serving graph's decoder unpacks."""
        return max(self.pixels, self.frame_pixels)


def read(data: bytes, image_format: str) -> Header:
    """Return the header of a file that begins like an `image_format`.

    Raises one of ERRORS for a damaged header.
    """
    reader = {"jpeg": _jpeg, "png": _png, "gif": _gif, "bmp": _bmp, "tiff": _tiff}.get(image_format)
    return reader(data) if reader else Header(image_format, distrust=_NOT_SERVED)


def count(data: bytes, pattern: bytes) -> int:
    """Count a pattern in stretches: one call for 64 MiB would keep other threads waiting for 0.2 s."""
    if len(data) <= _STRETCH_BYTES:
        return data.count(pattern)
    return sum(
        data.count(pattern, at, at + _STRETCH_BYTES + len(pattern) - 1) for at in range(0, len(data), _STRETCH_BYTES)
    )


class _TooManyPartsError(ValueError):
    """A file has more parts than honest files have."""


def _most_parts(data: bytes) -> int:
    return _FREE_PARTS + len(data) // _BYTES_OF_PART


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the marker of each segment and where its content begins, as libjpeg finds them (ITU-T T.81, annex B).

    Raises struct.error, IndexError or ValueError where there is no next segment.
    """
    at = 2
    for _ in range(_MAX_SEGMENTS):
        if data[at] != 0xFF:  # libjpeg passes over bytes between segments
            at = data.index(b"\xff", at)
        marker = data[at + 1]
        if marker >= 0xC0 and marker not in _BARE:
            if marker != 0xFF:
                yield marker, at + 4
                at += (data[at + 2] << 8 | data[at + 3]) + 1
            at += 1
        elif marker in _BARE or not marker:
            at += 2
        else:
            raise ValueError(f"unknown marker {marker:#04x}")
    raise _TooManyPartsError


def _jpeg(data: bytes) -> Header:
    try:
        return _jpeg_with_start(data, data[:_MAX_JPEG_START])
    except _TooManyPartsError:
        return Header("jpeg", distrust=f"no image in its first {_MAX_SEGMENTS} segments", is_costly=True)
    except ERRORS:
        if len(data) <= _MAX_JPEG_START:
            raise
        return Header("jpeg", distrust=f"no image in its first {_MAX_JPEG_START >> 20} MiB", is_costly=True)


def _jpeg_with_start(data: bytes, start: bytes) -> Header:
    exif: list[bytes] = []
    width = height = components = frame = 0
    for marker, at in _jpeg_segments(start):
        if marker == _APP1 and start.startswith(b"Exif\0\0", at):
            end = at - 2 + struct.unpack_from(">H", start, at - 2)[0]
            exif.append(start[at + 6 if exif else at : end])
        elif marker in _SOF:
            depth, height, width, components = struct.unpack_from(">BHHB", start, at)
            frame = marker
            if depth != 8 or components not in (1, 3, 4) or not width * height:
                raise ValueError(f"{components} components of {depth} bits, {width} x {height}")
        elif marker == _SOS:
            break
    if not components:
        raise ValueError("a scan comes before the frame")
    orientation = _orientation(b"".join(exif)) if exif else 1
    # libjpeg reads one scan where that holds all components. Otherwise it looks for more, and also finds thumbnails'.
    scans = 1 if start[at] == components and frame not in _PROGRESSIVE else count(data, b"\xff\xda")
    passes = scans * (_ARITHMETIC_COST if frame in _ARITHMETIC else 1)
    distrust = ""
    if passes > _MAX_SCANS or passes * width * height > _MAX_SCANNED_PIXELS:
        distrust = f"{scans} scan{'s' * (scans != 1)}{' of arithmetic coding' if passes > scans else ''}"
    return Header(
        *("jpeg", *_upright(width, height, orientation), orientation, components),
        distrust=distrust,
        is_costly=bool(distrust),
    )


def _png(data: bytes) -> Header:
    """See https://www.w3.org/TR/png-3/#5DataRep. TensorFlow also reads the chunks after the image."""
    name, width, height, depth, colour = struct.unpack_from(">4sIIBB", data, 12)
    if name != b"IHDR":
        raise ValueError(f"the first chunk is {name!r}")
    packed = image_bytes = parts = 0
    most = _most_parts(data)
    orientation, distrust, has_alpha = 1, "", colour in (4, 6)
    at = 8
    while at + 8 <= len(data):
        parts += 1
        if parts > most:
            return Header("png", width, height, distrust=f"more than {most} chunks", is_costly=True)
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            image_bytes += size
        elif kind in (b"zTXt", b"iCCP") or (kind == b"iTXt" and _is_packed(data, at + 8, size)):
            packed += size
            if data.startswith(b"Raw profile type exif", at + 8):  # how ImageMagick kept EXIF before there was eXIf
                distrust = "EXIF in a text chunk"
        elif kind == b"tRNS" and not image_bytes:
            has_alpha = True
            if at + 8 > _ALPHA_HEAD_BYTES:
                distrust = f"its transparency comes after {_ALPHA_HEAD_BYTES >> 10} KiB"
        elif kind == b"eXIf":
            orientation = _orientation(b"Exif\0\0" + data[at + 8 : at + 8 + size])
        elif kind == b"IEND":
            break
        at += 12 + size
    is_costly = packed > _MAX_PACKED_TEXT
    if is_costly:
        distrust = f"{packed >> 10} KiB of packed text"
    if width * height * _PNG_CHANNELS[colour] * depth // 8 > _MAX_DEFLATE_RATIO * (image_bytes + 64):
        distrust, is_costly = "fewer bytes than its size takes", True
    return Header(
        *("png", *_upright(width, height, orientation), orientation),
        has_alpha=has_alpha,
        is_deep=depth == 16,
        distrust=distrust,
        is_costly=is_costly,
    )


def _is_packed(data: bytes, at: int, size: int) -> bool:
    """Return whether an iTXt chunk is compressed: the byte after its keyword."""
    end = data.find(b"\0", at, at + min(size, 80))
    return end >= 0 and data[end + 1 : end + 2] == b"\1"


class _GifBlocks(NamedTuple):
    """The blocks of a GIF, up to its end or to the first damaged one."""

    width: int  # of the screen
    height: int
    frames: int
    frame_pixels: int  # of all frames together
    largest_frame: int  # pixels of the largest frame, or of the screen if that is larger
    first_fills_screen: bool
    first_is_opaque: bool
    all_have_palette: bool
    is_whole: bool


def _gif_blocks(data: bytes) -> _GifBlocks:
    """Return what https://www.w3.org/Graphics/GIF/spec-gif89a.txt says of the blocks.

    Raises struct.error or _TooManyPartsError.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _palette_bytes(flags)
    frames = frame_pixels = 0
    left = _most_parts(data)
    largest_frame = width * height
    first_fills_screen = first_is_opaque = all_have_palette = is_whole = True
    try:
        while data[at] != 0x3B:
            if data[at] == 0x21:
                if not frames and data[at + 1] == 0xF9 and data[at + 3] & 1:  # a graphic control block
                    first_is_opaque = False
                at, left = _after_pieces(data, at + 2, left - 1)
                continue
            if data[at] != 0x2C:
                raise IndexError(f"no block begins with {data[at]:#04x}")
            *place, frame_flags = struct.unpack_from("<4HB", data, at + 1)
            first_fills_screen = first_fills_screen and (frames > 0 or place == [0, 0, width, height])
            all_have_palette = all_have_palette and bool((flags | frame_flags) & 0x80)
            frames += 1
            frame_pixels += place[2] * place[3]
            largest_frame = max(largest_frame, place[2] * place[3])
            at, left = _after_pieces(data, at + 11 + _palette_bytes(frame_flags), left - 1)
    except (IndexError, struct.error):
        is_whole = False
    return _GifBlocks(
        *(width, height, frames, frame_pixels, largest_frame),
        *(first_fills_screen, first_is_opaque, all_have_palette, is_whole),
    )


def _gif(data: bytes) -> Header:
    """Trust a GIF whose first frame fills the screen and that has neither too many pixels nor too many blocks.

    TensorFlow returns the first frame alone, which may be smaller than the screen. It needs a palette, decodes all
    frames, shows transparent pixels in black, and keeps all other blocks at 50 bytes and more each.
    """
    try:
        blocks = _gif_blocks(data)
    except _TooManyPartsError:
        width, height = struct.unpack_from("<HH", data, 6)
        return Header("gif", width, height, distrust=f"more than {_most_parts(data)} blocks", is_costly=True)
    megapixels = blocks.frame_pixels // 10**6
    is_costly = blocks.frame_pixels > formats.MAX_DECODED_PIXELS
    faults = (
        (is_costly, f"{blocks.frames} frames of {megapixels} megapixels in all"),
        (not blocks.all_have_palette, "no palette"),
        (not blocks.first_fills_screen, "its first frame does not fill the screen"),
        (not blocks.first_is_opaque, "transparent pixels"),
        (not blocks.is_whole, CUT_OFF),  # perhaps in a later frame: a viewer shows the first
        (not blocks.frames, "no frame"),
    )
    return Header(
        *("gif", blocks.width, blocks.height),
        distrust=next((reason for is_so, reason in faults if is_so), ""),
        is_costly=is_costly,
        frame_pixels=blocks.frame_pixels,
        animation_pixels=blocks.frames * blocks.largest_frame,
    )


def _palette_bytes(flags: int) -> int:
    return 3 * (2 << (flags & 7)) if flags & 0x80 else 0


def _after_pieces(data: bytes, at: int, left: int) -> tuple[int, int]:
    """Return where a block's chain of pieces ends, and what is left of the number of parts. Raises when none is."""
    while size := data[at]:
        at += 1 + size
        left -= 1
        if left < 0:
            break
    if left < 0:
        raise _TooManyPartsError
    return at + 1, left


def _bmp(data: bytes) -> Header:
    """TensorFlow takes palette indices for grey, ignores bit masks, and refuses run-length encoding."""
    header_bytes, width, height, _, depth, compression = struct.unpack_from("<IiiHHI", data, 14)
    if header_bytes < 40:  # OS/2's, with other fields
        return Header("bmp", distrust="an old header")
    plain = depth == 24 and compression == 0
    return Header("bmp", abs(width), abs(height), distrust="" if plain else f"{depth} bits, compression {compression}")


def _tiff(data: bytes) -> Header:
    """Look for the tag BitsPerSample of the first image. Pillow reads all else. See TIFF 6.0, section 2."""
    order = "<" if data[:2] == b"II" else ">"
    version, at = struct.unpack_from(f"{order}HI", data, 2)
    is_deep = False
    if version == 42:  # 43 is BigTIFF
        (count,) = struct.unpack_from(f"{order}H", data, at) if at + 2 <= len(data) else (0,)
        for entry in range(at + 2, min(at + 2 + 12 * count, len(data) - 11), 12):
            tag, _, values, place = struct.unpack_from(f"{order}HHIH", data, entry)
            if tag == _BITS_PER_SAMPLE:
                if values > 2:  # four bytes hold two of them: these are elsewhere
                    offset = int.from_bytes(data[entry + 8 : entry + 12], "little" if order == "<" else "big")
                    (place,) = struct.unpack_from(f"{order}H", data, offset) if offset + 2 <= len(data) else (0,)
                is_deep = place == 16
    return Header("tiff", is_deep=is_deep, distrust=_NOT_SERVED)


def _orientation(exif: bytes) -> int:
    from PIL import Image  # needed for the few files that have EXIF

    try:
        # Image.getexif() would also read XMP's orientation, which neither browsers nor the serving graph heed.
        block = Image.Exif()
        block.load(exif)
        value = int(block.get(ORIENTATION_TAG, 1))
    except ERRORS:  # damaged EXIF does not spoil the image
        return 1
    return value if 1 <= value <= 8 else 1


def _upright(width: int, height: int, orientation: int) -> tuple[int, int]:
    return (height, width) if orientation >= 5 else (width, height)
