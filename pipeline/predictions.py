"""Rows of predictions as text, JSON or CSV, written as they come; the progress bar of `graftline predict`.

Used by the command line and by `pipeline.bulk`, so that both write the same rows.
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

from graftline.errors import UserError
from graftline.jsonable import to_json
from graftline.signatures import TOP_K
from graftline.uri import is_uri

if TYPE_CHECKING:
    from graftline.serving.client import Prediction

# The best one is in label and score; fewer classes leave columns empty.
CSV_COLUMNS = (
    *("path", "label", "score"),
    *(f"{what}_{place}" for place in range(2, TOP_K + 1) for what in ("label", "score")),
    "error",
)


def json_row(found: "Prediction") -> str:
    """{path, label, score, top_k}, or {path, error}. A file's name that is no UTF-8 is there as os.fsdecode has it."""
    if found.error is not None:
        return to_json({"path": found.path, "error": found.error})
    top_k = [{"label": label, "score": score} for label, score in found.top_k]
    return to_json({"path": found.path, "label": found.label, "score": found.score, "top_k": top_k})


def csv_row(found: "Prediction") -> str:
    """One line, without its end, of CSV_COLUMNS. Control characters of a file's name are escaped."""
    values: list[Any] = [_shown(found.path), _shown(found.label or ""), _number(found.score)]
    for label, score in found.top_k[1:TOP_K]:
        values += [_shown(label), _number(score)]
    values += [""] * (len(CSV_COLUMNS) - 1 - len(values))
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([*values, _shown(found.error or "")])
    return line.getvalue()


def _number(score: float | None) -> str:
    return "" if score is None or not math.isfinite(score) else repr(score)


def text_row(found: "Prediction") -> str:
    """One line for a person, without its end."""
    if found.error is not None:
        return f"{_shown(found.path)}: {_shown(found.error)}"
    others = ", ".join(f"{_shown(label)} {score:.3f}" for label, score in found.top_k[1:3])
    return f"{_shown(found.path)}: {_shown(found.label or '')} {found.score:.3f}" + (f"  ({others})" if others else "")


def _shown(text: str) -> str:
    from graftline.components.storage.files import escape

    return escape(text)


def write(
    rows: Iterable["Prediction"], kind: str, out: Callable[[str], object], err: Callable[[str], object]
) -> tuple[int, int]:
    """Write rows as they come; how many were without an error, and how many with one.

    Args:
      rows: what to write.
      kind: "text" (failures go to `err`), "json" (one list) or "csv" (with a line of column names).
      out: takes text, ends of lines included.
      err: takes a line without its end.
    """
    good = bad = 0
    if kind == "csv":
        out(",".join(CSV_COLUMNS) + "\n")
    between = "["
    for found in rows:
        good += found.error is None
        bad += found.error is not None
        if kind == "json":
            out(between + json_row(found))
            between = ", "
        elif kind == "csv":
            out(csv_row(found) + "\n")
        elif found.error is None:
            out(text_row(found) + "\n")
        else:
            err(text_row(found))
    if kind == "json":
        out("[]\n" if between == "[" else "]\n")
    return good, bad


def refuse_unwritable(prefix: str) -> None:
    """Raises UserError where files whose names begin so cannot be written; URIs are left to those who open them."""
    if is_uri(prefix):
        return
    folder = os.path.dirname(os.path.abspath(prefix))
    while not os.path.lexists(folder):  # Beam makes what is missing
        folder = os.path.dirname(folder)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"-o {prefix} cannot be written: {error.strerror}; name another place") from error


@contextlib.contextmanager
def progress(
    rows: Iterable["Prediction"], count: Callable[[], int], out: IO[str]
) -> Iterator[tuple[Iterable["Prediction"], Callable[[str], object], Callable[[str], object]]]:
    """A bar on standard error where that is a terminal: the rows that move it, what to write to and to complain to.

    `count`, the number of rows in all, is asked in a thread, as it may have to walk a million files. Where `out` is the
    same terminal as the bar, rows go above it.
    """

    def put(text: str) -> None:
        out.write(text)
        out.flush()  # whoever reads along should not wait for a buffer to fill

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
    for found in rows:
        yield found
        advance()
