"""The report on copies: `duplicates.csv` with all groups, and `duplicates.html` with the pictures of the first.

The page is one file without scripts and without external resources. Memory: the plan's groups and one picture.
"""

import base64
import csv
import html
import io
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
from PIL import Image, ImageOps

from graftline import csv_cells
from graftline.components.image_example_gen.plan import Copies, Kind, Member, Plan

CSV_NAME = "duplicates.csv"
HTML_NAME = "duplicates.html"
COLUMNS = ("group", "kind", "path", "label", "split", "distance")
_SHOWN_GROUPS = 100
_SHOWN_MEMBERS = 6
_SIDE = 96  # pixels
_MAX_PIXELS = 25_000_000  # 75 MB as RGB
_FORMATS = ("JPEG", "PNG", "GIF", "BMP")  # the stored formats; the decoders of others stay out of this process
_GREY = (128, 128, 128)
# Pillow's plugins raise all of these for bad files.
_PICTURE_ERRORS = (
    OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError, struct.error, OverflowError, EOFError,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
_KIND_TEXTS: dict[Kind, tuple[str, str]] = {
    "leak": (
        "In several splits",
        "Copies, near copies or images of one group are in several splits, so metrics on them flatter the model. The "
        "folders or a manifest give these splits, or an earlier run chose them before the images were alike. Of exact "
        "copies only the one outside train is kept.",
    ),
    "conflict": (
        "One content under several labels",
        "The content is kept once for each label, all in one split. At most one of the labels is right: remove the "
        "files with the wrong labels.",
    ),
    "near": (
        "Near copies",
        "Different files show nearly the same. All are kept, in one split unless the page lists them above. If their "
        "labels differ, check them.",
    ),
    "exact": (
        "Exact copies",
        "Several files have the same bytes. The first file of each class is kept, the others count as duplicates.",
    ),
}
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid var(--line); margin-top: 2rem; }
article { background: var(--soft); border-radius: 8px; margin: 1rem 0; padding: .6rem .8rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
ul { display: flex; flex-wrap: wrap; gap: .8rem; list-style: none; margin: 0; padding: 0; }
li { width: 9.5rem; overflow-wrap: anywhere; font-size: .8rem; }
img { display: block; margin-bottom: .3rem; }
"""


def write(report_uri: str, plan: Plan, read: Callable[[str], bytes | None]) -> None:
    """Write both files on the copies of a plan, whose shards are not read, to an existing folder or a URI.

    `read` returns the stored bytes (JPEG, PNG, GIF or BMP) of an image by its path in the plan, or None if the image
    cannot be read. It is called only for the pictures of the page: 100 groups, 6 pictures each.
    """
    # Within a kind, groups with different labels come first.
    copies = sorted(plan.copies, key=lambda group: (list(_KIND_TEXTS).index(group.kind), not group.in_several_classes))
    with tf.io.gfile.GFile(os.path.join(report_uri, CSV_NAME), "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, group in enumerate(copies, 1):
            for member in group.members:
                names = map(csv_cells.escape, (member.path, member.label))
                writer.writerow((number, group.kind, *names, member.split, member.distance))
    with tf.io.gfile.GFile(os.path.join(report_uri, HTML_NAME), "w") as file:
        for part in _page(copies, read):
            file.write(part)


def _page(copies: Sequence[Copies], read: Callable[[str], bytes | None]) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>Copies among the images</title><style>{_STYLE}</style></head>\n"
    yield "<body><h1>Copies among the images</h1>\n"
    counts = Counter(group.kind for group in copies)
    if not copies:
        yield "<p>No copies were found.</p>\n"
    elif len(copies) > _SHOWN_GROUPS:
        yield f"<p>The first {_SHOWN_GROUPS} of {len(copies):,} groups. All of them are in {CSV_NAME}.</p>\n"
    shown = 0
    for kind, (title, explanation) in _KIND_TEXTS.items():
        if not counts[kind]:
            continue
        yield f"<section><h2>{title}: {counts[kind]:,}</h2><p>{explanation}</p>\n"
        for number, group in enumerate(copies, 1):
            if group.kind == kind and shown < _SHOWN_GROUPS:
                shown += 1
                yield from _article(number, group, read)
        yield "</section>\n"
    yield "</body></html>\n"


def _article(number: int, group: Copies, read: Callable[[str], bytes | None]) -> Iterator[str]:
    count = len(group.members)
    hidden = f", {count - _SHOWN_MEMBERS} not shown" if count > _SHOWN_MEMBERS else ""
    several = ", in several classes" if group.in_several_classes else ""
    yield f"<article><h3>Group {number}: {count} files{several}{hidden}</h3><ul>\n"
    for member in group.members[:_SHOWN_MEMBERS]:
        yield f"<li>{_picture(member, read)}{html.escape(member.path)}<br>"
        yield f"<b>{html.escape(member.label)}</b>, {html.escape(member.split)}{_bits(group, member)}</li>\n"
    yield "</ul></article>\n"


def _bits(group: Copies, member: Member) -> str:
    if member is group.members[0] or not member.distance:
        return ""
    return f", {member.distance} bit{'s' * (member.distance > 1)} from the first"


def _picture(member: Member, read: Callable[[str], bytes | None]) -> str:
    data = base64.b64encode(_thumbnail(read(member.path))).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="" loading="lazy">'


def _thumbnail(data: bytes | None) -> bytes:
    """Return a small upright JPEG of an image, or a grey tile if the image cannot be read."""
    small = Image.new("RGB", (_SIDE, _SIDE), _GREY)
    if data is not None:
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                image.draft("RGB", (_SIDE, _SIDE))  # decodes a JPEG of 12 megapixels in a tenth of the time
                if image.width * image.height > _MAX_PIXELS:
                    raise ValueError(image.size)
                upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((_SIDE, _SIDE))
            small = upright
        except _PICTURE_ERRORS:
            pass
    file = io.BytesIO()
    small.save(file, "JPEG", quality=75)
    return file.getvalue()
