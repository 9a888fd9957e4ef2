"""`graftline bulk`: classifies any number of files on any runner and file system of Beam, into CSV or JSON lines.

The rows are those of `graftline predict`. Only paths and rows go from stage to stage; a worker reads, transcodes and
classifies the images of a batch in one call. Imports no TFX: workers import this module and should start fast.
"""

import contextlib
import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import apache_beam as beam
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from graftline.components.storage import files
from graftline.errors import UserError
from graftline.pipeline import predictions
from graftline.serving.client import Client, Prediction
from graftline.serving.client.classifying import BATCH_IMAGES, load
from graftline.serving.images.formats import is_image_name
from graftline.serving.predict import LocalClassifier, connect
from graftline.serving.versions.locate import find_model
from graftline.uri import is_uri

Format = Literal["csv", "jsonl"]
# Direct runners have no workers. Without an image name Beam packages sources for workers.
_DIRECT = ("--direct_running_mode=in_memory", "--direct_num_workers=1", "--sdk_container_image=none")
_COUNTERS = "graftline.bulk"
_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class ClassifierTarget:
    """What classifies: a SavedModel's folder that every worker can read, or a server that every worker can reach."""

    directory: str = ""
    server: str = ""
    name: str | None = None


class Classifier(ModelHandler[str, Prediction, Any]):
    """Turns paths or URIs of images into Predictions, for RunInference."""

    def __init__(self, target: ClassifierTarget) -> None:
        """Keep the target. Workers load the model or connect to the server."""
        self._target = target

    def load_model(self) -> LocalClassifier | Client:
        """Load the model into this process, or connect to the server."""
        target = self._target
        return LocalClassifier(target.directory) if target.directory else connect(target.server, target.name)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Return the sizes of batches of paths. The images of a batch are bounded in bytes where they are read."""
        return {"min_batch_size": BATCH_IMAGES, "max_batch_size": 4 * BATCH_IMAGES}

    def run_inference(
        self, batch: Sequence[str], model: LocalClassifier | Client, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Prediction]:
        """Yield one row for each path, in order."""
        return model.stream(load(path, read=files.read) for path in batch)


def run(
    images: Sequence[str],
    target: ClassifierTarget,
    output: str,
    form: Format = "csv",
    shards: int = 0,
    options: Sequence[str] = (),
) -> tuple[int, int]:
    """Classify the files that `images` names and write the rows to `output`-00000-of-0000N.csv or .jsonl.

    Args:
      images: files, folders (searched at any depth, as `graftline predict` does) and patterns such as
        gs://bucket/photos/**.jpg, on any file system of Beam.
      target: what classifies.
      output: path or URI of the shards, without their numbers and suffix.
      form: "csv" (each shard begins with the column names) or "jsonl" (one object per line).
      shards: how many files; 0: the runner decides.
      options: Beam's flags, such as --runner=FlinkRunner; without one the direct runner runs in this process.

    Returns:
      The number of images that were classified, and of those that were not.

    Raises:
      UserError: no file matches a pattern, or the model or server cannot be used.
    """
    flags = [*(() if any(flag.startswith("--runner") for flag in options) else _DIRECT), *options]
    files.use_beam_options(flags)
    patterns = [_pattern(image) for image in images]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    lines = (
        pipeline
        | "Patterns" >> beam.Create(patterns)
        | "Match" >> beam.FlatMapTuple(_matches)
        | "Spread" >> beam.Reshuffle()
        | "Images" >> beam.FlatMapTuple(_images)
        | "Classify" >> RunInference(Classifier(target))
        | "Rows" >> beam.ParDo(_Rows(form))
    )
    header = ",".join(predictions.CSV_COLUMNS) if form == "csv" else None
    _ = lines | "Write" >> beam.io.WriteToText(output, f".{form}", num_shards=shards, header=header)
    result = pipeline.run()
    result.wait_until_finish()
    return _count(result, "classified"), _count(result, "failed")


def _count(result: Any, counter: str) -> int:
    counters = result.metrics().query(MetricsFilter().with_namespace(_COUNTERS).with_name(counter))["counters"]
    return sum(metric.result for metric in counters)


def _pattern(image: str) -> tuple[str, str]:
    """Return Beam's pattern, and the folder in which only image files are taken; "" if all matches are taken."""
    if os.path.isdir(image):
        return os.path.join(glob.escape(image), "**"), image
    if os.path.exists(image):
        return glob.escape(image), ""
    if not is_uri(image) and not _MAGIC & set(image):
        raise UserError(f"no such file or folder: {image}; name an image, a folder of images or a pattern")
    try:
        if files.match(image, 1):
            return image, ""
        inside = f"{image.rstrip('/')}/**"
        if files.match(inside, 1):
            return inside, image
    except Exception as error:
        raise UserError(f"{image} cannot be read: {files.why(error)}") from error
    raise UserError(f"no file matches {image}; name an image, a folder of images or a pattern")


def _matches(pattern: str, folder: str) -> Iterator[tuple[str, str]]:
    for path in files.match(pattern):
        yield path, folder


def _images(path: str, folder: str) -> Iterator[str]:
    """Yield the path if it is to be classified: in a folder only files that `graftline predict` would take."""
    if not folder:
        yield path
    elif not any(map(files.is_left_out, path[len(folder) :].split("/"))):
        with contextlib.suppress(OSError):
            if is_image_name(path) or files.sniff(files.head(path)) in files.READABLE:
                yield path


class _Rows(beam.DoFn):
    """Turns Predictions into lines, and counts them."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._good = Metrics.counter(_COUNTERS, "classified")
        self._bad = Metrics.counter(_COUNTERS, "failed")

    def process(self, prediction: Prediction) -> Iterator[str]:
        """Yield one line."""
        (self._bad if prediction.error else self._good).inc()
        yield predictions.csv_row(prediction) if self._form == "csv" else predictions.json_row(prediction)


def find_target(model: str | None, server: str | None, name: str | None) -> ClassifierTarget:
    """Return what the options of the command name, after loading the model once or connecting to the server."""
    if server is None:
        directory = os.path.abspath(find_model(str(model), name).newest[1])
        LocalClassifier(directory).close()
        return ClassifierTarget(directory=directory)
    connect(server, name).close()
    return ClassifierTarget(server=server, name=name)
