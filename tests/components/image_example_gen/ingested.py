"""Runs of ImageExampleGen's executor, and what they wrote, for its tests."""

import csv
import json
import pathlib
from typing import Any

import tensorflow as tf
from tfx.types import standard_artifacts

from graftline import features
from graftline.components.image_example_gen.artifacts import Quarantine
from graftline.components.image_example_gen.executor import Executor
from graftline.components.image_example_gen.settings import IngestSettings

SETTINGS = IngestSettings(eval_fraction=0.3)


ALL_FEATURES = {
    features.IMAGE,
    features.FORMAT,
    features.FILENAME,
    features.SHA256,
    features.HEIGHT,
    features.WIDTH,
    features.LABEL,
    features.BRIGHTNESS,
    features.CONTRAST,
    features.SHARPNESS,
}


class Result:
    """What one execution left."""

    def __init__(self, place: pathlib.Path) -> None:
        self.examples = standard_artifacts.Examples()
        self.examples.uri = str(place / "examples")
        self.quarantine = Quarantine()
        self.quarantine.uri = str(place / "quarantine")

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(pathlib.Path(self.quarantine.uri, "summary.json").read_text())

    @property
    def refused(self) -> dict[str, str]:
        with pathlib.Path(self.quarantine.uri, "quarantine.csv").open(newline="") as file:
            return {row["path"]: row["reason"] for row in csv.DictReader(file)}

    def shards(self) -> dict[str, bytes]:
        root = pathlib.Path(self.examples.uri)
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    def records(self, split: str) -> list[tf.train.Example]:
        files = sorted(str(p) for p in pathlib.Path(self.examples.uri, f"Split-{split}").iterdir())
        return [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(files)]

    def paths(self) -> dict[str, str]:
        """path: split"""
        return {text(e, features.FILENAME).decode(): s for s in features.SPLITS for e in self.records(s)}


def text(example: tf.train.Example, name: str) -> bytes:
    return example.features.feature[name].bytes_list.value[0]


def execute(
    images: pathlib.Path | list[str],
    place: pathlib.Path,
    report_dir: pathlib.Path | None = None,
    state: pathlib.Path | None = None,
    **changed: Any,
) -> Result:
    result = Result(place)
    properties = {
        "images": json.dumps(images if isinstance(images, list) else [str(images)]),
        "fingerprint": "",
        "settings": IngestSettings(**{"eval_fraction": 0.3, **changed}).model_dump_json(),
        "report_dir": report_dir and str(report_dir),
        "state": state and str(state),
    }
    context = Executor.Context(beam_pipeline_args=[], tmp_dir=str(place), unique_id="1")
    outputs = {"examples": [result.examples], "quarantine": [result.quarantine]}
    Executor(context).Do({}, outputs, properties)
    return result
