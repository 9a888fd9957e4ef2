"""What a user sees of a run: the progress by stage and the summary at the end, but no output of TFX.

`captured` sends everything that the process and its children write into the run's log file. `Progress` and `summary`
write for the user. Imports no TFX and no TensorFlow.
"""

import contextlib
import ctypes
import functools
import logging
import math
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from graftline import masking, streams
from graftline.components.evaluator import failures, sentences
from graftline.pipeline.run_summary import RunSummary
from graftline.workspace import Workspace

PREPARING = "Preparing"  # the stage before the first node; most of it is the import of TFX
_FEW_IMAGES = 30  # with fewer to judge by, one image is more than 3 points of accuracy
_WIDTH = 20  # columns for the name of a node; the longest is "ServingValidator"


@dataclass(frozen=True)
class Event:
    """A node of the DAG started, or ended after `seconds`; `detail` says what it did in a few words."""

    node: str
    state: Literal["started", "finished", "cached", "failed", "stopped"]
    seconds: float
    detail: str = ""


def seconds_text(seconds: float) -> str:
    """Return a text such as `0.3 s`, `41 s` or `3 min 05 s`: as precise as a reader needs."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"


class Progress:
    """Shows events on `stream`: with a spinner on a terminal, line by line elsewhere. Call it with each event.

    As a context manager it also shows the time before the first node as a stage.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream
        self._console = Console(file=stream, highlight=False)
        self._live: Live | None = None
        self._open: str | None = None  # the stage whose line was started
        self._began = 0.0

    def __enter__(self) -> "Progress":
        """Start the stage PREPARING."""
        self._start(PREPARING)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the current stage, as failed if there is an exception, and as stopped after Ctrl-C."""
        if self._open is not None:
            state = "finished" if kind is None else "stopped" if issubclass(kind, KeyboardInterrupt) else "failed"
            self._end(self._open, state, time.monotonic() - self._began, "")

    def __call__(self, event: Event) -> None:
        """Show one event. A runner calls the object for each event."""
        if self._open is not None and self._open != event.node:  # PREPARING, or a node without an event for its end
            self._end(self._open, "finished", time.monotonic() - self._began, "")
        if event.state == "started":
            self._start(event.node)
        else:
            self._end(event.node, event.state, event.seconds, event.detail)

    def _start(self, node: str) -> None:
        if self._open == node:
            return
        self._open, self._began = node, time.monotonic()
        if self._console.is_terminal:
            # Live's own redirection would show the output of TFX on the screen.
            spinner = Spinner("dots", text=Text(f"{node} …"))
            options: Any = {"transient": True, "redirect_stdout": False, "redirect_stderr": False}
            self._live = Live(spinner, console=self._console, **options)
            self._live.start()
        else:
            self._stream.write(f"{node:<{_WIDTH}}… ")
            self._stream.flush()

    def _end(self, node: str, state: str, seconds: float, detail: str) -> None:
        took = seconds_text(seconds)
        words = {"finished": took, "cached": "from the cache", "failed": f"FAILED after {took}"}
        words |= {"stopped": f"stopped after {took}"}
        tail = f"{words[state]}, {detail}" if detail else words[state]
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._console.is_terminal:
            marks = {"finished": ("✓", "green"), "cached": ("✓", "dim"), "failed": ("✗", "bold red")}
            mark, style = marks.get(state, ("✗", "bold"))
            ended = (tail, style if state != "finished" else "")
            self._console.print(Text.assemble((mark, style), f" {node:<{_WIDTH}}", ended))
        else:
            begun = "" if self._open == node else f"{node:<{_WIDTH}}… "
            self._stream.write(f"{begun}{tail}\n")
            self._stream.flush()
        self._open = None


# --- the summary ------------------------------------------------------------------------------------------------------


def summary(run: RunSummary, workspace: str) -> str:
    """Return a text that says what a run did: data, training, gate, push, times, and the next command."""
    judged = [*_serving(run), *_gate(run), *_pushed(run)]
    return "\n".join([*_data(run), *_training(run), *judged, *_times(run), *_next(run, workspace)])


def _row(name: str, text: str) -> str:
    return f"{name:<12}{text}"


def _data(run: RunSummary) -> Iterator[str]:
    classes = f" of {len(run.classes)} classes ({_few(run.classes)})" if run.classes else ""
    yield _row("Images", f"{run.examples:,} stored{classes}")
    if run.splits:
        test = f", {run.splits['test']:,} to test on" if "test" in run.splits else ""
        yield _row("", f"{run.splits['train']:,} to train on, {run.splits['eval']:,} to evaluate on{test}")
        if run.splits[_judged_on(run)] < _FEW_IMAGES:
            yield _row("", f"WARNING: an accuracy measured on only {run.splits[_judged_on(run)]} images is imprecise")
    if run.conflicts:
        yield _row("", f"WARNING: the same picture is in several classes ({run.conflicts:,} such pictures)")
    if run.near_conflicts:
        yield _row("", f"WARNING: near copies of a picture are in several classes ({run.near_conflicts:,} such groups)")
    if run.leaks:
        yield _row("", f"WARNING: images that belong together are in several splits ({run.leaks:,} such groups)")
    if run.near_copies:
        yield _row("", f"{run.near_copies:,} are near copies of one another")
    if run.copies_file and (run.conflicts or run.near_conflicts or run.leaks or run.near_copies):
        yield _row("", f"these pictures are shown in {run.copies_file}")
    for warning in run.data_warnings:
        yield _row("", f"WARNING: {warning}")
    if run.duplicates:
        yield _row("", f"{run.duplicates:,} left out: same content as another file")
    for finding in run.data_findings:
        yield _row("", f"WARNING: {finding.check.replace('_', ' ')}: {finding.message}")
    if run.quarantined:
        reasons = f"; the reasons are in {run.quarantine_file}" if run.quarantine_file else ""
        yield _row("", f"{run.quarantined:,} left out: not readable as images{reasons}")


def _judged_on(run: RunSummary) -> str:
    """Return the split that the gate judges by."""
    return "test" if "test" in run.splits else "eval"


def _few(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


_ENDED = {
    "nan": "the loss was no longer a number",
    "optimum": "solved to the optimum",
    "max_iter": "the solver's iterations were over before the optimum",
}


def _training(run: RunSummary) -> Iterator[str]:
    for number, phase in enumerate(run.phases):
        epochs = f"{phase.epochs} epoch{'' if phase.epochs == 1 else 's'}"
        in_training = f"{phase.accuracy:.4f} in training, " if math.isfinite(phase.accuracy) else ""
        discarded = "" if phase.kept else "; no epoch was better than before; its weights were discarded"
        yield _row(
            "" if number else "Training",
            f"{phase.name}: {epochs}, accuracy {in_training}{phase.val_accuracy:.4f} on the eval split; "
            f"ended: {_ENDED.get(phase.ended, phase.ended)}{discarded}",
        )
    if run.activations.get("reused") and "Trainer" not in run.cached:
        computed, reused = run.activations["computed"], run.activations["reused"]
        yield _row("", f"frozen part of the trunk: computed for {computed:,} images, cached for {reused:,}")
    for note in run.training_notes if "Trainer" not in run.cached else ():
        yield _row("", note)
    if run.report_dir is not None:
        yield _row("", f"curves, confusion matrix and mistakes: {run.report_dir}")
    if run.transfer is not None:
        transfer, most = run.transfer, run.transfer["images_per_class"]
        if most == "all":
            images, other = f"on all {transfer['images']:,.0f} images", "from scratch, with every layer trained"
        else:
            images = f"on up to {most:,.0f} images of each class, {transfer['images']:,.0f} in all"
            other = "with a random trunk and the same settings"
        yield _row(
            "Transfer",
            f"{images}: accuracy {transfer['pretrained']:.4f} with the backbone's weights, "
            f"{transfer['random']:.4f} {other}",
        )


def _serving(run: RunSummary) -> Iterator[str]:
    """Yield what the serving validation measured; the checks of the gate say what failed."""
    measured = run.serving
    if measured.get("grpc_ms") is not None:
        memory = f", {measured['memory_mb']:,.0f} MB" if measured.get("memory_mb") else ""
        yield _row(
            "Serving",
            f"{measured['images']:,} images sent to a model server: answers within "
            f"{measured['largest_difference']:.1g} of the trained model's, {measured['grpc_ms']:.1f} ms over gRPC, "
            f"{measured['rest_ms']:.1f} ms over REST{memory}",
        )


def _gate(run: RunSummary) -> Iterator[str]:
    if run.accuracy is not None:
        interval = f" ({ends[0]:.4f} to {ends[1]:.4f})" if (ends := run.accuracy_interval) else ""
        served = "" if run.baseline_accuracy is None else f"; the served model has {run.baseline_accuracy:.4f}"
        if run.compared_accuracy is not None:  # both models are measured on fewer images
            served = f"; on the {run.compared_examples:,} images of classes that the served model also knows "
            served += f"{run.compared_accuracy:.4f}, and the served model {run.baseline_accuracy or 0:.4f}"
        yield _row("Evaluation", f"accuracy {run.accuracy:.4f}{interval} on the {_judged_on(run)} split{served}")
    for number, text in enumerate([*sentences(run.checks), *run.note.splitlines()]):
        yield _row("" if number else "Gate", text)
    if run.verdict_file is not None:
        yield _row("", f"the full verdict: {run.verdict_file}")


def _pushed(run: RunSummary) -> Iterator[str]:
    if not run.blessed:
        failed = failures(run.checks)
        because = f": {', '.join(failed)}" if failed else ""
        yield _row("Result", f"NOT BLESSED{because}. Nothing was pushed; the served model stays.")
    elif run.new_version:
        yield _row("Result", f"BLESSED. Pushed as version {run.pushed_version}: {run.pushed_path}")
    elif run.pushed_path is not None:
        place = f"version {run.pushed_version}: {run.pushed_path}"
        yield _row("Result", f"BLESSED. The same model is already served as {place}")
    else:
        yield _row("Result", f"BLESSED, but {run.push_refused or 'not pushed'}.")


def _times(run: RunSummary) -> Iterator[str]:
    if run.seconds:
        times = {node: "cached" if node in run.cached else seconds_text(took) for node, took in run.seconds.items()}
        stages = ", ".join(f"{node} {time}" for node, time in times.items())
        total = run.startup_seconds + sum(run.seconds.values())
        yield _row("Time", f"{seconds_text(total)} in all: start {seconds_text(run.startup_seconds)}, {stages}")


def _next(run: RunSummary, workspace: str) -> Iterator[str]:
    if run.pushed_path is not None:
        yield _row("Next", f"graftline serve {shlex.quote(workspace)}")
        yield _row("", f"graftline predict --model {shlex.quote(run.pushed_path)} IMAGE…")


# --- the log ----------------------------------------------------------------------------------------------------------


def new_log_file(workspace: str) -> pathlib.Path:
    """Make the folder of logs; return the path of a new log: `<workspace>/logs/run-20250131-235959.log`."""
    logs = pathlib.Path(Workspace(workspace).logs)
    logs.mkdir(parents=True, exist_ok=True)
    stem = time.strftime("run-%Y%m%d-%H%M%S")
    # Two runs in the same second do not run at the same time: the workspace is locked.
    existing = len(list(logs.glob(f"{stem}*.log")))
    return logs / f"{stem}{f'-{existing + 1}' if existing else ''}.log"


@contextlib.contextmanager
def captured(log_file: pathlib.Path, secrets: Collection[str] = ()) -> Iterator[TextIO]:
    """Append everything that this process and its children write, and Python's logging, to `log_file`.

    What Python writes is masked: `secrets`, flags whose names say that they hold one, and passwords in URLs.

    Yields a stream to the original standard error, for the user.

    TensorFlow's C++ side writes to the file descriptors, so it is not enough to replace `sys.stderr`. Everything is
    restored at the end, also after an exception. The stream of the log stays open: logging handlers that libraries
    made in between still use it.
    """
    out, err = sys.stdout, sys.stderr
    _flush(out, err)
    saved = os.dup(1), os.dup(2)
    # A log on a full disk loses lines, and does not end the run.
    mask = functools.partial(masking.mask, values=secrets)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    log = streams.writer(os.open(log_file, flags, 0o666), str(log_file), forgiving=True, edit=mask)
    # In a test or a notebook sys.stderr has no descriptor: it stays as it is.
    screen = streams.writer(os.dup(saved[1]), "standard error", forgiving=True) if _is_descriptor(err, 2) else err
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    try:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        root.handlers = [handler]
        root.setLevel(logging.INFO)
        yield screen
    finally:
        _flush(log, screen)
        root.handlers = handlers
        root.setLevel(level)
        sys.stdout, sys.stderr = out, err
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
        if screen is not err:
            screen.close()


def _is_descriptor(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError, AttributeError):  # io.UnsupportedOperation is an OSError
        return False


def _flush(*streams: TextIO) -> None:
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)  # C code's buffered output must go where it was written to
