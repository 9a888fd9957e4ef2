"""Draws the report of a training run: `python -m graftline.trainer.figures FOLDER`.

`trainer.report` writes `FOLDER/inputs/` and starts this program, which runs while the model is exported. It imports no
TensorFlow. Every product appears in FOLDER when it is whole; one that fails is told on standard error, and the others
are still made. The exit status is then 1.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind people can tell apart.
"""

import csv
import functools
import io
import json
import math
import pathlib
import re
import sys
import traceback
import unicodedata
from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps
from sklearn.metrics import classification_report

_BLUE, _ORANGE, _GREY, _DARK = "#0072B2", "#D55E00", "#E4E4E4", "#333333"
_DPI = 150

# matplotlib's own font has Latin, Greek, Cyrillic, Arabic and Hebrew. Of these, those that are installed draw the rest.
_FALLBACK_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR", "WenQuanYi Micro Hei"),
    *("Hiragino Sans", "PingFang HK", "Apple SD Gothic Neo", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic"),
    *("Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Nirmala UI", "FreeSans"),
    *("Arial Unicode MS",),
)
# Hebrew, Arabic and their kin; Arabic digits run from left to right.
_RIGHT_TO_LEFT = "[\u0590-\u065f\u066a-\u06ef\u06fa-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]+"

# Names of scikit-learn's averages, which would hide a class of that name.
_AVERAGES = ("accuracy", "micro avg", "macro avg", "weighted avg")

Data = dict[str, Any]


def main(folder: pathlib.Path) -> int:
    """Makes every product of `folder`; returns the exit status."""
    _set_style()
    inputs = folder / "inputs"
    data = json.loads((inputs / "report.json").read_text())
    unfinished = inputs / "unfinished"
    unfinished.mkdir()
    status = 0
    for make in (tables, learning_curves, confusion_matrix, mistakes, model_overview):
        try:
            make(data, unfinished)
        except Exception:  # noqa: BLE001  one product that fails must not cost the others
            traceback.print_exc()
            status = 1
        else:
            for path in unfinished.iterdir():
                path.replace(folder / path.name)
    return status


def _set_style() -> None:
    matplotlib.rcdefaults()  # the user's own style may ask for LaTeX
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
            "savefig.dpi": _DPI,
        }
    )


# --- text ---


def one_line(text: str) -> str:
    """`text` with its control characters escaped and its invisible ones left out."""

    def shown(character: str) -> str:
        kind = unicodedata.category(character)
        if kind == "Cf":
            return ""
        return character.encode("unicode_escape").decode() if kind in ("Cc", "Zl", "Zp", "Cs") else character

    return "".join(map(shown, text))


def shorten(text: str, width: int) -> str:
    """`text` in one line of `width` columns at most, its middle left out; a character of East Asia takes two."""
    text = one_line(text)
    if _columns(text) <= width:
        return text
    head, tail = text, text
    while _columns(head) > (width - 1) - (width - 1) // 2:
        head = head[:-1]
    while _columns(tail) > (width - 1) // 2:
        tail = tail[1:]
    return f"{head}…{tail}"


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


@functools.cache
def _has_glyph(character: str) -> bool:
    return character.isspace() or any(ord(character) in glyphs for glyphs in _charmaps())


@functools.cache
def _charmaps() -> list[dict[int, int]]:
    fonts = [font_manager.FontProperties(family=[family]) for family in matplotlib.rcParams["font.family"]]
    return [font_manager.get_font(font_manager.findfont(font)).get_charmap() for font in fonts]


def drawable(text: str, width: int) -> str:
    """`shorten`, as the fonts can draw it: □ for what has no glyph, and right-to-left words in the order of drawing.

    matplotlib puts glyphs from left to right in the order that they are given; it neither orders nor joins letters.
    """
    text = "".join(character if _has_glyph(character) else "□" for character in shorten(text, width))
    return re.sub(f"{_RIGHT_TO_LEFT}(?: {_RIGHT_TO_LEFT})*", lambda match: match[0][::-1], text)


def class_names(labels: list[str], width: int) -> list[str]:
    """Drawable names; one that the fonts lack glyphs for carries the index of its class, "#3 □□"."""
    return [
        drawable(label, width) if all(map(_has_glyph, one_line(label))) else f"#{index} {drawable(label, width - 4)}"
        for index, label in enumerate(labels)
    ]


# --- tables ---


def tables(data: Data, folder: pathlib.Path) -> None:
    """`predictions.csv`, `confusion_matrix.csv` and `classification_report.json` and `.txt`."""
    labels, true, predicted = data["labels"], data["true"], data["predicted"]
    scores = np.array(data["scores"], float)
    rows = zip(data["filenames"], true, predicted, scores, strict=True)
    _write_csv(
        folder / "predictions.csv",
        [
            ("filename", "label", "predicted", "score", "correct"),
            *((name, labels[is_], labels[said], score, str(is_ == said).lower()) for name, is_, said, score in rows),
        ],
    )
    matrix = _counts(data).tolist()
    _write_csv(
        folder / "confusion_matrix.csv",
        [("true \\ predicted", *labels), *([label, *row] for label, row in zip(labels, matrix, strict=True))],
    )
    if not true:  # nothing to report on, and scikit-learn says so by an exception
        return
    options: dict[str, Any] = {"labels": range(len(labels)), "zero_division": 0}
    names = [f"{label} (class)" if label in _AVERAGES else label for label in labels]
    report = classification_report(true, predicted, target_names=names, output_dict=True, **options)
    (folder / "classification_report.json").write_text(json.dumps(report, indent=2))
    names = [shorten(name, 60) for name in names]
    text = classification_report(true, predicted, target_names=names, digits=4, **options)
    (folder / "classification_report.txt").write_text(text, encoding="utf-8")


def _counts(data: Data) -> np.ndarray:
    """How often each class was taken for each, int64 [C, C]: rows are true, columns predicted."""
    classes = len(data["labels"])
    pairs = np.array(data["true"], np.int64) * classes + np.array(data["predicted"], np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _write_csv(path: pathlib.Path, rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


# --- learning curves ---


def learning_curves(data: Data, folder: pathlib.Path) -> None:
    """`learning_curves.png`: loss and accuracy over the epochs of all phases."""
    phases = data["phases"]
    figure = Figure(figsize=(9, 7), layout="constrained")
    figure.suptitle("Learning curves")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, log, title in zip(panels, ("loss", "accuracy"), ("Loss (cross-entropy)", "Accuracy"), strict=True):
        axes.set_ylabel(title)
        axes.grid(color="#DDDDDD", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        _curves(axes, phases, log)
    total = sum(phase["epochs"] for phase in phases)
    panels[0].set_xlim(0.5, max(total, 1) + 0.5)
    panels[1].set_xlabel("Epoch, counted over all phases")
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for number, (phase, side) in enumerate(zip(phases, ("left", "right"), strict=False), 1):
        came = "" if phase["kept"] else "; taken back, no epoch was better"
        header = f"{number}. {_spoken(phase['name'])}, ended: {phase['ended']}{came}"
        panels[0].set_title(header, loc=side, fontsize=9, fontweight="normal")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(folder / "learning_curves.png")


def _curves(axes: Axes, phases: list[Data], log: str) -> None:
    start = 0
    named: set[str] = set()

    def once(name: str) -> str:
        new = name not in named
        named.add(name)
        return name if new else "_"  # which the legend leaves out

    seen: list[np.ndarray] = []
    for number, phase in enumerate(phases):
        if number:
            axes.axvline(
                start + 0.5, color=_DARK, linewidth=1, linestyle="--", label=once(f"start of phase {number + 1}")
            )
        for split, key, colour in (("train", log, _BLUE), ("eval", f"val_{log}", _ORANGE)):
            values = _numbers(phase["history"].get(key, []))
            seen.append(values)
            axes.plot(
                start + 1 + np.arange(len(values)),
                values,
                color=colour,
                linewidth=1.8,
                linestyle="-" if split == "eval" else (0, (4, 1.5)),
                marker="o" if len(values) <= 40 else None,
                markersize=3.5,
                label=once(f"{split} split"),
            )
        epoch = kept_epoch(phase)
        if epoch is not None:
            axes.axvline(start + epoch, color="#777777", linewidth=0.8, linestyle=":", zorder=1)
            axes.plot(
                [start + epoch],
                _numbers(phase["history"][f"val_{log}"])[[epoch - 1]],
                linestyle="none",
                marker="o",
                markersize=12,
                markerfacecolor="none",
                markeredgecolor=_DARK,
                markeredgewidth=1.6,
                zorder=4,
                label=once("epoch whose weights were kept"),
            )
        start += phase["epochs"]
    if not np.isfinite(np.concatenate([np.zeros(0), *seen])).any():
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center", va="center", color=_DARK)


def kept_epoch(phase: Data) -> int | None:
    """The epoch, from 1, whose weights the phase ended with; None when it was taken back, or ended in NaN."""
    if not phase["kept"]:
        return None
    logs = phase["history"]
    pairs = list(zip(logs.get("val_loss", []), logs.get("val_accuracy", []), strict=False))
    best = (phase["val_loss"], phase["val_accuracy"])
    return pairs.index(best) + 1 if None not in best and best in pairs else None


def _numbers(values: list[float | None]) -> np.ndarray:
    return np.array(values, float)  # None, which JSON has for NaN and infinity, becomes NaN


def _spoken(name: str) -> str:
    return name.replace("_", " ").capitalize()


# --- confusion matrix ---


def confusion_matrix(data: Data, folder: pathlib.Path) -> None:
    """`confusion_matrix.png`: coloured by the share of the true class.

    Counts stand in the cells, and names on the axes, while they fit. Where names do not, the most frequent confusions
    are listed beside the matrix.
    """
    matrix, labels = _counts(data), data["labels"]
    classes, total = len(labels), int(matrix.sum())
    seen = matrix.sum(axis=1, keepdims=True)
    share: Any = np.ma.masked_array(matrix / np.maximum(seen, 1), np.broadcast_to(seen == 0, matrix.shape))
    side = min(max(0.5 * classes, 3.5), 12.0)  # inches
    cell = 72 * side / classes  # points
    named = cell >= 8
    figure = Figure(figsize=(side + (2.5 if named else 5), side + 1.8), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["Blues"].with_extremes(bad="#F0F0F0")
    # Where a cell is a few pixels wide a rare confusion is as good as white on a linear scale.
    norm = PowerNorm(1 if named else 0.4, 0, 1)
    image = axes.imshow(share, cmap=colours, norm=norm, interpolation="nearest")
    correct = f"{np.trace(matrix) / total:.2%} of {total:,} images are right" if total else "no images"
    axes.set_title(f"Confusion matrix on the eval split\n{correct}")
    axes.set_xlabel("Predicted class" if named else "Predicted class, by index")
    axes.set_ylabel("True class" if named else "True class, by index")
    bar = {"shrink": 0.7, "pad": 0.02} if named else {"shrink": 0.5, "location": "bottom", "aspect": 40}
    figure.colorbar(image, ax=axes, label="Share of the true class", **bar)
    if named:
        _name_ticks(axes, class_names(labels, 24), cell)
    else:
        listed = "\n".join(["Most frequent confusions", "", *_confusions(matrix, labels)])
        axes.text(1.03, 1, listed, transform=axes.transAxes, va="top", linespacing=1.6)
    digits = len(f"{matrix.max()}")
    size = min(11, cell / (0.75 * digits), cell * 0.6)
    if size >= 5:
        for row, column in np.argwhere(matrix):
            ink = "white" if share[row, column] > 0.55 else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", fontsize=size, color=ink)
    figure.savefig(folder / "confusion_matrix.png", bbox_inches="tight")


def _name_ticks(axes: Axes, names: list[str], cell: float) -> None:
    """Names on both axes, as large as a cell of `cell` points lets them be, and lines between the cells."""
    classes, size = len(names), min(10, cell * 0.8)
    axes.set_xticks(range(classes), names, fontsize=size)
    axes.set_yticks(range(classes), names, fontsize=size)
    if max(map(_columns, names)) * size * 0.65 > cell:
        slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if classes <= 12 else {"rotation": 90}
        for tick in axes.get_xticklabels():
            tick.set(**slanted)
    axes.set_xticks(np.arange(1, classes) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, classes) - 0.5, minor=True)
    axes.grid(which="minor", color="#E8E8E8", linewidth=1)
    axes.tick_params(which="minor", length=0)


def _confusions(matrix: np.ndarray, labels: list[str]) -> list[str]:
    """The 30 most frequent ones as text."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:30]
    pairs = [divmod(int(flat), len(labels)) for flat in order if wrong.flat[flat]]
    names = class_names(labels, 20)
    return [f"{wrong[row, column]:,} × {names[row]} → {names[column]}" for row, column in pairs] or ["none"]


# --- mistakes ---

_TILE, _GAP, _CAPTION, _HEADER, _COLUMNS = 240, 18, 62, 60, 6  # pixels, but for the columns
_SHEET_DPI = 120


def mistakes(data: Data, folder: pathlib.Path) -> None:
    """`mistakes.png`: the mistakes that the model was surest of, best first; without any, a picture that says so.

    A file that Pillow can't read gives a grey tile.
    """
    rows, names = data["mistakes"], class_names(data["labels"], 20)
    wrong = sum(is_ != said for is_, said in zip(data["true"], data["predicted"], strict=True))
    columns = min(max(len(rows), 3), _COLUMNS)
    lines = max(math.ceil(len(rows) / columns), 1)
    width = columns * (_TILE + _GAP) + _GAP
    height = _HEADER + (lines * (_TILE + _CAPTION + _GAP) if rows else _GAP)
    sheet = Image.new("RGB", (width, height), "white")
    figure = Figure(figsize=(width / _SHEET_DPI, height / _SHEET_DPI), dpi=_SHEET_DPI)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, va="top", **style)

    count = f"{wrong:,} of {len(data['true']):,} images of the eval split"
    title = f"No mistakes in {len(data['true']):,} images of the eval split"
    if rows:
        every = "all, the surest first" if len(rows) == wrong else f"the {len(rows)} surest"
        title = f"Mistakes: {count}; {every}"
    write(_GAP, _GAP, title, fontsize=11, fontweight="bold")
    for number, mistake in enumerate(rows):
        row = mistake["row"]
        x = _GAP + number % columns * (_TILE + _GAP)
        y = _HEADER + number // columns * (_TILE + _CAPTION + _GAP)
        tile = thumbnail(folder.parent / mistake["file"] if mistake["file"] else None)
        sheet.paste(tile, (x + (_TILE - tile.width) // 2, y + (_TILE - tile.height) // 2))
        score = data["scores"][row]
        write(x, y + _TILE + 5, drawable(data["filenames"][row], 34), fontsize=7, color="#666666")
        write(x, y + _TILE + 22, f"true: {names[data['true'][row]]}", fontsize=8, color=_BLUE)
        said = f"said: {names[data['predicted'][row]]}  {math.nan if score is None else score:.3f}"
        write(x, y + _TILE + 40, said, fontsize=8, color=_ORANGE)
    figure.figimage(np.asarray(sheet))
    figure.savefig(folder / "mistakes.png", dpi=_SHEET_DPI)


def thumbnail(path: pathlib.Path | None) -> Image.Image:
    """The image file upright, as RGB, with no side longer than a tile; a grey tile for what cannot be read."""
    try:
        if path is None:
            raise FileNotFoundError
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.draft("RGB", (_TILE, _TILE))  # decodes a large JPEG at a fraction of its size
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except Exception:  # noqa: BLE001  Pillow's decoders raise whatever a damaged file leads them to
        return Image.new("RGB", (_TILE, _TILE), "#BBBBBB")
    return ImageOps.contain(upright, (_TILE, _TILE))


# --- the model ---


def model_overview(data: Data, folder: pathlib.Path) -> None:
    """`model.png`: the model as a row of boxes, coloured by the phases that train them."""
    boxes = _boxes(data["model"])
    width, gap, height, above, below = 2.0, 0.45, 1.35, 0.6, 0.65  # inches
    size = (len(boxes) * (width + gap) + gap, below + height + above)
    figure = Figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, size[0]), ylim=(-below, height + above))
    axes.set_axis_off()
    for number, (title, lines, colour) in enumerate(boxes):
        left = gap + number * (width + gap)
        dashed = colour is None
        axes.add_patch(
            FancyBboxPatch(
                (left, 0),
                width,
                height,
                boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=colour or "white",
                edgecolor="#666666",
                linestyle="--" if dashed else "-",
            )
        )
        ink = "white" if colour in (_BLUE, _ORANGE) else "black"
        middle = left + width / 2
        axes.text(middle, height - 0.15, drawable(title, 24), ha="center", va="top", fontweight="bold", color=ink)
        body = "\n".join(drawable(line, 27) for line in lines)
        axes.text(middle, height - 0.45, body, ha="center", va="top", fontsize=8.5, color=ink, linespacing=1.5)
        if number:
            arrow = ((left - gap + 0.04, height / 2), (left - 0.04, height / 2))
            axes.add_patch(FancyArrowPatch(*arrow, arrowstyle="-|>", mutation_scale=14, color=_DARK))
    phases = [_spoken(phase["name"]).lower() for phase in data["phases"]]
    used = {colour for _, _, colour in boxes}
    keys = {_GREY: "frozen", _ORANGE: f"trained in {phases[-1]}", _BLUE: f"trained in {' and '.join(phases)}"}
    handles = [Patch(facecolor=key, edgecolor="#666666", label=text) for key, text in keys.items() if key in used]
    axes.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
    figure.text(0.5, 0.96, "The model and what trains it", ha="center", va="top", fontsize=13, fontweight="bold")
    figure.savefig(folder / "model.png")


def _boxes(model: Data) -> list[tuple[str, list[str], str | None]]:
    """Title, lines and colour of each box; None is a tensor that is computed once."""
    trunk, boundary, unfrozen = model["trunk"], model["boundary"], model["unfrozen"]
    boxes: list[tuple[str, list[str], str | None]] = [("Input", ["pixels", _shape(model["input"])], "white")]
    if trunk["layers"]:
        boxes.append(("Frozen trunk", [trunk["name"], *_amount(trunk)], _GREY))
    if boundary:
        boxes.append(("Boundary", [boundary["layer"], _shape(boundary["shape"]), "computed once"], None))
    if unfrozen:
        trained = [f"trained: {unfrozen['trained_layers']:,} layers,", f"{unfrozen['trained_parameters']:,} parameters"]
        boxes.append(("Upper trunk", [*_amount(unfrozen), *trained], _ORANGE))
    boxes.append(("Pooling", [model["pooling"]["kind"], _shape(model["pooling"]["shape"])], "white"))
    before: list[str] = []
    for layer in model["head"]:
        if not layer["parameters"]:
            before.append(f"{layer['kind']} {layer['rate']:g}" if layer["rate"] is not None else layer["kind"])
            continue
        boxes.append((layer["name"], [*before, f"{layer['kind']} {_shape(layer['shape'])}", _parameters(layer)], _BLUE))
        before = []
    return boxes


def _amount(part: Data) -> list[str]:
    return [f"{part['layers']:,} layers", _parameters(part)]


def _parameters(part: Data) -> str:
    return f"{part['parameters']:,} parameters"


def _shape(shape: list[int | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
