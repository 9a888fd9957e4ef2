"""The labels of images from a CSV file, in place of folders that are called as the classes.

A header line names the columns, in any order: `path` (relative to the folder of images, "/" between its parts) and
`label`; `split` and `group` if wanted. UTF-8, with or without a byte order mark; RFC 4180's quotes. A mistake in the
table stops the run with the number of its line; whether each file is there `layouts` asks afterwards.
"""

import csv
import io
import posixpath
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from graftline.components.storage import files
from graftline.errors import UserError, did_you_mean
from graftline.uri import is_uri

_NEEDED = ("path", "label")
_OPTIONAL = ("split", "group")
_MAX_BYTES = 256 << 20  # about two million rows
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class Row(NamedTuple):
    """One line: a file, and what is said of it."""

    path: str
    label: str
    split: str  # as it is written, in lower case; "" where nothing is
    group: str


@dataclass(frozen=True)
class Manifest:
    """A whole table. Every path is in it once."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()


def read(path: str, splits: Collection[str]) -> Manifest:
    """Read the table.

    Args:
        path: of the CSV file, or its URI.
        splits: what may stand in the column `split`.

    Raises:
        UserError: the file can't be read, or a line of it makes no sense.
    """
    shown = files.escape(path)
    try:
        data, size = files.read(path, _MAX_BYTES)
    except OSError as error:
        raise UserError(
            f"data.manifest: {shown} can't be read: {error.strerror}; give a CSV file with the columns path and label"
        ) from error
    if size > _MAX_BYTES:
        raise UserError(f"data.manifest: {shown} has {size >> 20} MiB; at most {_MAX_BYTES >> 20} are read")
    return _parse(_text(shown, data), shown, splits)


def _text(shown: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{shown}, line {line}: not UTF-8 text; save the table as CSV in UTF-8") from None


def _parse(text: str, shown: str, splits: Collection[str]) -> Manifest:
    # A space after a comma is no part of the value.
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    seen: dict[str, tuple[Row, int]] = {}
    repeated = 0
    try:
        places, warnings = _columns(next(reader, []), shown)
        width = max(places.values()) + 1
        line = reader.line_num + 1
        for values in reader:
            # Where a row begins: one with a line break in quotes ends on a later line.
            begins, line = line, reader.line_num + 1
            if not any(map(str.strip, values)):
                continue
            try:
                values += [""] * (width - len(values))
                row = _row({name: values[place] for name, place in places.items()}, splits)
                earlier, its_line = seen.setdefault(row.path, (row, begins))
                if earlier != row:
                    raise ValueError(f"{row.path!r} stands in line {its_line} with other values; keep one of the two")
            except ValueError as error:
                raise UserError(f"{shown}, line {begins}: {error}") from None
            repeated += its_line != begins
    except csv.Error as error:
        raise UserError(f"{shown}, line {reader.line_num}: not CSV: {error}") from None
    if not seen:
        raise UserError(f"{shown} has no rows; give a line with a path and a label for each image")
    if repeated:
        warnings.append(f"{shown}: {repeated} lines say again what an earlier one says, and count once")
    return Manifest(tuple(row for row, _ in seen.values()), tuple(warnings))


def _columns(header: list[str], shown: str) -> tuple[dict[str, int], list[str]]:
    """The place of each known column, and what to warn of."""
    names = [name.strip().casefold() for name in header]
    found = ", ".join(map(repr, names)) or "nothing"
    for name in _NEEDED:
        if name not in names:
            raise UserError(
                f"{shown}: the column '{name}' is missing; its first line must name the columns path and label, with "
                f"commas between them, and may name split and group. Found: {found}"
            )
    known = [*_NEEDED, *(name for name in _OPTIONAL if name in names)]
    for name in known:
        if names.count(name) > 1:
            raise UserError(f"{shown}: its first line names the column '{name}' twice; keep one")
    others = [name for name in names if name not in known]
    warnings = [f"{shown}: columns that are not read: {', '.join(map(repr, others))}"] if others else []
    return {name: names.index(name) for name in known}, warnings


def _row(values: Mapping[str, str], splits: Collection[str]) -> Row:
    """Raises ValueError, which says what is wrong and what to do."""
    label, split, group = (values.get(name, "").strip() for name in ("label", "split", "group"))
    path = _checked_path(values["path"])
    if not label:
        raise ValueError("the label is empty; give one or remove the line")
    for name, value in (("label", label), ("group", group)):
        if files.escape(value) != value:
            raise ValueError(f"the {name} '{files.escape(value)}' has a control character in it; remove it")
    split = split.casefold()
    if split and split not in splits:
        near = did_you_mean(split, list(splits))
        raise ValueError(
            f"unknown split '{files.escape(split)}'{near + ' Known' if near else '; known'}: {', '.join(splits)}; an "
            "empty one leaves it to the image's content"
        )
    return Row(path, label, split, group)


def _checked_path(path: str) -> str:
    shown = files.escape(path)
    if not path.strip():
        raise ValueError("the path is empty; give one or remove the line")
    if path.startswith("/") or is_uri(path) or _DRIVE.match(path):
        raise ValueError(f"the path '{shown}' is absolute; give it relative to the folder of images")
    # Two ways to write one path are one path.
    normal = posixpath.normpath(path)
    if normal == ".." or normal.startswith("../"):
        raise ValueError(f"the path '{shown}' leads out of the folder of images; give one inside it")
    return normal
