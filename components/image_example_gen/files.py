"""Opening and naming files of unknown origin safely. Standard library only; used by `layouts` and `ingest`."""

import os
import re
import stat
import unicodedata
from typing import BinaryIO

# Written by file managers and archivers beside the images; nobody means them as data.
_LEFT_OUT = frozenset({"thumbs.db", "desktop.ini", "__macosx", "icon\r", "@eadir", "$recycle.bin"})

_MAGIC = (
    (re.compile(rb"\xff\xd8\xff"), "jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"GIF8[79]a"), "gif"),
    (re.compile(rb"BM"), "bmp"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "webp"),
    (re.compile(rb"II\*\x00|MM\x00\*"), "tiff"),
    (re.compile(rb"....ftyp(heic|heix|hevc|mif1|msf1)", re.DOTALL), "heic"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "avif"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?<svg"), "svg"),
)
HEAD_BYTES = 64  # enough for every pattern above
DECODABLE = ("jpeg", "png", "gif", "bmp")  # what tf.io.decode_image reads


def is_left_out(name: str) -> bool:
    """Whether a file or folder of this name is clutter (hidden files, Thumbs.db, __MACOSX, ...) rather than data."""
    return name.startswith(".") or name.casefold() in _LEFT_OUT


def sniff(head: bytes) -> str | None:
    """The image format that the first `HEAD_BYTES` bytes announce: "jpeg", "png", ..., or None. Names are not asked."""
    return next((name for pattern, name in _MAGIC if pattern.match(head)), None)


def escape(name: str) -> str:
    """`name` fit for a log, a CSV or JSON: control characters and bytes that are not UTF-8 become backslash escapes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) == "Cc" else c for c in text)


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading, and nothing else: a FIFO would block for ever and a device may do anything.

    Looks before opening, and again at what was opened, since a file can be replaced in between.

    Raises:
        OSError: the file can't be read, or is not a regular file.
    """
    _require_regular(os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _require_regular(os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(None, f"is {kind_of(mode)}, not a file")


def kind_of(mode: int) -> str:
    """What `st_mode` says a directory entry is, in words."""
    kinds = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((words for test, words in kinds if test(mode)), "not a regular file")


def cpus() -> int:
    """Processors that this process may use, which in a container are fewer than `os.cpu_count()`."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
