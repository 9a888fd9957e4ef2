"""`graftline bulk`: classify any number of files on any runner and filesystem of Beam, into CSV or JSON lines.

The rows are those of `graftline predict`. Only paths and rows go from stage to stage; a worker reads, transcodes and
classifies the images of a batch in one call. No TFX in here, so that workers, which import this module, start fast.
"""

import contextlib
import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
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
# Without a name for an image, of which direct runners have none, Beam packs sources for workers that there are not.
_DIRECT = ("--direct_running_mode=in_memory", "--direct_num_workers=1", "--sdk_container_image=none")
_COUNTERS = "graftline.bulk"
_MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class By:
    """What classifies: a SavedModel's folder that every worker sees, or a server that every worker reaches."""

    directory: str = ""
    server: str = ""
    name: str | None = None


class Classifier(ModelHandler[str, Prediction, Any]):
    """Paths or URIs of images → Predictions, for RunInference."""

    def __init__(self, by: By) -> None:
        self._by = by

    def load_model(self) -> LocalClassifier | Client:
        """The model in this process, or a client of the server."""
        return LocalClassifier(self._by.directory) if self._by.directory else connect(self._by.server, self._by.name)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Paths are small; the images of a batch are bounded in bytes where they are read."""
        return {"min_batch_size": BATCH_IMAGES, "max_batch_size": 4 * BATCH_IMAGES}

    def run_inference(
        self, batch: Sequence[str], model: LocalClassifier | Client, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Prediction]:
        """One row for each path, in order."""
        return model.stream(load(path, read=files.read) for path in batch)


def run(
    images: Sequence[str],
    by: By,
    output: str,
    form: Format = "csv",
    shards: int = 0,
    options: Sequence[str] = (),
) -> tuple[int, int]:
    """Classify the files that `images` mean and write the rows to `output`-00000-of-0000N.csv or .jsonl.

    Args:
      images: files, folders (searched at any depth, as `graftline predict` does) and patterns such as
        gs://bucket/photos/**.jpg, of any filesystem that Beam opens.
      by: what classifies.
      output: where, without the numbers and the suffix; also a URI.
      form: "csv" (a line of column names in each shard) or "jsonl" (an object a line).
      shards: how many files; the runner decides when 0.
      options: Beam's flags, such as --runner=FlinkRunner; the direct runner in this process without.

    Returns:
      how many images were classified, and how many were not.

    Raises:
      UserError: a pattern that nothing matches, a model or server that can't be used.
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
        | "Classify" >> RunInference(Classifier(by))
        | "Rows" >> beam.ParDo(_Rows(form))
    )
    header = ",".join(predictions.CSV_COLUMNS) if form == "csv" else None
    _ = lines | "Write" >> beam.io.WriteToText(output, f".{form}", num_shards=shards, header=header)
    result = pipeline.run()
    result.wait_until_finish()
    return _count(result, "classified"), _count(result, "failed")


def _count(result: Any, counter: str) -> int:
    found = result.metrics().query(MetricsFilter().with_namespace(_COUNTERS).with_name(counter))["counters"]
    return sum(metric.result for metric in found)


def _pattern(image: str) -> tuple[str, str]:
    """(Beam's pattern, the folder that it searches for what are images, "" when it means all that it matches)."""
    if os.path.isdir(image):
        return os.path.join(glob.escape(image), "**"), image
    if os.path.exists(image):
        return glob.escape(image), ""
    if not is_uri(image) and not _MAGIC & set(image):
        raise UserError(f"no such file or folder: {image}; name an image, a folder of images or a pattern")
    try:
        if FileSystems.match([image], limits=[1])[0].metadata_list:
            return image, ""
        inside = f"{image.rstrip('/')}/**"
        if FileSystems.match([inside], limits=[1])[0].metadata_list:
            return inside, image
    except Exception as error:
        raise UserError(f"{image} cannot be read: {files.why(error)}") from error
    raise UserError(f"no file matches {image}; name an image, a folder of images or a pattern")


def _matches(pattern: str, folder: str) -> Iterator[tuple[str, str]]:
    for found in FileSystems.match([pattern])[0].metadata_list:
        yield found.path, folder


def _images(path: str, folder: str) -> Iterator[str]:
    """Of a folder those files that `graftline predict` would take; of other patterns all."""
    if not folder:
        yield path
    elif not any(map(files.is_left_out, path[len(folder) :].split("/"))):
        with contextlib.suppress(OSError):
            if is_image_name(path) or files.sniff(files.head(path)) in files.READABLE:
                yield path


class _Rows(beam.DoFn):
    """Predictions → lines, counted."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._good = Metrics.counter(_COUNTERS, "classified")
        self._bad = Metrics.counter(_COUNTERS, "failed")

    def process(self, found: Prediction) -> Iterator[str]:
        """Yield one line."""
        (self._bad if found.error else self._good).inc()
        yield predictions.csv_row(found) if self._form == "csv" else predictions.json_row(found)


def chosen(model: str | None, server: str | None, name: str | None) -> By:
    """What the command line means; the model has been loaded once, or the server has answered. Raises UserError."""
    if server is None:
        directory = os.path.abspath(find_model(str(model), name).newest[1])
        LocalClassifier(directory).close()
        return By(directory=directory)
    connect(server, name).close()
    return By(server=server, name=name)
