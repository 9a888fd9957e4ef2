"""The whole job as a user runs it: a folder of images, the command, a served model; then the nights that follow.

The tests of this file run in order and tell one story in one workspace.
"""

import base64
import io
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import h5py
import numpy as np
import pytest

from graftline import signatures
from graftline.pipeline import app, config_file
from graftline.pipeline.run_summary import RunSummary
from graftline.references import read as read_references
from tests import assets, images

_EXECUTOR_NODES = {
    "ImageExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "Transform",
    "Trainer",
    "ServingValidator",
    "Evaluator",
    "Pusher",
}
_SETTINGS = [
    "backbone.weights=none",
    "backbone.input_size=32",
    "backbone.options={alpha: 0.35}",
    "head.cut_at=block_2_add",
    "feature_extraction.epochs=40",
    "feature_extraction.learning_rate=0.01",
    "fine_tuning.epochs=1",
    "fine_tuning.unfreeze_from=block_2_project",
    "data.max_bad_fraction=0.1",
]
# For runs that are not about what the model learns.
_QUICK = ("feature_extraction.epochs=1", "fine_tuning.epochs=0", "gate.accuracy.min=0", "gate.accuracy.min_change=-1")


# Modules of a user with names that Graftline's folders have, too.
_NAMESAKES = ("trainer/__init__.py", "trainer/settings.py", "serving/__init__.py", "serving/server.py", "pipeline.py")

# What the shell and the home of a user may hold for other projects. None of it may change a run.
_KERAS_JSON = {"image_data_format": "channels_first", "floatx": "float16", "epsilon": 0.1, "backend": "jax"}
_ENVIRONMENT = {
    "KERAS_BACKEND": "jax",  # is not installed
    "KERAS_MAX_EPOCHS": "1",
    "KERAS_MAX_STEPS_PER_EPOCH": "1",
    "TF_USE_LEGACY_KERAS": "1",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "PYTHONHASHSEED": "7",
}


@dataclass
class Story:
    """One workspace and its images; `first` is what the first run printed as JSON.

    During the first run modules with the names of Graftline's folders lay on the PYTHONPATH; `imported` is a file that
    one of them writes when it is imported. The environment and the home held settings of other projects.
    """

    images: pathlib.Path
    workspace: pathlib.Path
    first: dict
    imported: pathlib.Path

    def run(self, *overrides: str) -> RunSummary:
        """Another night, in this process: TFX is imported once."""
        given = {"images": str(self.images), "workspace": str(self.workspace)}
        return app.run_pipeline(config_file.load(None, [*_SETTINGS, *overrides], given))

    @property
    def versions(self) -> list[str]:
        """What a model server sees."""
        return sorted(name for name in os.listdir(self.workspace / "models" / "photos") if name.isdigit())


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    root = tmp_path_factory.mktemp("story")
    photos = images.write_folder(root / "photos", 20)
    (photos / "rot" / "cut off.jpg").write_bytes(images.encode(images.draw("rot", 50))[:700])
    (photos / "green" / "notes.jpg").write_text("not an image")
    shutil.copy(photos / "green" / "0.jpg", photos / "green" / "copy of 0.jpg")
    (photos / ".DS_Store").write_text("")
    imported = root / "imported"
    for name in _NAMESAKES:
        (root / "path" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "path" / name).write_text(
            f"open({str(imported)!r}, 'a').write(__file__)\nraise RuntimeError(__file__)\n"
        )
    command = [
        str(pathlib.Path(sys.executable).with_name("graftline")),
        "run",
        "--images",
        str(photos),
        "--workspace",
        str(root / "ws"),
        "--json",
    ]
    for setting in _SETTINGS:
        command += ["--set", setting]
    (root / ".keras").mkdir()
    (root / ".keras" / "keras.json").write_text(json.dumps(_KERAS_JSON))
    environment = {**os.environ, **_ENVIRONMENT, "HOME": str(root), "PYTHONPATH": str(root / "path")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=root / "path")
    assert done.returncode == 0, done.stderr
    assert "Trainer" in done.stderr
    assert "oneDNN" not in done.stderr, "TensorFlow's chatter belongs into the log"
    return Story(photos, root / "ws", json.loads(done.stdout), imported)


def test_the_first_run_pushes_version_1_and_says_what_it_did(story: Story) -> None:
    first = story.first
    assert first["blessed"] is True
    assert first["pushed_version"] == 1
    assert first["pushed_path"] == str(story.workspace / "models" / "photos" / "1")
    assert os.path.exists(os.path.join(first["pushed_path"], "saved_model.pb"))
    assert (first["examples"], first["quarantined"], first["duplicates"]) == (60, 2, 1)
    assert first["baseline_accuracy"] is None
    assert first["accuracy"] >= 0.5
    assert set(first["seconds"]) >= _EXECUTOR_NODES


def test_settings_of_other_projects_have_no_effect(story: Story) -> None:
    epochs = [phase["epochs"] for phase in story.first["phases"]]
    assert epochs[0] > 1, "KERAS_MAX_EPOCHS ended the training"
    (artifact,) = (story.workspace / "artifacts" / "Trainer" / "model").iterdir()
    with zipfile.ZipFile(artifact / "model.keras") as archive:
        weights = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    kernel = weights["layers/conv2d/vars/0"]
    assert (kernel.dtype, kernel.shape[:3]) == ("float32", (3, 3, 3))


def test_modules_of_a_user_with_names_of_our_folders_are_never_imported(story: Story) -> None:
    """Neither by the run nor by its children: the isolated decoder, the validated server and the report's figures."""
    assert not story.imported.exists(), story.imported.read_text()
    assert "cut off" in pathlib.Path(story.first["quarantine_file"]).read_text(), "the decoder was a child"
    assert story.first["serving"]["grpc_ms"] > 0, "the server was a child"
    assert (pathlib.Path(story.first["report_dir"]) / "learning_curves.png").is_file(), "the figures were a child"


def test_what_was_left_out_is_listed_with_its_reason(story: Story) -> None:
    listed = pathlib.Path(story.first["quarantine_file"]).read_text()
    assert story.first["quarantine_file"].startswith(str(story.workspace))
    assert "rot/cut off.jpg" in listed
    assert "green/notes.jpg" in listed


def test_served_over_grpc_equals_trained(story: Story) -> None:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    from graftline.serving.server import ModelServer
    from graftline.serving.versions import locate
    from graftline.trainer import reference

    (artifact,) = (story.workspace / "artifacts" / "Trainer" / "model").iterdir()
    references = read_references(str(artifact / signatures.REFERENCES_FILE))
    assert 6 <= len(references) <= reference.COUNT
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "photos"
    request.inputs[signatures.IMAGE_BYTES].CopyFrom(tf.make_tensor_proto([r.image_bytes for r in references]))
    with ModelServer(locate.find_models(str(story.workspace)), 0, 0) as server:
        channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
    got = tf.make_ndarray(answer.outputs[signatures.PROBABILITIES])
    expected = np.stack([r.probabilities for r in references])
    assert expected.std(axis=0).max() > 0.01, "answers that are all alike would prove nothing"
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_second_run_with_nothing_changed_blesses_the_tie_and_adds_no_version(story: Story) -> None:
    second = story.run()
    assert set(second.cached) == _EXECUTOR_NODES - {"Evaluator", "Pusher"}
    assert second.blessed
    assert second.baseline_accuracy == second.accuracy == story.first["accuracy"]
    assert (second.pushed_version, second.new_version) == (1, False)
    assert story.versions == ["1"]


def test_a_third_run_takes_every_node_from_the_cache(story: Story) -> None:
    third = story.run()
    assert set(third.cached) == _EXECUTOR_NODES
    assert (third.pushed_version, third.new_version) == (1, False)


def test_a_model_under_the_threshold_is_refused_and_the_served_one_stays(story: Story) -> None:
    refused = story.run("gate.accuracy.min=0.9", "gate.cross_entropy.max=0.000001")
    assert not refused.blessed
    assert (refused.pushed_version, refused.pushed_path) == (None, None)
    assert [check.metric for check in refused.checks if not check.passed][-1] == "cross_entropy"
    assert story.versions == ["1"]


def test_a_replaced_image_of_the_same_size_and_time_runs_ingest_again(story: Story) -> None:
    path = story.images / "rot" / "3.jpg"
    before, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-2] + b"\0\xd9" if data[-3:-2] != b"\0" else data[:-3] + b"\1" + data[-2:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    again = story.run(*_QUICK)
    assert "ImageExampleGen" not in again.cached


def test_a_new_class_is_left_out_of_the_comparison_with_the_old_model_and_that_is_said(story: Story) -> None:
    images.write_folder(story.images / "x", 8, ("green",))
    (story.images / "x" / "green").rename(story.images / "new class")
    (story.images / "x").rmdir()
    for number, path in enumerate(sorted((story.images / "new class").iterdir())):
        image = images.draw("green", 200 + number).rotate(90, expand=True).point(lambda value: 255 - value)
        path.write_bytes(images.encode(image))
    grown = story.run(*_QUICK)
    assert grown.classes == ["blue sky", "green", "new class", "rot"]
    assert grown.compared_accuracy is not None
    assert grown.baseline_accuracy is not None
    assert 0 < grown.compared_examples < grown.splits["eval"]
    assert "new: new class" in grown.note


def test_a_model_that_returns_is_held_against_the_one_that_is_served_then(story: Story) -> None:
    """A, B, A, B: each time the candidate comes from the cache, and the baseline is what the push before it left."""
    served: list[RunSummary] = []
    for seed in (1, 2, 1, 2):
        served.append(story.run(*_QUICK, f"seed={seed}"))
        assert served[-1].blessed
        assert served[-1].pushed_path is not None
        assert pathlib.Path(served[-1].pushed_path).name == max(story.versions, key=int), "the newest is what it says"
    assert [run.new_version for run in served] == [True] * 4
    assert "Trainer" in served[2].cached
    for before, run in itertools.pairwise(served):
        assert run.baseline_accuracy == before.accuracy


def test_a_version_that_somebody_removed_is_put_back(story: Story) -> None:
    shutil.rmtree(story.workspace / "models")
    back = story.run(*_QUICK, "seed=2")
    assert "Trainer" in back.cached
    assert back.baseline_accuracy is None
    assert (back.pushed_version, back.new_version) == (1, True)
    assert story.versions == ["1"]


@assets.needs_assets
def test_real_photos_on_real_weights_are_learned_and_served_as_trained(tmp_path: pathlib.Path) -> None:
    import requests

    from graftline.serving.server import ModelServer
    from graftline.serving.versions import locate

    for label in ("daisy", "roses", "tulips"):
        (tmp_path / "flowers" / label).mkdir(parents=True)
        for path in sorted((assets.FLOWERS / label).iterdir())[:60]:
            shutil.copy(path, tmp_path / "flowers" / label)
    settings = [
        f"backbone.weights={assets.MOBILENET_V2_035}",
        "backbone.options={alpha: 0.35}",
        "backbone.input_size=96",
        "fine_tuning.epochs=2",
    ]
    given = {"images": str(tmp_path / "flowers"), "workspace": str(tmp_path / "workspace")}
    summary = app.run_pipeline(config_file.load(None, settings, given))
    assert summary.blessed
    # .77 on all five classes by a linear probe; about .4 when the preprocessing is forgotten.
    assert summary.accuracy is not None
    assert summary.accuracy >= 0.6

    (artifact,) = (tmp_path / "workspace" / "artifacts" / "Trainer" / "model").iterdir()
    references = read_references(str(artifact / signatures.REFERENCES_FILE))[:8]
    body = {"instances": [{"b64": base64.b64encode(r.image_bytes).decode()} for r in references]}
    with ModelServer(locate.find_models(str(tmp_path / "workspace")), 0, 0) as server:
        url = f"http://127.0.0.1:{server.rest_port}/v1/models/flowers:predict"
        predictions = requests.post(url, json=body, timeout=60).json()["predictions"]
    for one, expected in zip(predictions, references, strict=True):
        np.testing.assert_allclose(one["probabilities"], expected.probabilities, atol=1e-4)
        assert one["label"] == summary.classes[int(expected.probabilities.argmax())]
