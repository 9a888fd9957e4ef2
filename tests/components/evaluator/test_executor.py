"""The Evaluator's executor, for real: small SavedModels on drawn images, through TFMA and Beam.

Each run takes seconds, so that one run answers several questions.
"""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from graftline import features
from graftline.components.evaluator import metrics
from graftline.components.evaluator.verdict import VERDICT_TEXT, failures, sentences
from graftline.errors import UserError
from tests.components.evaluator.evaluations import CHANNELS, Place, settings


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("evaluator"))


def test_the_highest_served_version_is_the_baseline_and_tfmas_figures_are_the_verdicts(place: Place) -> None:
    import tensorflow_model_analysis as tfma

    slices = {name: {"accuracy": {"min": 0.1}} for name in ("class", "folder", "size", "brightness")}
    asked = settings(cross_entropy={"max": 0.01, "min_change": 0.0}, slices=slices, min_examples=60)
    verdict, blessing, folder = place.run("same", asked, served_base_path=str(place.base_path))

    assert (verdict.examples, verdict.compared_examples, verdict.other_classes) == (60, 60, False)
    assert failures(verdict.checks) == ["cross_entropy"], "only its value: it is better than the duller one"
    assert blessing.get_int_custom_property("blessed") == 0
    assert (pathlib.Path(blessing.uri) / "NOT_BLESSED").exists()
    assert blessing.get_string_custom_property("baseline_model") == str(place.base_path / "10")
    assert (folder / VERDICT_TEXT).read_text().startswith("NOT BLESSED: cross_entropy\njudged on 60 images\n")

    assert 0.5 < verdict.candidate["accuracy"] < 1, "figures that are all alike would prove nothing"
    slices = list(tfma.load_metrics(str(folder)))
    (overall,) = (each for each in slices if not each.slice_key.single_slice_keys)
    for model, figures in (("candidate", verdict.candidate), ("baseline", verdict.baseline)):
        theirs = {
            metric.key.name: metric.value.double_value.value
            for metric in overall.metric_keys_and_values
            if metric.key.model_name == model and not metric.key.is_diff
        }
        assert theirs["example_count"] == 60
        same = [metrics.ACCURACY, metrics.CROSS_ENTROPY]
        assert [theirs[name] for name in same] == pytest.approx([figures[name] for name in same], rel=1e-5)
    assert verdict.candidate["cross_entropy"] != verdict.baseline["cross_entropy"]
    assert {key.column for each in slices for key in each.slice_key.single_slice_keys} == set(asked.slices)

    judged = {check.part for check in verdict.checks if check.part}
    assert judged >= {"class blue sky", "folder rot/ä", "size tiny", "size medium", "brightness normal"}
    table = pq.read_table(folder / "predictions-00000-of-00001.parquet")
    assert table.num_rows == 60
    assert set(table.column("folder").to_pylist()) == {f"{label}/{inner}" for label in CHANNELS for inner in "äb"}
    right = [
        list(CHANNELS)[int(np.argmax(row["candidate"]))] == row["class"] for row in table.to_pylist()
    ]  # on the file's bytes
    assert np.mean(right) == verdict.candidate["accuracy"]


def test_a_served_model_of_fewer_classes_is_compared_on_those_that_both_know(place: Place) -> None:
    asked = settings(accuracy={"min": 0.1, "min_change": 0.0}, slices={"class": {"recall": {"min_change": 0.0}}})
    verdict, blessing, folder = place.run("fewer-run", asked, served=place.fewer)
    assert verdict.blessed
    assert blessing.get_int_custom_property("blessed") == 1
    assert (verdict.examples, verdict.compared_examples, verdict.other_classes) == (60, 40, True)
    # Among the two the candidate and the served model are one: a softmax of the same colours.
    assert verdict.compared == pytest.approx(verdict.baseline, abs=1e-6)
    assert verdict.compared["accuracy"] != verdict.candidate["accuracy"]
    assert "new: rot" in verdict.note
    assert "the change of recall of class rot was not judged" in verdict.note
    assert "On the 40 images of the classes that both models know:" in (folder / VERDICT_TEXT).read_text()


def test_a_refused_serving_validation_leaves_no_blessing_and_a_reset_baseline_is_none(place: Place) -> None:
    found = {"passed": False, "reasons": ["the first answer took 20 s", "2 answers differ"]}
    asked = settings(accuracy={"min": 0.1, "min_change": 1.0})
    verdict, blessing, folder = place.run(
        "infra", asked, found, ("train", "eval", "test"), served=str(place.base_path / "2"), reset_baseline=1
    )
    assert verdict.examples == 12, "where there is a test split, it is the one that judges"
    assert not verdict.blessed
    assert blessing.get_int_custom_property("blessed") == 0
    assert not (pathlib.Path(blessing.uri) / "BLESSED").exists()
    assert failures(verdict.checks) == ["serving validation"]
    assert "the first answer took 20 s; 2 answers differ" in sentences(verdict.checks)[0]
    assert verdict.baseline == {}
    assert "--reset-baseline set the served model aside" in verdict.note
    assert "the serving validation refused the model" in (folder / VERDICT_TEXT).read_text()


@pytest.mark.parametrize("broken", ["no labels", "labels in another encoding", "garbage"])
def test_a_served_model_that_is_broken_is_one_message_that_says_what_to_do(
    place: Place, broken: str, tmp_path: pathlib.Path
) -> None:
    served = tmp_path / "m [x]" / "5"  # a path that TensorFlow takes for a pattern: it loads a temporary link
    (served / "assets").mkdir(parents=True)
    (served / "saved_model.pb").write_bytes(b"\x0a\xffno SavedModel")
    encoding = "utf-16" if broken == "labels in another encoding" else "utf-8"
    if broken != "no labels":
        (served / "assets" / features.LABELS_FILE).write_text("\n".join(CHANNELS) + "\n", encoding)
    with pytest.raises(Exception, match="the served model cannot be loaded") as caught:
        place.run(broken, settings(), served=str(served))
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    assert error is not None, "cli looks for a UserError behind what Beam raises"
    assert str(served) in str(error)
    assert "/graftline-" not in str(error), "the temporary link is gone when the message is read"
    assert "graftline run --reset-baseline" in str(error)


_MEASURE = """
import pathlib, resource, sys
from tests.components.evaluator.evaluations import *
place = Place.__new__(Place)
place.root = pathlib.Path(sys.argv[1])
write_examples(place.root / "examples" / "Split-eval", range(int(sys.argv[2])), side=1100)
save_model(place.root / "candidate", list(CHANNELS))
verdict, *_ = place.run("run", settings(accuracy={"min": 0}), served="")
print(verdict.examples, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.slow
def test_four_times_the_large_images_take_no_more_memory(tmp_path: pathlib.Path) -> None:
    # What is freed goes back at once: fragments of malloc's arenas would grow with the images, too.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    environment["MALLOC_TRIM_THRESHOLD_"] = "65536"
    root, peaks = pathlib.Path(__file__).parents[3], []
    for seeds in (15, 60):  # 45 and 180 images of 3 MB
        command = [sys.executable, "-c", _MEASURE, str(tmp_path / str(seeds)), str(seeds)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env=environment)
        examples, peak = map(int, done.stdout.split()[-2:])
        assert examples == 3 * seeds
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 80, f"390 MB of images more took {peaks} MB"


def test_the_baseline_is_what_is_served_when_the_node_runs_whatever_was_when_the_run_began(place: Place) -> None:
    from graftline.components.evaluator.executor import _baseline

    began_with = {"served": str(place.base_path / "2"), "served_base_path": str(place.base_path)}
    assert _baseline({}, began_with) == (str(place.base_path / "10"), [])
    assert _baseline({}, {"served": "", "served_base_path": str(place.base_path)}) == (str(place.base_path / "10"), [])


def test_a_served_model_that_knows_none_of_the_classes_refuses_the_candidate(
    place: Place, tmp_path: pathlib.Path
) -> None:
    from graftline.components.evaluator.executor import _check_served_classes, _class_note

    (check,) = _check_served_classes(["cat", "dog"], ["rose", "tulip"])
    assert (check.passed, failures([check])) == (False, ["classes of the served model"])
    assert "knows none of the classes cat, dog: its classes are rose, tulip" in check.because
    assert "run with --reset-baseline" in check.because
    assert _check_served_classes(["cat", "dog"], ["cat", "tulip"]) == []
    assert "'cafe\u0301' (cafe\\u0301) and 'café' (caf\\xe9)" in _class_note(
        ["a", "b", "cafe\u0301"], ["a", "b", "café"]
    )
