"""Paths that TensorFlow and Beam would read as patterns: `d [v2]/` matches `d v/` and `d 2/`, and not itself.

A workspace with such a path is refused: TFX hands patterns of its folders to both. A model's folder is loaded by
another name. Tried with TensorFlow 2.16 and TFX 1.16: `[`, `]`, `*`, `?` and the backslash are at fault. Spaces,
quotes, braces, `#`, `%`, `~`, commas and newlines do no harm. Standard library only.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator

_PATTERN = "*?[]\\"


def fault(path: str) -> str:
    """Return the first thing in a path that makes it unusable for TensorFlow, as words for a user; "" for none."""
    found = next((character for character in path if character in _PATTERN), "")
    return f"'{found}', which makes the path a pattern" if found else no_text(path)


def no_text(path: str) -> str:
    """Return why ML Metadata cannot record a path, as words for a user; "" if it can."""
    is_text = not any("\ud800" <= character <= "\udfff" for character in path)  # how Python holds other bytes
    return "" if is_text else "a byte that is not UTF-8"


@contextlib.contextmanager
def plain_path(folder: str) -> Iterator[str]:
    """Give a path of a folder on disk that is no pattern: its own, or that of a temporary link to it."""
    if not fault(folder):
        yield folder
        return
    places = (tempfile.gettempdir(), "/tmp", "/var/tmp", os.getcwd())
    place = next((path for path in places if not fault(path) and os.access(path, os.W_OK)), None)
    with tempfile.TemporaryDirectory(prefix="graftline-", dir=place) as root:
        link = os.path.join(root, "folder")
        os.symlink(os.path.abspath(folder), link)
        yield link
