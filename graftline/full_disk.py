"""Says of an error that a disk is full, a quota used up, or a file system read-only: which folder, how much is free.

Python, TensorFlow, HDF5, SQLite and Beam each report it by their own exception. Standard library only.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence

_KINDS = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file is larger than `ulimit -f` or the file system allows",
    errno.EROFS: "the file system is read-only",
}
_TEXTS = {os.strerror(code): code for code in _KINDS} | {"database or disk is full": errno.ENOSPC}  # SQLite's
_TEXT = re.compile("|".join(map(re.escape, _TEXTS)))


def explain(error: BaseException, folders: Sequence[str] = ()) -> str:
    """Return one sentence about an error that a full disk caused; "" for another error.

    `folders` are those that the program writes to, which need not exist. The temporary folder is looked at as well.
    """
    for cause in _causes(error):
        code = cause.errno if isinstance(cause, OSError) else None
        if code not in _KINDS:
            match = _TEXT.search(str(cause))
            code = _TEXTS[match.group()] if match else None
        if code is not None:
            name = cause.filename if isinstance(cause, OSError) and isinstance(cause.filename, str) else ""
            return f"{_KINDS[code]}: {_describe(_place(name, folders))}"
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _place(name: str, folders: Sequence[str]) -> str:
    """Return the folder of the file that could not be written, or else that of `folders` whose disk is fullest."""
    if name:
        return _existing(os.path.abspath(os.path.dirname(name) or "."))
    places = [_existing(os.path.abspath(folder)) for folder in (*folders, tempfile.gettempdir())]
    return min(places, key=lambda place: shutil.disk_usage(place).free)


def _existing(folder: str) -> str:
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _describe(folder: str) -> str:
    usage, inodes = shutil.disk_usage(folder), os.statvfs(folder)
    text = f"the disk of {folder} now has {usage.free / 1e6:,.1f} of {usage.total / 1e6:,.0f} MB free"
    return f"{text}, and no free inode" if inodes.f_files and not inodes.f_favail else text
