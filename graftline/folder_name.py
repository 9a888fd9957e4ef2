"""The name of a folder as its user knows it. Standard library only."""

import os
import unicodedata

from graftline.uri import is_uri


def of(path: str) -> str:
    """Return the name of a folder, on disk or at a URI, as the user gave it, in Unicode's form NFC; "" for the root.

    A link keeps its own name: it may lead to another folder each day. Of a relative path the current folder is part,
    under the name that the shell knows it by.
    """
    if is_uri(path):
        parts = path.partition("://")[2].split("/")
        last = next((part for part in reversed(parts) if part and "{" not in part), "")  # skips span-{SPAN}
    else:
        last = _name_on_disk(path)
    return unicodedata.normalize("NFC", last)


def _name_on_disk(path: str) -> str:
    shell = os.environ.get("PWD", "")
    here = shell if os.path.isabs(shell) and _same(shell, ".") else os.getcwd()
    given = os.path.normpath(os.path.join(here, path))
    if os.path.exists(path) and not _same(given, path):  # normpath takes the folder above a link for that of its target
        given = os.path.realpath(path)
    folder, name = os.path.split(given)
    try:
        names = os.listdir(folder)
    except OSError:
        return name
    if name in names:
        return name
    # A file system that ignores case, or Unicode forms: the name is as the folder has it, however the user types it.
    alike = [other for other in names if _folded(other) == _folded(name) and _same(os.path.join(folder, other), given)]
    return alike[0] if alike else name


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
