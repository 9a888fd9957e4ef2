"""What lies in a folder of labelled images: `root/<class>/**/*`. Called by the command line before any heavy import.

Standard library only, and it opens no file but in `fingerprint` and `check_decodable`: a wrong folder is told in
milliseconds, not after TFX's import.
"""

import errno
import hashlib
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from components.image_example_gen import files
from graftline.errors import UserError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".avif")
_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "eval", "test", "testing"})
_SPAN = re.compile(r"span-\d+")
_CHUNK = 1 << 20
_ONE_FOLDER_EACH = "put the images in one folder per class, such as {root}/cats/1.jpg and {root}/dogs/2.jpg"


class File(NamedTuple):
    """One file that is to be read. `path` is relative to the layout's root, with "/" between its parts."""

    path: str
    label: str
    split: str = ""  # one of `features.SPLITS` where the layout decides it; "" leaves it to the content
    group: str = ""  # files of one group go to one split; "" is no group


@dataclass(frozen=True)
class Layout:
    """Everything found under a root, sorted. Paths are relative to `root`, with "/" between their parts."""

    root: str
    classes: tuple[str, ...]  # those with at least one file
    files: tuple[File, ...]  # regular files, or links to such inside the root
    refused: tuple[tuple[str, str, str], ...] = ()  # (path, label, reason); not to be opened; the path is escaped
    stray: tuple[str, ...] = ()  # images beside the class folders: reported, not ingested
    empty_classes: tuple[str, ...] = ()
    lookalikes: tuple[tuple[str, ...], ...] = ()  # class names that differ by case or space alone

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should hear of before a run, a sentence each."""
        told = []
        if self.stray:
            told.append(
                f"{len(self.stray)} images lie beside the class folders of {self.root} and are left out, "
                f"first: {self.stray[0]}"
            )
        if self.empty_classes:
            told.append(f"class folders without files are left out: {', '.join(map(repr, self.empty_classes))}")
        told += [
            f"class names differ only by case or space: {', '.join(map(repr, names))}; they stay separate classes"
            for names in self.lookalikes
        ]
        told += [f"{path}: {reason}" for path, label, reason in self.refused if not label]
        return tuple(told)


def scan(root: str | os.PathLike[str]) -> Layout:
    """Find the classes and files of `root/<class>/**/*`. Opens no file and follows no link to a folder.

    Raises:
        UserError: `root` is missing, a file, empty, flat, unreadable, already split, or holds fewer than two classes
            with two files each.
    """
    shown = files.escape(os.fspath(root))
    if not os.path.lexists(root):
        raise UserError(f"{shown}: no such folder; give the folder that holds one folder of images per class")
    if not os.path.isdir(root):
        raise UserError(f"{shown} is not a folder; give the folder that holds one folder of images per class")
    real_root = os.path.realpath(root)
    stray, class_names, refused = _look_at_root(real_root)
    found: list[File] = []
    for label in class_names:
        for path, reason in _walk(real_root, label):
            if reason:
                refused.append((files.escape(path), label, reason))
            else:
                found.append(File(path, label))
    counts = Counter(file.label for file in found)
    _require_classes(shown, stray, class_names, counts, found)
    return Layout(
        root=real_root,
        classes=tuple(sorted(counts)),
        files=tuple(sorted(found)),
        refused=tuple(sorted(refused)),
        stray=tuple(stray),
        empty_classes=tuple(name for name in class_names if name not in counts),
        lookalikes=_lookalikes(sorted(counts)),
    )


def check_decodable(layout: Layout) -> None:
    """Refuse a folder in which no file begins like an image, before anybody waits for the heavy imports.

    Raises:
        UserError: not one file begins with the magic bytes of JPEG, PNG, GIF or BMP.
    """
    first = ""
    for path, *_ in layout.files:
        try:
            with files.open_regular(os.path.join(layout.root, path)) as file:
                head = file.read(files.HEAD_BYTES)
        except OSError as error:
            first = first or f"{path} (unreadable: {error.strerror})"
            continue
        if files.sniff(head) in files.DECODABLE:
            return
        first = first or f"{path} (starts with {head[:12]!r})"
    raise UserError(
        f"none of the {len(layout.files)} files under {layout.root} is an image that can be decoded, first: {first}; "
        "give JPEG, PNG, GIF or BMP files"
    )


def fingerprint(layout: Layout, threads: int | None = None) -> str:
    """A hex sha256 over every path and every file's content, whatever sizes and times say. Memory: a chunk a thread.

    A file that can't be read counts with its error, so that mending it changes the fingerprint.
    """
    digest = hashlib.sha256()
    with ThreadPoolExecutor(threads or files.cpus()) as pool:
        contents = pool.map(lambda file: _content_hash(os.path.join(layout.root, file.path)), layout.files)
        for file, content in zip(layout.files, contents, strict=True):
            digest.update(("\0".join(file) + f"\0{content}\n").encode())
    for path, _, reason in layout.refused:
        digest.update(f"{path}\0refused: {reason}\n".encode())
    return digest.hexdigest()


def _content_hash(path: str) -> str:
    digest = hashlib.sha256()
    try:
        with files.open_regular(path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return digest.hexdigest()


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not files.is_left_out(e.name)), key=lambda e: e.name)
    except OSError as error:
        shown = files.escape(folder)
        raise UserError(
            f"{shown}: the folder can't be read ({error.strerror}); make it readable or remove it"
        ) from error


def _look_at_root(root: str) -> tuple[list[str], list[str], list[tuple[str, str, str]]]:
    """Stray images, class folders, and links to folders (refused), of the root."""
    stray, class_names, refused = [], [], []
    for entry in _entries(root):
        if entry.is_dir(follow_symlinks=False):
            class_names.append(_checked_class_name(root, entry.name))
        elif entry.is_symlink() and entry.is_dir():
            refused.append((files.escape(entry.name), "", "link to a folder: not followed, move or copy the folder"))
        elif entry.name.lower().endswith(_IMAGE_SUFFIXES):
            stray.append(files.escape(entry.name))
    return stray, class_names, refused


def _checked_class_name(root: str, name: str) -> str:
    escaped = files.escape(name)
    if escaped != name:
        wrong = "a newline" if "\n" in name or "\r" in name else "bytes that are not printable UTF-8 text"
        raise UserError(
            f"{root}: the name of the class folder '{escaped}' has {wrong} in it; rename the folder, "
            "its name becomes the label"
        )
    return name


def _walk(root: str, label: str) -> Iterator[tuple[str, str]]:
    """(relative path, "" or the reason why it must not be opened) of everything under one class folder."""
    folders = [label]
    while folders:
        folder = folders.pop()
        for entry in _entries(os.path.join(root, folder)):
            path = f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            else:
                yield path, _why_not(root, entry, path)


def _why_not(root: str, entry: os.DirEntry[str], path: str) -> str:
    """Why this entry, which is no folder, must not be opened; "" when it may."""
    if files.escape(path) != path:
        return "name is not printable UTF-8 text"
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        if not entry.is_symlink():
            return f"unreadable: {error.strerror}"
        return "broken link: it runs in a circle" if error.errno == errno.ELOOP else "broken link"
    if entry.is_symlink():
        if os.path.commonpath([root, os.path.realpath(entry.path)]) != root:
            return "link out of the folder of images: not followed"
        if stat.S_ISDIR(mode):
            return "link to a folder: not followed"
    return "" if stat.S_ISREG(mode) else f"not a file: {files.kind_of(mode)}"


def _require_classes(
    root: str, stray: list[str], class_names: list[str], counts: Counter[str], found: list[File]
) -> None:
    how = _ONE_FOLDER_EACH.format(root=root)
    if not class_names and stray:
        raise UserError(f"{root} is flat: {len(stray)} images and no class folders; {how}")
    if not class_names:
        raise UserError(f"{root} holds no class folders; {how}")
    if not counts:
        raise UserError(f"{root}: its {len(class_names)} class folders hold no files; {how}")
    folded = {name.casefold() for name in counts}
    if (folded <= _SPLIT_NAMES or all(map(_SPAN.fullmatch, folded))) and all(path.count("/") > 1 for path, *_ in found):
        raise UserError(
            f"{root} looks split already: its folders are {', '.join(sorted(counts))}, which are no classes. "
            "Such layouts are not supported yet; give one of these folders, Graftline splits by content"
        )
    if len(counts) == 1:
        (only,) = counts
        raise UserError(
            f"{root} holds images of one class only, '{only}' ({counts[only]} files); "
            "a classifier needs at least two class folders with images"
        )
    lone = sorted(label for label, count in counts.items() if count < 2)
    if lone:
        raise UserError(
            f"{root}: class '{lone[0]}' has a single image{_and_others(lone)}; each class needs at least 2, "
            "so that one can train and one can evaluate: add images or remove the folder"
        )


def _and_others(names: list[str]) -> str:
    return f" (so have {len(names) - 1} other classes)" if len(names) > 1 else ""


def _lookalikes(names: list[str]) -> tuple[tuple[str, ...], ...]:
    groups = defaultdict(list)
    for name in names:
        groups[" ".join(name.casefold().split())].append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
