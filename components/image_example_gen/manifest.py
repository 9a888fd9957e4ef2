"""The manifest: a CSV file that gives each image its label, in place of folders with the names of the classes.

A header line names the columns, in any order: `path` (relative to the folder of images, with "/" between its parts)
and `label`; `split` and `group` are optional. The text is UTF-8, with or without a byte order mark, and is quoted as
in RFC 4180. A mistake stops the run, and the message gives its line. `scan` then checks whether each file exists.
"""

import csv
import io
import posixpath
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from graftline.components.image_example_gen.layouts import File
from graftline.components.storage import files
from graftline.errors import UserError, did_you_mean
from graftline.uri import is_uri

_NEEDED = ("path", "label")
_OPTIONAL = ("split", "group")
_MAX_BYTES = 256 << 20  # about two million rows
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True)
class Manifest:
    """A whole table. Every path is in it once. The split of a file is as the table writes it, in lower case."""

    files: tuple[File, ...]
    lines: tuple[int, ...]  # of the files
    warnings: tuple[str, ...] = ()


def read(path: str, splits: Collection[str]) -> Manifest:
    """Read the table at a path or URI; `splits` are the values that the column `split` may have.

    Raises:
        UserError: the file cannot be read, or one of its lines has a mistake.
    """
    escaped = files.escape(path)
    try:
        data, size = files.read(path, _MAX_BYTES)
    except OSError as error:
        raise UserError(
            f"data.manifest: {escaped} cannot be read: {error.strerror}; give a CSV file with columns path and label"
        ) from error
    if size > _MAX_BYTES:
        raise UserError(f"data.manifest: {escaped} has {size >> 20} MiB; the limit is {_MAX_BYTES >> 20} MiB")
    return _parse(_decode(escaped, data), escaped, splits)


def _decode(table: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{table}, line {line}: not UTF-8 text; save the table as CSV in UTF-8") from None


def _parse(text: str, table: str, splits: Collection[str]) -> Manifest:
    # A space after a comma is not part of the value.
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    seen: dict[str, tuple[File, int]] = {}
    repeated = 0
    try:
        places, warnings = _parse_header(next(reader, []), table)
        width = max(places.values()) + 1
        line = reader.line_num + 1
        for values in reader:
            # A row with a line break in quotes begins on an earlier line than it ends.
            begins, line = line, reader.line_num + 1
            if not any(map(str.strip, values)):
                continue
            try:
                values += [""] * (width - len(values))
                file = _parse_row({name: values[place] for name, place in places.items()}, splits)
                earlier, earlier_line = seen.setdefault(file.path, (file, begins))
                if earlier != file:
                    raise ValueError(
                        f"{file.path!r} has other values in line {earlier_line}; keep one of the two lines"
                    )
            except ValueError as error:
                raise UserError(f"{table}, line {begins}: {error}") from None
            repeated += earlier_line != begins
    except csv.Error as error:
        raise UserError(f"{table}, line {reader.line_num}: not CSV: {error}") from None
    if not seen:
        raise UserError(f"{table} has no rows; give a line with a path and a label for each image")
    if repeated:
        warnings.append(f"{table}: {repeated} lines repeat an earlier line and count once")
    files, lines = zip(*seen.values(), strict=True)
    return Manifest(files, lines, tuple(warnings))


def _parse_header(header: list[str], table: str) -> tuple[dict[str, int], list[str]]:
    """Return the place of each known column, and warnings."""
    names = [name.strip().casefold() for name in header]
    listed = ", ".join(map(repr, names)) or "nothing"
    for name in _NEEDED:
        if name not in names:
            raise UserError(
                f"{table}: the column '{name}' is missing; the first line must name the columns path and label, "
                f"separated by commas, and may name split and group. Found: {listed}"
            )
    known = [*_NEEDED, *(name for name in _OPTIONAL if name in names)]
    for name in known:
        if names.count(name) > 1:
            raise UserError(f"{table}: the first line names the column '{name}' twice; keep one")
    others = [name for name in names if name not in known]
    warnings = [f"{table}: these columns are ignored: {', '.join(map(repr, others))}"] if others else []
    return {name: names.index(name) for name in known}, warnings


def _parse_row(values: Mapping[str, str], splits: Collection[str]) -> File:
    """Return a row's file; a mistake raises a ValueError that says how to correct it."""
    label, split, group = (values.get(name, "").strip() for name in ("label", "split", "group"))
    path = _parse_path(values["path"])
    if not label:
        raise ValueError("the label is empty; give one or remove the line")
    for name, value in (("label", label), ("group", group)):
        if files.escape(value) != value:
            raise ValueError(f"the {name} '{files.escape(value)}' contains a control character; remove it")
    split = split.casefold()
    if split and split not in splits:
        near = did_you_mean(split, list(splits))
        raise ValueError(
            f"unknown split '{files.escape(split)}'{near + ' Known' if near else '; known'}: {', '.join(splits)}; "
            "leave the split empty to split by the image's content"
        )
    return File(path, label, split, group)


def _parse_path(path: str) -> str:
    """Return the normal form of a path."""
    escaped = files.escape(path)
    if not path.strip():
        raise ValueError("the path is empty; give one or remove the line")
    if path.startswith("/") or is_uri(path) or _DRIVE.match(path):
        raise ValueError(f"the path '{escaped}' is absolute; give it relative to the folder of images")
    normal = posixpath.normpath(path)
    if normal == ".." or normal.startswith("../"):
        raise ValueError(f"the path '{escaped}' leads out of the folder of images; give a path inside it")
    return normal
