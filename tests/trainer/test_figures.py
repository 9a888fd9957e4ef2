"""The figures of the report, drawn without a training."""

import pathlib

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from graftline.trainer import figures, report_text
from tests import images
from tests.trainer.phase_results import TWO_PHASES, phase_result


def test_the_curves_are_the_history_on_one_axis() -> None:
    axes = Figure().subplots()
    figures._curves(axes, [*TWO_PHASES, phase_result("more", [0.9], 0, kept=False)], "loss")
    lines = {str(line.get_label()): np.asarray(line.get_xdata()).tolist() for line in axes.lines}
    drawn = [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in axes.lines]
    first, second = (phase["history"] for phase in TWO_PHASES)
    assert ([1, 2, 3, 4], first["loss"]) in drawn and ([1, 2, 3, 4], first["val_loss"]) in drawn
    assert ([5, 6], second["loss"]) in drawn and ([5, 6], second["val_loss"]) in drawn
    assert ([3], [0.5]) in drawn and ([6], [0.40]) in drawn  # the epochs whose weights were kept
    assert lines["start of phase 2"] == [4.5, 4.5]
    assert {name for name in lines if not name.startswith("_")} == {
        *("train split", "eval split", "epoch whose weights were kept", "start of phase 2", "start of phase 3")
    }


def test_the_epoch_whose_weights_were_kept() -> None:
    assert figures.kept_epoch(TWO_PHASES[0]) == 3
    assert figures.kept_epoch(phase_result("x", [0.5, 0.5], 1)) == 2  # the accuracy decides
    assert figures.kept_epoch(phase_result("x", [0.5, 0.4], 1, kept=False)) is None
    assert figures.kept_epoch({**phase_result("x", [0.5, 0.4], 1), "val_loss": None}) is None


@pytest.mark.parametrize("values", [[], [None, None]])
def test_curves_without_a_finite_value_say_so(values: list[None]) -> None:
    axes = Figure().subplots()
    phase = {**phase_result("x", [0.5, 0.5], 0, kept=False), "history": {"loss": values, "val_loss": values}}
    figures._curves(axes, [phase], "loss")
    assert [text.get_text() for text in axes.texts] == ["no finite values"]


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("daisy", 24, "daisy"),
        ("$a_$", 24, "$a_$"),
        ("two\nlines", 24, "two\\nlines"),
        ("zero\u200bwidth", 24, "zerowidth"),
        ("0123456789", 7, "012…789"),
        ("日本語日本語", 7, "日…語"),
        ("\udcff.jpg", 24, "\\udcff.jpg"),
    ],
)
def test_names_in_one_line(text: str, width: int, expected: str) -> None:
    assert report_text.shorten(text, width) == expected


def test_names_as_the_fonts_can_draw_them() -> None:
    unknown = "\U000e0fff"  # not assigned, so no font has it
    names = report_text.class_names(["daisy", unknown * 2, "שלום עולם x", "٤٢"], 24)
    assert names == ["daisy", "#1 □□", "םלוע םולש x", "٤٢"]


@pytest.mark.parametrize("orientation", [1, 6])
def test_tiles_are_upright(tmp_path: pathlib.Path, orientation: int) -> None:
    stored = Image.new("RGB", (600, 300), "blue")
    stored.paste("red", (0, 0, 300, 300))
    (tmp_path / "photo").write_bytes(images.encode(stored, orientation=orientation))
    tile = figures.thumbnail(tmp_path / "photo")
    # Orientation 6 shows the stored left side at the top.
    assert tile.size == ((240, 120) if orientation == 1 else (120, 240))
    red, _, blue = tile.getpixel((20, 20))  # type: ignore[misc]
    assert red > 200 > 50 > blue
    red, _, blue = tile.getpixel((tile.width - 20, tile.height - 20))  # type: ignore[misc]
    assert blue > 200 > 50 > red
