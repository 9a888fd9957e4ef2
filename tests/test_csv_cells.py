"""Cells that a spreadsheet would run, and their way back."""

import csv
import io

import pytest

from graftline import csv_cells
from graftline.pipeline import predictions
from graftline.serving.client import Prediction

FORMULAS = ["=1+1", '=HYPERLINK("http://x","y")', "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "＝1", "'=1", "''-x"]
PLAIN = ["", "cat", "a=b", "'quoted'", "' ", "5", "花", "''", " =x"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_formula_becomes_text(cell: str) -> None:
    assert csv_cells.escape(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", PLAIN)
def test_other_cells_stay(cell: str) -> None:
    assert csv_cells.escape(cell) == csv_cells.unescape(cell) == cell


@pytest.mark.parametrize("cell", [*FORMULAS, *PLAIN])
def test_the_way_back_is_exact(cell: str) -> None:
    assert csv_cells.unescape(csv_cells.escape(cell)) == cell


def test_names_and_errors_in_predictions_are_escaped() -> None:
    row = Prediction("-x.jpg", "=cmd", 0.5, [("=cmd", 0.5), ("@b", 0.25)])
    assert next(csv.reader([predictions.csv_row(row)]))[:5] == ["'-x.jpg", "'=cmd", "0.5", "'@b", "0.25"]
    failed = Prediction("a.jpg", None, None, [], "=error")
    assert next(csv.reader(io.StringIO(predictions.csv_row(failed))))[-1] == "'=error"
