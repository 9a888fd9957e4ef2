"""What a person sees of a run, and that nothing else gets onto the screen."""

import io
import logging
import math
import os
import pathlib
import subprocess
import sys
from dataclasses import replace

import pytest

from graftline.components.evaluator.verdict import NOTHING_SERVED, WITHDRAWN, Check, sentence
from graftline.pipeline import console, run_summary
from graftline.pipeline.config_file import load
from graftline.pipeline.console import Event, Progress
from graftline.pipeline.run_summary import Phase, RunSummary
from graftline.workspace import Workspace

PUSHED = RunSummary(
    run_id="2025-01-31",
    blessed=True,
    pushed_version=3,
    pushed_path="/ws/models/pets/3",
    accuracy=0.95,
    baseline_accuracy=0.93,
    examples=1797,
    quarantined=2,
    duplicates=1,
    seconds={"ImageExampleGen": 3.21, "Trainer": 185.0},
    classes=["cat", "dog"],
    phases=[
        Phase("feature_extraction", 1, 0.9, 0.88, "epochs"),
        Phase("fine_tuning", 7, 0.97, 0.95, "plateau"),
    ],
    checks=[Check("accuracy", "min", 0.5, 0.95, True), Check("accuracy", "min_change", 0.0, 0.02, True)],
    new_version=True,
    quarantine_file="/ws/quarantine/left-out.csv",
)
REFUSED = replace(
    PUSHED,
    blessed=False,
    pushed_version=None,
    pushed_path=None,
    accuracy=0.48,
    checks=[
        Check("accuracy", "min", 0.5, 0.48, False),
        Check("accuracy", "min_change", 0.0, -0.45, False),
        Check("cross_entropy", "max", 0.7, 0.6, True),
    ],
)


# --- progress ---------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A terminal that remembers what was written."""

    def isatty(self) -> bool:
        return True


def shown(*events: Event, stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    progress = Progress(stream)
    for event in events:
        progress(event)
    return stream.getvalue()


def test_without_a_terminal_each_stage_is_one_plain_line():
    text = shown(
        Event("ImageExampleGen", "started", 0),
        Event("ImageExampleGen", "finished", 3.21, "1,797 images"),
        Event("Transform", "started", 0),
        Event("Transform", "cached", 0.01),
        Event("Trainer", "started", 0),
        Event("Trainer", "failed", 41.3),
    )
    assert text.splitlines() == [
        "ImageExampleGen     … 3.2 s, 1,797 images",
        "Transform           … from the cache",
        "Trainer             … FAILED after 41 s",
    ]


def test_a_stage_is_named_while_it_runs():
    assert shown(Event("Trainer", "started", 0)) == "Trainer             … "


def test_a_stage_that_said_nothing_of_its_end_does_not_swallow_the_next():
    text = shown(Event("A", "started", 0), Event("B", "started", 0), Event("B", "finished", 1))
    assert [line.split()[0] for line in text.splitlines()] == ["A", "B"]


def test_a_stage_that_ends_without_having_begun_has_a_line_of_its_own():
    assert shown(Event("A", "cached", 0)) == "A                   … from the cache\n"


def test_on_a_terminal_the_finished_stages_stay():
    text = shown(Event("Trainer", "started", 0), Event("Trainer", "finished", 41), stream=Terminal())
    assert "✓" in text
    assert "41 s" in text


def test_the_time_before_the_first_stage_is_shown_as_one():
    stream = io.StringIO()
    with Progress(stream) as progress:
        assert stream.getvalue().startswith("Preparing")
        progress(Event("A", "started", 0))
        progress(Event("A", "finished", 1))
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == ["Preparing", "A"]


def test_an_error_before_the_first_stage_is_shown_as_its_failure():
    stream = io.StringIO()
    with pytest.raises(ZeroDivisionError), Progress(stream):
        raise ZeroDivisionError
    assert "FAILED" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (41.3, "41 s"), (119.4, "119 s"), (185, "3 min 05 s")]
)
def test_durations_are_as_precise_as_a_person_needs(seconds: float, text: str):
    assert console.seconds_text(seconds) == text


# --- the summary ------------------------------------------------------------------------------------------------------


def test_the_summary_says_what_transfer_bought():
    found = {"images_per_class": 10, "images": 100, "pretrained": 0.86, "random": 0.33}
    assert (
        "Transfer    on up to 10 images of each class, 100 in all: accuracy 0.8600 with the backbone's "
        "weights, 0.3300 with a random trunk and the same settings"
    ) in console.summary(replace(PUSHED, transfer=found), "ws").splitlines()


def test_the_summary_of_a_pushed_model():
    assert console.summary(PUSHED, "my ws").splitlines() == [
        "Images      1,797 stored of 2 classes (cat, dog)",
        "            1 left out: same content as another file",
        "            2 left out: not readable as images; the reasons are in /ws/quarantine/left-out.csv",
        "Training    feature_extraction: 1 epoch, accuracy 0.9000 in training, 0.8800 on the eval split; ended: epochs",
        "            fine_tuning: 7 epochs, accuracy 0.9700 in training, 0.9500 on the eval split; ended: plateau",
        "Evaluation  accuracy 0.9500 on the eval split; the served model has 0.9300",
        "Gate        accuracy is 0.9500; at least 0.5000 is required: passed",
        "            accuracy is 0.0200 better than the served model's; it must not be worse: passed",
        "Result      BLESSED. Pushed as version 3: /ws/models/pets/3",
        "Time        3 min 08 s in all: start 0.0 s, ImageExampleGen 3.2 s, Trainer 3 min 05 s",
        "Next        graftline serve 'my ws'",
        "            graftline predict --model /ws/models/pets/3 IMAGE…",
    ]


def test_the_summary_of_a_refused_model_says_which_threshold_fell_short_by_how_much_and_what_is_served():
    lines = console.summary(REFUSED, "ws").splitlines()
    assert "Gate        accuracy is 0.4800; at least 0.5000 is required: failed, 0.0200 too low" in lines
    assert "            accuracy is 0.4500 worse than the served model's; it must not be worse: failed" in lines
    assert "Result      NOT BLESSED: accuracy. Nothing was pushed; the served model stays." in lines
    assert not any("graftline serve" in line for line in lines)


def test_a_model_that_was_rolled_back_from_is_said_to_be_withdrawn_with_what_allows_it():
    why = "withdrawn: this very model was version 2; push.allow_withdrawn=true pushes it all the same"
    check = Check(WITHDRAWN, "passed", 1, 0, False, because=why)
    lines = console.summary(replace(REFUSED, checks=[check]), "ws").splitlines()
    assert f"Gate        {why}" in lines
    assert f"Result      NOT BLESSED: {why}. Nothing was pushed; the served model stays." in lines


def test_a_first_model_of_its_name_names_those_that_the_workspace_serves(tmp_path: pathlib.Path):
    note = f"{NOTHING_SERVED}\nanother sentence"
    config, workspace = load(None, ["model.name=roses"]), Workspace(str(tmp_path))
    assert run_summary.note(note, config, workspace) == note
    for name in ("roses/1", "tulips/3", "empty"):
        (tmp_path / "models" / name).mkdir(parents=True)
    (tmp_path / "models/roses/1/saved_model.pb").touch()  # what this run pushed
    assert run_summary.note(note, config, workspace) == note
    (tmp_path / "models/tulips/3/saved_model.pb").touch()
    assert run_summary.note(note, config, workspace) == (
        f"{NOTHING_SERVED} (this run's model is called roses; the workspace serves tulips: set model.name to go "
        "on with it)\nanother sentence"
    )
    assert run_summary.note("a baseline", config, workspace) == "a baseline"


def test_a_bound_from_above_is_exceeded():
    check = Check("cross_entropy", "max", 0.7, 0.9, False)
    assert sentence(check) == "cross_entropy is 0.9000; at most 0.7000 is required: failed, 0.2000 too high"


def test_an_unchanged_run_names_the_version_that_is_there_and_what_came_from_the_cache():
    text = console.summary(replace(PUSHED, new_version=False, cached=["Trainer"]), "ws")
    assert "The same model is already served as version 3: /ws/models/pets/3" in text
    assert "Trainer cached" in text


def test_what_the_gate_notes_beside_its_checks_is_told():
    assert "Gate        no baseline" in console.summary(replace(PUSHED, checks=[], note="no baseline"), "ws")


def test_nothing_is_said_of_duplicates_and_quarantine_when_there_are_none():
    assert "left out" not in console.summary(replace(PUSHED, duplicates=0, quarantined=0), "ws")


def test_a_phase_whose_loss_became_nan_at_once_has_no_accuracy_in_training_and_its_note_is_told():
    fine_tuning = Phase("fine_tuning", 0, math.nan, 0.88, "nan", kept=False)
    note = "fine_tuning: the loss was no longer a number at epoch 1, step 2"
    text = console.summary(replace(PUSHED, phases=[PUSHED.phases[0], fine_tuning], training_notes=[note]), "ws")
    assert (
        "            fine_tuning: 0 epochs, accuracy 0.8800 on the eval split; ended: the loss was no longer a number; "
        f"no epoch was better than before; its weights were discarded\n            {note}\n"
    ) in text


def test_many_classes_are_counted_rather_than_listed():
    text = console.summary(replace(PUSHED, classes=[f"c{n}" for n in range(100)]), "ws")
    assert "of 100 classes (c0, c1, c2, c3, c4, c5, c6, c7 and 92 more)" in text


# --- the log ----------------------------------------------------------------------------------------------------------

_NOISY = """
import ctypes, logging, os, pathlib, subprocess, sys, warnings
from graftline.pipeline import console

libc = ctypes.CDLL(None)
print("before")
with console.captured(pathlib.Path(sys.argv[1])) as screen:
    print("python out")
    print("python err", file=sys.stderr)
    os.write(1, b"descriptor out\\n")
    os.write(2, b"descriptor err\\n")
    libc.puts(b"C library")
    subprocess.run(["sh", "-c", "echo child out; echo child err >&2"])
    logging.getLogger("anyone").info("logged")
    warnings.warn("warned")
    kept = sys.stderr
    screen.write("for the person\\n")
    if len(sys.argv) > 2:
        raise ZeroDivisionError
print("after")
kept.write("late\\n")
print("error after", file=sys.stderr)
"""
_TALK = (
    "python out",
    "python err",
    "descriptor out",
    "descriptor err",
    "C library",
    "child out",
    "child err",
    "logged",
    "warned",
)


def noisy(log: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _NOISY, str(log), *arguments], capture_output=True, text=True)


def test_all_that_a_process_and_its_children_say_goes_into_the_log_and_only_our_own_to_the_screen(
    tmp_path: pathlib.Path,
):
    process = noisy(tmp_path / "log")
    assert process.stdout == "before\nafter\n"
    assert process.stderr == "for the person\nerror after\n"
    log = (tmp_path / "log").read_text()
    assert [talk for talk in (*_TALK, "late") if talk not in log] == []
    assert "for the person" not in log


def test_the_screen_is_given_back_after_an_exception(tmp_path: pathlib.Path):
    process = noisy(tmp_path / "log", "fail")
    assert process.stdout == "before\n"
    assert process.stderr.splitlines()[0] == "for the person"
    assert process.stderr.splitlines()[-1] == "ZeroDivisionError"


def test_capturing_leaves_no_descriptor_and_no_handler_behind(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
):
    handlers, out, err = logging.getLogger().handlers[:], sys.stdout, sys.stderr
    before = set(os.listdir("/proc/self/fd"))
    with console.captured(tmp_path / "log"):
        os.write(2, b"hidden")
        sys.stdout.close()  # the log's own stream; left open otherwise
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"
    assert (logging.getLogger().handlers, sys.stdout, sys.stderr) == (handlers, out, err)
    assert set(os.listdir("/proc/self/fd")) == before


def test_each_run_has_a_log_of_its_own(tmp_path: pathlib.Path):
    first = console.new_log_file(str(tmp_path))
    first.touch()
    second = console.new_log_file(str(tmp_path))
    assert first.parent == second.parent == tmp_path / "logs"
    assert first != second
    assert first.name.startswith("run-")
