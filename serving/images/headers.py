"""What an image file's header says, read before any decoder sees the file: one parser, and two decisions over it.

`read` tells ingest and clients the size, the orientation, and whether to trust the file. A file is trusted when the
serving graph shows it as a viewer does, and when its size in pixels bounds the time and memory of its decoding. An
untrusted file is transcoded in a process of its own (`isolated`).
`decoded_pixels` tells the server how many pixels TensorFlow would allocate. It takes microseconds and needs no Pillow.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

ORIENTATION_TAG = 0x0112
CUT_OFF = "cut off"  # the distrust of a file that ends too early
# Pillow's plugins raise all of these on damaged headers.
ERRORS = (OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError, struct.error, OverflowError)
ENDLESS = 1 << 62  # the pixels of a file with so many parts that counting them takes long
_MAX_PARTS = 100_000  # of one file: segments of a JPEG, blocks of a GIF outside its pixels; no honest file comes near
# A photo has at most a dozen scans, and each is a pass over all pixels. A few kilobytes can ask for thousands.
_MAX_SCANS = 64
_MAX_JPEG_START = 4 << 20  # bytes before the first scan
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame; the other three are tables
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_APP1, _SOS = 0xE1, 0xDA
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers that no length follows
_MAX_PACKED_TEXT = 64 << 10  # bytes in all; deflate unpacks them to at most a thousand times as much
_MAX_DEFLATE_RATIO = 1032  # of zlib, https://zlib.net/zlib_tech.html
_MAX_FRAME_PIXELS = 25_000_000  # of all frames of a GIF: TensorFlow unpacks all of them to return the first
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@dataclass(frozen=True)
class Header:
    """What a file's header says. `width` and `height` are upright, in pixels; 0 where only the decoder can tell."""

    format: str  # as `formats.sniff` names it
    width: int = 0
    height: int = 0
    orientation: int = 1  # EXIF's, 1..8
    components: int = 3  # of a JPEG: 1 grey, 3 colour, 4 CMYK
    distrust: str = ""  # why the file is not trusted; "" when it is

    @property
    def pixels(self) -> int:
        """The number of pixels of one image of this size."""
        return self.width * self.height


def read(data: bytes, image_format: str) -> Header:
    """Return the header of a file that begins like an `image_format`, in microseconds whatever its size in pixels.

    Raises one of ERRORS for a damaged header.
    """
    reader = {"jpeg": _jpeg, "png": _png, "gif": _gif, "bmp": _bmp}.get(image_format)
    return reader(data) if reader else Header(image_format, distrust=f"{image_format} is not what serving decodes")


def decoded_pixels(data: bytes) -> int:
    """Return how many pixels `tf.io.decode_image` allocates for a file: of a GIF, those of all frames.

    Returns 0 for a file that is damaged or no image, since TensorFlow refuses it, and `ENDLESS` for one of too many
    parts. Formats are told apart as TensorFlow does, by fewer bytes than `formats.sniff` looks at.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            for marker, at in _jpeg_segments(data):
                if marker in _SOF:
                    height, width = struct.unpack_from(">HH", data, at + 1)
                    return int(width * height)
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", data, 16)
            return int(width * height)
        elif data.startswith(b"GIF8"):
            blocks = _gif_blocks(data)
            return ENDLESS if blocks.parts > _MAX_PARTS else blocks.frames * blocks.largest_frame
        elif data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            return int(abs(width) * abs(height))
    except _TooManyPartsError:
        return ENDLESS
    except (struct.error, IndexError, ValueError):
        pass
    return 0


class _TooManyPartsError(ValueError):
    """A JPEG has more than `_MAX_PARTS` segments before its first scan."""


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the marker of each segment and where its content begins, as libjpeg finds them (ITU-T T.81, annex B).

    Raises struct.error, IndexError or ValueError where there is no next segment.
    """
    at = 2
    for _ in range(_MAX_PARTS):
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
        return Header("jpeg", distrust=f"no image in its first {_MAX_PARTS} segments")
    except ERRORS:
        if len(data) <= _MAX_JPEG_START:
            raise
        return Header("jpeg", distrust=f"no image in its first {_MAX_JPEG_START >> 20} MiB")


def _jpeg_with_start(data: bytes, start: bytes) -> Header:
    exif = b""
    width = height = components = 0
    progressive = False
    for marker, at in _jpeg_segments(start):
        if marker == _APP1 and start.startswith(b"Exif\0\0", at):
            end = at - 2 + struct.unpack_from(">H", start, at - 2)[0]
            exif += start[at + 6 if exif else at : end]
        elif marker in _SOF:
            depth, height, width, components = struct.unpack_from(">BHHB", start, at)
            progressive = marker in _PROGRESSIVE
            if depth != 8 or components not in (1, 3, 4) or not width * height:
                raise ValueError(f"{components} components of {depth} bits, {width} x {height}")
        elif marker == _SOS:
            break
    if not components:
        raise ValueError("a scan comes before the frame")
    orientation = _orientation(exif) if exif else 1
    # libjpeg reads one scan where that holds all components. Otherwise it looks for more, and also finds thumbnails'.
    scans = 1 if start[at] == components and not progressive else data.count(b"\xff\xda")
    distrust = f"{scans} scans" if scans > _MAX_SCANS else ""
    return Header("jpeg", *_upright(width, height, orientation), orientation, components, distrust)


def _png(data: bytes) -> Header:
    """See https://www.w3.org/TR/png-3/#5DataRep. TensorFlow also reads the chunks after the image."""
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
    """Return whether an iTXt chunk is compressed: the byte after its keyword."""
    end = data.find(b"\0", at, at + min(size, 80))
    return end >= 0 and data[end + 1 : end + 2] == b"\1"


class _GifBlocks(NamedTuple):
    """The blocks of a GIF, up to its end or to the first damaged one."""

    width: int  # of the screen
    height: int
    parts: int  # frames, other blocks and the pieces of those
    frames: int
    frame_pixels: int  # of all frames together
    largest_frame: int  # pixels of the largest frame, or of the screen if that is larger
    first_fills_screen: bool
    all_have_palette: bool
    is_whole: bool


def _gif_blocks(data: bytes) -> _GifBlocks:
    """Return what https://www.w3.org/Graphics/GIF/spec-gif89a.txt says of the blocks. Raises struct.error."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _palette_bytes(flags)
    parts = frames = frame_pixels = 0
    largest_frame = width * height
    first_fills_screen = all_have_palette = is_whole = True
    try:
        while data[at] != 0x3B and parts <= _MAX_PARTS:
            if data[at] == 0x21:
                at, pieces = _after_pieces(data, at + 2)
                parts += pieces + 1
                continue
            if data[at] != 0x2C:
                raise IndexError(f"no block begins with {data[at]:#04x}")
            *place, frame_flags = struct.unpack_from("<4HB", data, at + 1)
            first_fills_screen = first_fills_screen and (frames > 0 or place == [0, 0, width, height])
            all_have_palette = all_have_palette and bool((flags | frame_flags) & 0x80)
            parts += 1
            frames += 1
            frame_pixels += place[2] * place[3]
            largest_frame = max(largest_frame, place[2] * place[3])
            at, _ = _after_pieces(data, at + 11 + _palette_bytes(frame_flags))
    except (IndexError, struct.error):
        is_whole = False
    return _GifBlocks(
        *(width, height, parts, frames, frame_pixels, largest_frame, first_fills_screen, all_have_palette, is_whole)
    )


def _gif(data: bytes) -> Header:
    """Trust a GIF whose first frame fills the screen and that has neither too many pixels nor too many blocks.

    TensorFlow returns the first frame alone, which may be smaller than the screen. It needs a palette, decodes all
    frames, and keeps all other blocks at 50 bytes and more each.
    """
    blocks = _gif_blocks(data)
    megapixels = blocks.frame_pixels // 10**6
    faults = (
        (blocks.frame_pixels > _MAX_FRAME_PIXELS, f"{blocks.frames} frames of {megapixels} megapixels in all"),
        (blocks.parts > _MAX_PARTS, f"more than {_MAX_PARTS} blocks"),
        (not blocks.all_have_palette, "no palette"),
        (not blocks.first_fills_screen, "its first frame does not fill the screen"),
        (not blocks.is_whole, CUT_OFF),  # perhaps in a later frame: a viewer shows the first
        (not blocks.frames, "no frame"),
    )
    distrust = next((reason for is_so, reason in faults if is_so), "")
    return Header("gif", blocks.width, blocks.height, distrust=distrust)


def _palette_bytes(flags: int) -> int:
    return 3 * (2 << (flags & 7)) if flags & 0x80 else 0


def _after_pieces(data: bytes, at: int) -> tuple[int, int]:
    """Return where a block's chain of pieces ends, and how many pieces there are."""
    count = 0
    while size := data[at]:
        at += 1 + size
        count += 1
    return at + 1, count


def _bmp(data: bytes) -> Header:
    """TensorFlow takes palette indices for grey, ignores bit masks, and refuses run-length encoding."""
    header_bytes, width, height, _, depth, compression = struct.unpack_from("<IiiHHI", data, 14)
    if header_bytes < 40:  # OS/2's, with other fields
        return Header("bmp", distrust="an old header")
    plain = depth == 24 and compression == 0
    return Header("bmp", abs(width), abs(height), distrust="" if plain else f"{depth} bits, compression {compression}")


def _orientation(exif: bytes) -> int:
    from PIL import Image  # needed for the few files that have EXIF, and never by a server

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
