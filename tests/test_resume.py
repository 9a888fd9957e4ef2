"""A run that is killed, and given again by the same command, goes on; so does one whose folders somebody tidied up.

The tests of this file run in order and tell one story in one workspace.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
import pytest

from graftline.pipeline import app, cli, config_file
from graftline.pipeline.run_summary import RunSummary
from graftline.trainer.checkpoints import Checkpoints
from tests import images

_SETTINGS = [
    "backbone.weights=none",
    "backbone.input_size=32",
    "backbone.options={alpha: 0.35}",
    "head.cut_at=block_2_add",
    "feature_extraction.epochs=25",
    "feature_extraction.learning_rate=0.01",
    "fine_tuning.epochs=30",
    "fine_tuning.patience=30",
    "fine_tuning.learning_rate=0.0001",
    "fine_tuning.unfreeze_from=block_2_project",
    "gate.accuracy.min=0.5",  # a dozen images judge: the tests are not about chance
]
_BEFORE_TRAINER = {"ImageExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "Transform"}


@dataclass
class Place:
    """Images, and a workspace for them. `runs` holds what each run said that was not killed."""

    images: pathlib.Path
    workspace: pathlib.Path
    runs: list[RunSummary] = field(default_factory=list)
    half: list[str] = field(default_factory=list)  # names of the Trainer's executions that were killed

    def command(self, *overrides: str) -> list[str]:
        """As a user gives it."""
        given = ["run", "--images", str(self.images), "--workspace", str(self.workspace)]
        return [*given, *(part for setting in (*_SETTINGS, *overrides) for part in ("--set", setting))]

    def run(self, *overrides: str) -> RunSummary:
        """The same in this process, where TFX is imported once."""
        given = {"images": str(self.images), "workspace": str(self.workspace)}
        self.runs.append(app.run_pipeline(config_file.load(None, [*_SETTINGS, *overrides], given)))
        return self.runs[-1]

    def refused(self, *overrides: str) -> None:
        """The same, for a mistake: asserts the exit status."""
        with pytest.raises(SystemExit) as ended:
            cli.main.main(self.command(*overrides))
        assert ended.value.code == 2

    def killed(self, when: Callable[[], object]) -> None:
        """The command in processes of its own, which SIGKILL ends as soon as `when` holds."""
        program = str(pathlib.Path(sys.executable).with_name("graftline"))
        with open(self.workspace.with_suffix(".said"), "a+") as said:
            process = subprocess.Popen([program, *self.command()], stdout=said, stderr=said, start_new_session=True)
            try:
                while not when():
                    assert process.poll() is None, said.seek(0) or said.read()
                    time.sleep(0.005)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self.half += [path.name for path in self.artifacts("Trainer/model/[0-9]*")]

    def artifacts(self, path: str) -> list[pathlib.Path]:
        """What matches under `artifacts/`, the newest last."""
        found = (self.workspace / "artifacts").glob(path)
        return sorted(found, key=lambda one: int(one.relative_to(self.workspace).parts[3]))

    def finished(self, phase: str) -> int:
        """The last epoch of a phase that a checkpoint is there of; 0 when there is none."""
        root = self.workspace / "checkpoints"
        for folder in root.iterdir() if root.is_dir() else ():
            found = Checkpoints(str(root), folder.name).load()
            if found is not None and found.meta["phase"] == phase:
                return len(found.meta["history"]["loss"])
        return 0

    def trained(self) -> tuple[list[np.ndarray], dict]:
        """Weights and story of the newest model."""
        model = self.artifacts("Trainer/model/[0-9]*")[-1]
        weights = keras.saving.load_model(model / "model.keras", compile=False).get_weights()
        return weights, json.loads((model / "training.json").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("resume")
    return Place(images.write_folder(root / "photos", 20), root / "workspace")


@pytest.fixture(scope="module")
def resumed(place: Place) -> tuple[list[np.ndarray], dict]:
    """Killed in its second phase, and given again."""
    place.killed(lambda: place.finished("fine_tuning") >= 3)
    place.run()
    return place.trained()


def test_a_killed_run_goes_on_after_its_last_finished_epoch(
    place: Place, resumed: tuple[list[np.ndarray], dict]
) -> None:
    (run,) = place.runs
    assert set(run.cached) == _BEFORE_TRAINER
    (note,) = run.training_notes
    words = note.split()
    assert note == f"fine_tuning resumed after epoch {words[4].rstrip(',')}, from a checkpoint"
    assert 3 <= int(words[4].rstrip(",")) < 30
    assert [(phase.name, phase.epochs) for phase in run.phases] == [("feature_extraction", 25), ("fine_tuning", 30)]
    assert (run.activations["computed"], run.activations["reused"]) == (0, 60)
    assert run.blessed and run.new_version
    (model,) = place.artifacts("Trainer/model/[0-9]*")
    assert place.half and model.name not in place.half, "it was a new execution, and the half one was swept away"
    assert os.listdir(place.workspace / "checkpoints") == []


def test_its_model_is_that_of_a_run_that_was_never_broken_also_where_somebody_tidied_up(
    place: Place, resumed: tuple[list[np.ndarray], dict]
) -> None:
    """Another size of the cache's memory is another run for TFX, and the same training."""
    shutil.rmtree(place.workspace / "logs")
    shutil.rmtree(place.workspace / "cache")
    half = place.workspace / "models" / "photos" / ".push-killed"
    half.mkdir()
    (half / "saved_model.pb").write_bytes(b"half")
    unbroken = place.run("boundary_cache.memory_mb=255")
    assert set(unbroken.cached) == _BEFORE_TRAINER
    assert unbroken.activations["reused"] == 0
    assert unbroken.training_notes == []
    assert not half.exists()
    weights, story = place.trained()
    for ours, theirs in zip(resumed[0], weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert resumed[1]["phases"] == story["phases"]


def test_a_warm_start_begins_where_the_blessed_model_ended(place: Place, resumed: object) -> None:
    """No epoch can be better by 1,000: what was before them is what is kept."""
    before = place.trained()[1]["phases"][-1]
    again = place.run("training.warm_start=true", "fine_tuning.epochs=0", "feature_extraction.min_delta=1000", "seed=3")
    assert again.training_notes == ["warm start from the last blessed model"]
    (phase,) = place.trained()[1]["phases"]
    assert (phase["kept"], phase["val_accuracy"]) == (False, before["val_accuracy"])
    assert phase["val_loss"] == pytest.approx(before["val_loss"], rel=1e-4)
    assert again.accuracy == place.runs[-2].accuracy


def test_a_second_phase_that_diverges_leaves_the_model_of_the_first_to_the_gate(
    place: Place, resumed: object, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place.run("fine_tuning.learning_rate=1e30", "gate.accuracy.min_change=-1")
    first, second = run.phases
    assert (second.ended, second.epochs, second.kept) == ("nan", 0, False)
    assert run.blessed
    assert run.accuracy == pytest.approx(first.val_accuracy)
    (note,) = run.training_notes
    assert note.startswith("fine_tuning: the loss was no longer a number at epoch 1, step ")
    assert "the weights from before the phase were kept; lower fine_tuning.learning_rate (now 1e+30)" in note
    app.print_summary(run, config_file.load(None, [], {"workspace": str(place.workspace)}), as_json=False)
    printed = capsys.readouterr().out
    assert note in printed
    assert "the loss was no longer a number; no epoch was better than before; its weights were discarded" in printed


def test_a_first_phase_that_diverges_is_one_message_and_status_2(
    place: Place, resumed: object, capsys: pytest.CaptureFixture[str]
) -> None:
    place.refused("feature_extraction.learning_rate=3e38")
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("graftline: feature_extraction: the loss was no longer a number at epoch 1, step ")
    assert said[-1].endswith(
        "nothing is trained yet; lower feature_extraction.learning_rate (now 3e+38) or set feature_extraction.clip_norm"
    )
    assert not any(word in line for line in said for word in ("Traceback", "UserError", "File "))


def test_a_layer_to_unfreeze_from_that_is_not_there_ends_a_run_before_its_first_stage(
    place: Place, resumed: object, capsys: pytest.CaptureFixture[str]
) -> None:
    before = place.artifacts("*/*/[0-9]*")
    place.refused("fine_tuning.unfreeze_from=2000")
    said = capsys.readouterr().err
    assert "graftline: fine_tuning.unfreeze_from: 2000 is out of range" in said
    assert "Traceback" not in said
    assert place.artifacts("*/*/[0-9]*") == before


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_stage_ends_as_one_that_never_was(
    place: Place, resumed: tuple[list[np.ndarray], dict], tmp_path: pathlib.Path
) -> None:
    """Each time the command is given again it goes on. Elsewhere: the other workspace's model is what is expected."""
    broken = Place(place.images, tmp_path / "workspace")
    broken.killed(lambda: broken.artifacts("ImageExampleGen/examples/[0-9]*"))
    broken.killed(lambda: broken.artifacts("Transform/transform_graph/[0-9]*"))
    broken.killed(lambda: broken.finished("feature_extraction") >= 2)
    broken.killed(lambda: broken.finished("fine_tuning") >= 2)
    broken.killed(lambda: broken.artifacts("Trainer/model/[0-9]*/Format-Serving/saved_model.pb"))
    broken.killed(lambda: broken.artifacts("Evaluator/evaluation/[0-9]*"))
    run = broken.run()
    assert set(run.cached) == {*_BEFORE_TRAINER, "Trainer", "ServingValidator"}
    assert run.training_notes == ["fine_tuning resumed after epoch 30, from a checkpoint"]
    assert run.blessed and run.new_version
    weights, story = broken.trained()
    for ours, theirs in zip(weights, resumed[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert story["phases"] == resumed[1]["phases"]


@pytest.mark.slow
def test_a_new_class_joins_a_warm_start(place: Place, resumed: object) -> None:
    (place.images / "a new one").mkdir()
    for number in range(10):
        image = images.draw("green", 200 + number).point(lambda value: 255 - value)
        (place.images / "a new one" / f"{number}.jpg").write_bytes(images.encode(image))
    grown = place.run("training.warm_start=true", "fine_tuning.epochs=0")
    assert grown.training_notes == ["warm start from the last blessed model (new: a new one)"]
    assert grown.classes == ["a new one", "blue sky", "green", "rot"]
    assert grown.blessed
    assert grown.accuracy is not None
    assert grown.accuracy * 17 >= 15, "fifteen of the eval images are of the classes that were known"
    other = place.run("training.warm_start=true", "fine_tuning.epochs=0", "head.dense=[8]")
    assert other.training_notes == ["warm start: the last blessed model has another trunk or head; started cold"]


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_a_warm_start_compiles_for_a_cluster(tmp_path: pathlib.Path, target: str) -> None:
    import yaml

    (tmp_path / "given.yaml").write_text("images: /mnt/photos\nbackbone: {weights: none}\n")
    arguments = [str(tmp_path / "given.yaml"), "--target", target, "--set", "training.warm_start=true"]
    with pytest.raises(SystemExit) as ended:
        cli.main.main(["compile", *arguments, "-o", str(tmp_path / "job")])
    assert ended.value.code == 0
    job = yaml.safe_load((tmp_path / "job").read_text())
    tasks = (job["pipelineSpec"] if target == "vertex" else job)["root"]["dag"]["tasks"]
    wired = tasks["Trainer"]["inputs"]["artifacts"]["base_model"]["taskOutputArtifact"]
    assert wired["producerTask"] in tasks
    assert wired["producerTask"].startswith("baseline")
