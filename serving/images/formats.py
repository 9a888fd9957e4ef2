"""What an image file is by its first bytes and by its name, and how large it may be. Standard library only."""

import re

# File managers, archivers and file systems write these beside the images. Names that begin with "." need no row.
_CLUTTER = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"),
        *("$recycle.bin", "system volume information", "found.000", "lost+found"),  # NTFS, FAT, ext4
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot"),  # Synology, QNAP, NetApp
    }
)

_MAGIC = (
    (re.compile(rb"\xff\xd8\xff"), "jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"GIF8[79]a"), "gif"),
    (re.compile(rb"BM"), "bmp"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
    (re.compile(rb"II[*+]\x00|MM\x00[*+]"), "tiff"),
    (re.compile(rb"....ftyp(hei[cxmsf]|hev[cmsx]|mif1|msf1)", re.DOTALL), "heic"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "avif"),
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "jpeg 2000"),
    (re.compile(rb"\x00\x00\x00\x0cJXL |\xff\x0a"), "jpeg xl"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?<svg"), "svg"),
)
HEAD_BYTES = 64  # enough for every pattern above
DECODABLE = ("jpeg", "png", "gif", "bmp")  # what tf.io.decode_image reads
READABLE = (*DECODABLE, "webp", "tiff", "heic", "avif")  # what ingest stores, as it is or transcoded
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
    *(".heic", ".heif", ".hif", ".avif"),
)

# Limits of one image file, the same for ingest and for clients.
MAX_BYTES = 64 << 20
MAX_PIXELS = 100_000_000  # 300 MB as uint8 RGB
# What TensorFlow decodes of one image, in training and, by default, in the server. Larger images are stored and sent
# shrunk to it. A photo of this size takes a server 0.3 s of processor time.
MAX_DECODED_PIXELS = 25_000_000
MAX_REQUEST_PIXELS = 100_000_000  # of all images of a request, by default


def is_image_name(path: str) -> bool:
    """Return whether a file's name ends as an image's does, in upper or lower case."""
    return path.lower().endswith(SUFFIXES)


def is_left_out(name: str) -> bool:
    """Return whether a file or folder of this name is no data: hidden files, Thumbs.db, __MACOSX and the like."""
    return name.startswith(".") or name.casefold() in _CLUTTER


def sniff(head: bytes) -> str | None:
    """Return the image format that a file's first `HEAD_BYTES` bytes announce, such as "jpeg"; None for no image."""
    return next((name for pattern, name in _MAGIC if pattern.match(head)), None)
