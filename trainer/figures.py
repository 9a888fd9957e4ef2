"""Draws the report of a training run; the program `graftline.trainer.figures FOLDER`.

`trainer.report` writes `FOLDER/inputs/` and starts this program, which runs while the model is exported. It imports no
TensorFlow. Every product appears in FOLDER when it is complete. When one fails, standard error says why, the others are
still made, and the exit status is 1.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind people can tell apart.
"""

import io
import json
import math
import pathlib
import sys
import traceback
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps

from graftline.trainer.report_text import Data, class_names, columns, count_pairs, drawable, tables, use_style

_BLUE, _ORANGE, _GREY, _DARK = "#0072B2", "#D55E00", "#E4E4E4", "#333333"


def main(folder: pathlib.Path) -> int:
    """Make every product of `folder` and return the exit status."""
    use_style()
    inputs = folder / "inputs"
    data = json.loads((inputs / "report.json").read_text())
    unfinished = inputs / "unfinished"
    unfinished.mkdir()
    status = 0
    for make in (tables, learning_curves, confusion_matrix, mistakes, model_overview):
        try:
            make(data, unfinished)
        except Exception:  # noqa: BLE001  the other products are still made
            traceback.print_exc()
            status = 1
        else:
            for path in unfinished.iterdir():
                path.replace(folder / path.name)
    return status


def learning_curves(data: Data, folder: pathlib.Path) -> None:
    """Draw `learning_curves.png`: loss and accuracy over the epochs of all phases."""
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
        discarded = "" if phase["kept"] else "; weights discarded, no epoch was better"
        header = f"{number}. {_phase_title(phase['name'])}, ended: {phase['ended']}{discarded}"
        panels[0].set_title(header, loc=side, fontsize=9, fontweight="normal")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(folder / "learning_curves.png")


def _curves(axes: Axes, phases: list[Data], log: str) -> None:
    start = 0
    legend: set[str] = set()

    def once(name: str) -> str:
        new = name not in legend
        legend.add(name)
        return name if new else "_"  # the legend leaves out names with an underscore

    drawn_values: list[np.ndarray] = []
    for number, phase in enumerate(phases):
        if number:
            axes.axvline(
                start + 0.5, color=_DARK, linewidth=1, linestyle="--", label=once(f"start of phase {number + 1}")
            )
        for split, key, colour in (("train", log, _BLUE), ("eval", f"val_{log}", _ORANGE)):
            values = _numbers(phase["history"].get(key, []))
            drawn_values.append(values)
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
    if not np.isfinite(np.concatenate([np.zeros(0), *drawn_values])).any():
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center", va="center", color=_DARK)


def kept_epoch(phase: Data) -> int | None:
    """Return the epoch, from 1, whose weights were kept; None when they were discarded or the loss was NaN."""
    if not phase["kept"]:
        return None
    logs = phase["history"]
    pairs = list(zip(logs.get("val_loss", []), logs.get("val_accuracy", []), strict=False))
    best = (phase["val_loss"], phase["val_accuracy"])
    return pairs.index(best) + 1 if None not in best and best in pairs else None


def _numbers(values: list[float | None]) -> np.ndarray:
    return np.array(values, float)  # None, which JSON has for NaN and infinity, becomes NaN


def _phase_title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def confusion_matrix(data: Data, folder: pathlib.Path) -> None:
    """Draw `confusion_matrix.png`, coloured by the share of the true class.

    The cells hold counts and the axes names, as far as they fit. Where names do not fit, a list next to the matrix has
    the most frequent confusions.
    """
    matrix, labels = count_pairs(data), data["labels"]
    classes, total = len(labels), int(matrix.sum())
    images = matrix.sum(axis=1, keepdims=True)
    share: Any = np.ma.masked_array(matrix / np.maximum(images, 1), np.broadcast_to(images == 0, matrix.shape))
    side = min(max(0.5 * classes, 3.5), 12.0)  # inches
    cell = 72 * side / classes  # points
    names_fit = cell >= 8
    figure = Figure(figsize=(side + (2.5 if names_fit else 5), side + 1.8), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["Blues"].with_extremes(bad="#F0F0F0")
    # On a linear scale a rare confusion in a cell of a few pixels would look white.
    norm = PowerNorm(1 if names_fit else 0.4, 0, 1)
    image = axes.imshow(share, cmap=colours, norm=norm, interpolation="nearest")
    correct = f"{np.trace(matrix) / total:.2%} of {total:,} images are right" if total else "no images"
    axes.set_title(f"Confusion matrix on the eval split\n{correct}")
    axes.set_xlabel("Predicted class" if names_fit else "Predicted class, by index")
    axes.set_ylabel("True class" if names_fit else "True class, by index")
    bar = {"shrink": 0.7, "pad": 0.02} if names_fit else {"shrink": 0.5, "location": "bottom", "aspect": 40}
    figure.colorbar(image, ax=axes, label="Share of the true class", **bar)
    if names_fit:
        _name_ticks(axes, class_names(labels, 24), cell)
    else:
        confusions = "\n".join(["Most frequent confusions", "", *_confusions(matrix, labels)])
        axes.text(1.03, 1, confusions, transform=axes.transAxes, va="top", linespacing=1.6)
    digits = len(f"{matrix.max()}")
    size = min(11, cell / (0.75 * digits), cell * 0.6)
    if size >= 5:
        for row, column in np.argwhere(matrix):
            ink = "white" if share[row, column] > 0.55 else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", fontsize=size, color=ink)
    figure.savefig(folder / "confusion_matrix.png", bbox_inches="tight")


def _name_ticks(axes: Axes, names: list[str], cell: float) -> None:
    """Write names on both axes, as large as a cell of `cell` points allows, and draw lines between the cells."""
    classes, size = len(names), min(10, cell * 0.8)
    axes.set_xticks(range(classes), names, fontsize=size)
    axes.set_yticks(range(classes), names, fontsize=size)
    if max(map(columns, names)) * size * 0.65 > cell:
        slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if classes <= 12 else {"rotation": 90}
        for tick in axes.get_xticklabels():
            tick.set(**slanted)
    axes.set_xticks(np.arange(1, classes) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, classes) - 0.5, minor=True)
    axes.grid(which="minor", color="#E8E8E8", linewidth=1)
    axes.tick_params(which="minor", length=0)


def _confusions(matrix: np.ndarray, labels: list[str]) -> list[str]:
    """Return the 30 most frequent confusions as text."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:30]
    pairs = [divmod(int(flat), len(labels)) for flat in order if wrong.flat[flat]]
    names = class_names(labels, 20)
    return [f"{wrong[row, column]:,} × {names[row]} → {names[column]}" for row, column in pairs] or ["none"]


_TILE, _GAP, _CAPTION, _HEADER, _COLUMNS = 240, 18, 62, 60, 6  # pixels, except the columns
_SHEET_DPI = 120


def mistakes(data: Data, folder: pathlib.Path) -> None:
    """Draw `mistakes.png`: the mistakes with the highest scores; a sentence when there are none.

    A file that Pillow cannot read becomes a grey tile.
    """
    rows, names = data["mistakes"], class_names(data["labels"], 20)
    wrong = sum(label != guess for label, guess in zip(data["true"], data["predicted"], strict=True))
    per_line = min(max(len(rows), 3), _COLUMNS)
    lines = max(math.ceil(len(rows) / per_line), 1)
    width = per_line * (_TILE + _GAP) + _GAP
    height = _HEADER + (lines * (_TILE + _CAPTION + _GAP) if rows else _GAP)
    sheet = Image.new("RGB", (width, height), "white")
    figure = Figure(figsize=(width / _SHEET_DPI, height / _SHEET_DPI), dpi=_SHEET_DPI)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, va="top", **style)

    count = f"{wrong:,} of {len(data['true']):,} images of the eval split"
    title = f"No mistakes in {len(data['true']):,} images of the eval split"
    if rows:
        selection = "all, highest score first" if len(rows) == wrong else f"the {len(rows)} with the highest scores"
        title = f"Mistakes: {count}; {selection}"
    write(_GAP, _GAP, title, fontsize=11, fontweight="bold")
    for number, mistake in enumerate(rows):
        row = mistake["row"]
        x = _GAP + number % per_line * (_TILE + _GAP)
        y = _HEADER + number // per_line * (_TILE + _CAPTION + _GAP)
        tile = thumbnail(folder.parent / mistake["file"] if mistake["file"] else None)
        sheet.paste(tile, (x + (_TILE - tile.width) // 2, y + (_TILE - tile.height) // 2))
        score = data["scores"][row]
        write(x, y + _TILE + 5, drawable(data["filenames"][row], 34), fontsize=7, color="#666666")
        write(x, y + _TILE + 22, f"true: {names[data['true'][row]]}", fontsize=8, color=_BLUE)
        answer = f"predicted: {names[data['predicted'][row]]}  {math.nan if score is None else score:.3f}"
        write(x, y + _TILE + 40, answer, fontsize=8, color=_ORANGE)
    figure.figimage(np.asarray(sheet))
    figure.savefig(folder / "mistakes.png", dpi=_SHEET_DPI)


def thumbnail(path: pathlib.Path | None) -> Image.Image:
    """Return the image file upright, as RGB, with no side longer than a tile; a grey tile when it cannot be read."""
    try:
        if path is None:
            raise FileNotFoundError
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.draft("RGB", (_TILE, _TILE))  # decodes a large JPEG at a fraction of its size
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except Exception:  # noqa: BLE001  Pillow's decoders raise exceptions of any kind for a damaged file
        return Image.new("RGB", (_TILE, _TILE), "#BBBBBB")
    return ImageOps.contain(upright, (_TILE, _TILE))


def model_overview(data: Data, folder: pathlib.Path) -> None:
    """Draw `model.png`: the model as a row of boxes, coloured by the phases that train them."""
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
    phases = [_phase_title(phase["name"]).lower() for phase in data["phases"]]
    used = {colour for _, _, colour in boxes}
    keys = {_GREY: "frozen", _ORANGE: f"trained in {phases[-1]}", _BLUE: f"trained in {' and '.join(phases)}"}
    handles = [Patch(facecolor=key, edgecolor="#666666", label=text) for key, text in keys.items() if key in used]
    axes.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
    figure.text(0.5, 0.96, "The model and what trains it", ha="center", va="top", fontsize=13, fontweight="bold")
    figure.savefig(folder / "model.png")


# Layers of the head that make one vector of feature maps.
_POOLING = ("GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten")


def _boxes(model: Data) -> list[tuple[str, list[str], str | None]]:
    """Return title, lines and colour of each box; the colour is None for a tensor that is computed once."""
    trunk, boundary, unfrozen = model["trunk"], model["boundary"], model["unfrozen"]
    boxes: list[tuple[str, list[str], str | None]] = [("Input", ["pixels", _shape(model["input"])], "white")]
    if trunk["layers"]:
        boxes.append(("Frozen trunk", [trunk["name"], *_amount(trunk)], _GREY))
    if boundary:
        tensors = [line for tensor in boundary for line in (tensor["layer"], _shape(tensor["shape"]))]
        boxes.append(("Boundary", [*tensors, "computed once"], None))
    if unfrozen:
        trained = [f"trained: {unfrozen['trained_layers']:,} layers,", f"{unfrozen['trained_parameters']:,} parameters"]
        boxes.append(("Upper trunk", [*_amount(unfrozen), *trained], _ORANGE))
    without_weights: list[str] = []
    for layer in model["head"]:
        kind = f"{layer['kind']} {_shape(layer['shape'])}"
        if layer["parameters"]:
            boxes.append((layer["name"], [*without_weights, kind, _parameters(layer)], _BLUE))
            without_weights = []
        elif layer["kind"] in _POOLING:
            boxes.append(("Pooling", [*without_weights, layer["kind"], _shape(layer["shape"])], "white"))
            without_weights = []
        else:
            without_weights.append(f"{layer['kind']} {layer['rate']:g}" if layer["rate"] is not None else layer["kind"])
    return boxes


def _amount(part: Data) -> list[str]:
    return [f"{part['layers']:,} layers", _parameters(part)]


def _parameters(part: Data) -> str:
    return f"{part['parameters']:,} parameters"


def _shape(shape: list[int | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
