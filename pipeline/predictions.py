"""Rows of predictions as text, JSON or CSV, written one by one; the progress bar of `graftline predict`.

The command line and `pipeline.bulk` use it, so that both write the same rows.
"""

import contextlib
import csv
import io
import math
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

from graftline import csv_cells, patterns
from graftline.errors import UserError
from graftline.jsonable import to_json
from graftline.signatures import TOP_K
from graftline.uri import is_uri

if TYPE_CHECKING:
    from graftline.serving.client import Prediction

# The best class is in label and score. With fewer than TOP_K classes the last columns stay empty.
CSV_COLUMNS = (
    *("path", "label", "score"),
    *(f"{what}_{place}" for place in range(2, TOP_K + 1) for what in ("label", "score")),
    "error",
)


def json_row(prediction: "Prediction") -> str:
    """Return {path, label, score, top_k} or {path, error}. A path that is no UTF-8 is as os.fsdecode gives it."""
    if prediction.error is not None:
        return to_json({"path": prediction.path, "error": prediction.error})
    top_k = [{"label": label, "score": score} for label, score in prediction.top_k]
    return to_json({"path": prediction.path, "label": prediction.label, "score": prediction.score, "top_k": top_k})


def csv_row(prediction: "Prediction") -> str:
    """Return one line of CSV_COLUMNS without its end. Control characters in a path, and formulas, are escaped."""

    def cell(text: str) -> str:
        return csv_cells.escape(_escaped(text))

    values: list[Any] = [cell(prediction.path), cell(prediction.label or ""), _number(prediction.score)]
    for label, score in prediction.top_k[1:TOP_K]:
        values += [cell(label), _number(score)]
    values += [""] * (len(CSV_COLUMNS) - 1 - len(values))
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([*values, cell(prediction.error or "")])
    return line.getvalue()


def _number(score: float | None) -> str:
    return "" if score is None or not math.isfinite(score) else repr(score)


def text_row(prediction: "Prediction") -> str:
    """Return one line of text for a user, without its end."""
    if prediction.error is not None:
        return f"{_escaped(prediction.path)}: {_escaped(prediction.error)}"
    others = ", ".join(f"{_escaped(label)} {score:.3f}" for label, score in prediction.top_k[1:3])
    best = f"{_escaped(prediction.path)}: {_escaped(prediction.label or '')} {prediction.score:.3f}"
    return f"{best}  ({others})" if others else best


def _escaped(text: str) -> str:
    from graftline.components.storage.files import escape

    return escape(text)


def write(
    rows: Iterable["Prediction"], kind: str, out: Callable[[str], object], err: Callable[[str], object]
) -> tuple[int, int]:
    """Write each row at once; return the number of rows without an error, and of those with one.

    `kind` is "text" (failures go to `err`), "json" (one list) or "csv" (with a line of column names). `out` takes text,
    line ends included; `err` takes a line without its end.
    """
    good = bad = 0
    if kind == "csv":
        out(",".join(CSV_COLUMNS) + "\n")
    between = "["
    for prediction in rows:
        good += prediction.error is None
        bad += prediction.error is not None
        if kind == "json":
            out(between + json_row(prediction))
            between = ", "
        elif kind == "csv":
            out(csv_row(prediction) + "\n")
        elif prediction.error is None:
            out(text_row(prediction) + "\n")
        else:
            err(text_row(prediction))
    if kind == "json":
        out("[]\n" if between == "[" else "]\n")
    return good, bad


def refuse_unwritable(prefix: str) -> None:
    """Raise UserError if Beam cannot write files with this prefix. A URI's file system is not tried."""
    if trouble := patterns.fault(prefix if is_uri(prefix) else os.path.abspath(prefix)):
        raise UserError(f"-o {prefix}: its path holds {trouble} for Beam; give another prefix")
    if is_uri(prefix):
        return
    folder = os.path.dirname(os.path.abspath(prefix))
    while not os.path.lexists(folder):  # Beam makes what is missing
        folder = os.path.dirname(folder)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"-o {prefix} cannot be written: {error.strerror}; give another prefix") from error


@contextlib.contextmanager
def progress(
    rows: Iterable["Prediction"], count: Callable[[], int], out: IO[str]
) -> Iterator[tuple[Iterable["Prediction"], Callable[[str], object], Callable[[str], object]]]:
    """Show a progress bar on standard error if it is a terminal.

    `count` returns the number of rows. It is called in a thread: it may have to list a million files. If `out` is the
    same terminal as the bar, the rows are written above the bar.

    Yields:
      The rows, which move the bar; a function that writes text to `out`; one that writes a line to standard error.
    """

    def put(text: str) -> None:
        out.write(text)
        out.flush()  # a reader of the output must not wait until a buffer is full

    if not sys.stderr.isatty():
        yield rows, put, lambda line: sys.stderr.write(line + "\n")
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)

    def above(text: str) -> None:
        console.print(text, end="", soft_wrap=True, markup=False, highlight=False, emoji=False)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("classified", total=None)
        threading.Thread(target=lambda: bar.update(task, total=count()), daemon=True).start()
        shared = out.isatty() and os.ttyname(out.fileno()) == os.ttyname(sys.stderr.fileno())
        yield _moving(rows, lambda: bar.advance(task)), above if shared else put, lambda line: above(line + "\n")


def _moving(rows: Iterable["Prediction"], advance: Callable[[], object]) -> Iterator["Prediction"]:
    for row in rows:
        yield row
        advance()
