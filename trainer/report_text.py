"""The report's texts: names as the fonts can draw them, and the tables. `trainer.figures` calls it.

Imports no TensorFlow.
"""

import csv
import functools
import json
import pathlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from sklearn.metrics import classification_report

from graftline import csv_cells

# matplotlib's own font has Latin, Greek, Cyrillic, Arabic and Hebrew. The installed ones of these draw other scripts.
_FALLBACK_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR", "WenQuanYi Micro Hei"),
    *("Hiragino Sans", "PingFang HK", "Apple SD Gothic Neo", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic"),
    *("Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Nirmala UI", "FreeSans"),
    *("Arial Unicode MS",),
)
# Hebrew, Arabic and related scripts, without Arabic digits, which run from left to right.
_RIGHT_TO_LEFT = "[\u0590-\u065f\u066a-\u06ef\u06fa-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]+"

# Names of scikit-learn's averages; a class with such a name would be lost in the report.
_AVERAGES = ("accuracy", "micro avg", "macro avg", "weighted avg")

Data = dict[str, Any]


def use_style() -> None:
    """Set matplotlib's fonts and style."""
    matplotlib.rcdefaults()  # the user's own style may require LaTeX
    installed = set(font_manager.get_font_names())
    matplotlib.rcParams.update(
        {
            "font.family": ["DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in installed)],
            "text.parse_math": False,  # a class may be called "$a_$"
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.edgecolor": "#888888",
            "figure.titlesize": 13,
            "figure.titleweight": "bold",
            "savefig.dpi": 150,
        }
    )


def one_line(text: str) -> str:
    """Return `text` with control characters escaped and without invisible ones."""

    def escape(character: str) -> str:
        kind = unicodedata.category(character)
        if kind == "Cf":
            return ""
        return character.encode("unicode_escape").decode() if kind in ("Cc", "Zl", "Zp", "Cs") else character

    return "".join(map(escape, text))


def shorten(text: str, width: int) -> str:
    """Return `text` in one line of at most `width` columns, without its middle; East Asian characters take two."""
    text = one_line(text)
    if columns(text) <= width:
        return text
    head, tail = text, text
    while columns(head) > (width - 1) - (width - 1) // 2:
        head = head[:-1]
    while columns(tail) > (width - 1) // 2:
        tail = tail[1:]
    return f"{head}…{tail}"


def columns(text: str) -> int:
    """Return the number of columns that `text` takes."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


@functools.cache
def _has_glyph(character: str) -> bool:
    return character.isspace() or any(ord(character) in glyphs for glyphs in _charmaps())


@functools.cache
def _charmaps() -> list[dict[int, int]]:
    fonts = [font_manager.FontProperties(family=[family]) for family in matplotlib.rcParams["font.family"]]
    return [font_manager.get_font(font_manager.findfont(font)).get_charmap() for font in fonts]


def drawable(text: str, width: int) -> str:
    """Return `text` shortened, with □ for missing glyphs and with right-to-left words reversed.

    matplotlib draws glyphs from left to right in the order of the string. It neither orders nor joins letters.
    """
    text = "".join(character if _has_glyph(character) else "□" for character in shorten(text, width))
    return re.sub(f"{_RIGHT_TO_LEFT}(?: {_RIGHT_TO_LEFT})*", lambda match: match[0][::-1], text)


def class_names(labels: list[str], width: int) -> list[str]:
    """Return drawable names. A name with missing glyphs starts with the index of its class: "#3 □□"."""
    return [
        drawable(label, width) if all(map(_has_glyph, one_line(label))) else f"#{index} {drawable(label, width - 4)}"
        for index, label in enumerate(labels)
    ]


def tables(data: Data, folder: pathlib.Path) -> None:
    """Write `predictions.csv`, `confusion_matrix.csv` and `classification_report.json` and `.txt`."""
    labels, true, predicted = data["labels"], data["true"], data["predicted"]
    scores = np.array(data["scores"], float)
    rows = zip(data["filenames"], true, predicted, scores, strict=True)
    answers = [
        (name, labels[label], labels[guess], score, str(label == guess).lower()) for name, label, guess, score in rows
    ]
    _write_csv(folder / "predictions.csv", [("filename", "label", "predicted", "score", "correct"), *answers])
    counts = [(label, *row) for label, row in zip(labels, count_pairs(data).tolist(), strict=True)]
    _write_csv(folder / "confusion_matrix.csv", [("true \\ predicted", *labels), *counts])
    if not true:  # scikit-learn raises an exception when there is nothing to report
        return
    options: dict[str, Any] = {"labels": range(len(labels)), "zero_division": 0}
    names = [f"{label} (class)" if label in _AVERAGES else label for label in labels]
    report = classification_report(true, predicted, target_names=names, output_dict=True, **options)
    (folder / "classification_report.json").write_text(json.dumps(report, indent=2))
    names = [shorten(name, 60) for name in names]
    text = classification_report(true, predicted, target_names=names, digits=4, **options)
    (folder / "classification_report.txt").write_text(text, encoding="utf-8")


def count_pairs(data: Data) -> np.ndarray:
    """Return the confusion matrix as counts, int64 [C, C]: rows are true classes, columns predicted ones."""
    classes = len(data["labels"])
    pairs = np.array(data["true"], np.int64) * classes + np.array(data["predicted"], np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _write_csv(path: pathlib.Path, rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        cells = ([csv_cells.escape(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
        csv.writer(file, lineterminator="\n").writerows(cells)
