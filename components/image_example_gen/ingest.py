"""The Beam stages of ImageExampleGen: check every file, plan, write the shards, report. No TFX in here, so that Beam's
workers, which import this module, start fast.

Only rows of a few hundred bytes cross a shuffle. Image bytes live inside one call of one DoFn: the in-memory runner
keeps everything that is grouped or reshuffled, and 5,000 phone photos are 20 GB. So each file is read twice: to hash
and decode it, and, once the plan is made, to write it. In return the plan knows which images are good: every split and
shard gets its exact share, and a class never loses its only training image to a bad file.
"""

import hashlib
import os
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import apache_beam as beam
import tensorflow as tf

from components.image_example_gen import decoding, files, quarantine
from components.image_example_gen.decoding import Decoded, Quarantined
from components.image_example_gen.layouts import File, Layout
from components.image_example_gen.plan import IMAGES_PER_SHARD, Plan, Row, Shard, make_plan
from components.image_example_gen.quarantine import Written
from components.image_example_gen.settings import IngestSettings
from graftline import features

_BATCH = 64  # files a Beam element: enough to keep a thread pool busy, few enough to spread over workers
_ASIDE = "aside"  # folder for unfinished shards; beside Split-*, as everything inside those is read as data
_PLAN = "plan"

In = TypeVar("In")
Out = TypeVar("Out")


def ingest(
    pipeline: beam.Pipeline,
    layout: Layout,
    examples_uri: str,
    report_uri: str,
    settings: IngestSettings,
    images_per_shard: int = IMAGES_PER_SHARD,
) -> None:
    """Add the stages that turn `layout` into `examples_uri/Split-{train,eval}/` and a report under `report_uri`."""
    pathed = [layout.files[i : i + _BATCH] for i in range(0, len(layout.files), _BATCH)]
    refused = [Row(File(path, label), "", 0, Quarantined(reason)) for path, label, reason in layout.refused]
    checked = (
        pipeline
        | "Files" >> beam.Create(pathed)
        | "SpreadFiles" >> beam.Reshuffle()
        | "Check" >> beam.ParDo(CheckFiles(layout.root))
    )
    not_opened = pipeline | "NotOpened" >> beam.Create(refused)
    planned = (
        (checked, not_opened)
        | "AllRows" >> beam.Flatten()
        | "OneList" >> beam.combiners.ToList()
        | "Plan"
        >> beam.ParDo(PlanShards(settings, images_per_shard)).with_outputs(_PLAN, main="shards")
    )
    written = (
        planned.shards
        | "SpreadShards" >> beam.Reshuffle()
        | "Write" >> beam.ParDo(WriteShard(layout.root, examples_uri))
    )
    _ = (
        (planned[_PLAN], written)
        | "Outcomes" >> beam.Flatten()
        | "OneReport" >> beam.combiners.ToList()
        | "Report" >> beam.ParDo(WriteReport(report_uri, layout.warnings))
    )


class _Threaded(beam.DoFn):
    """A DoFn with a thread pool for its lifetime: reading and decoding release the GIL."""

    def setup(self) -> None:
        self._pool = ThreadPoolExecutor(files.cpus())

    def teardown(self) -> None:
        self._pool.shutdown()


class CheckFiles(_Threaded):
    """A batch of files -> a `Row` for each: hash and verdict."""

    def __init__(self, root: str) -> None:
        self._root = root

    def process(self, batch: Sequence[File]) -> Iterator[Row]:
        """Yield the rows in the order of the batch."""
        yield from self._pool.map(lambda file: check(self._root, file), batch)


class PlanShards(beam.DoFn):
    """All rows -> the shards to write; the plan without its shards goes to the output "plan"."""

    def __init__(self, settings: IngestSettings, images_per_shard: int) -> None:
        self._settings, self._images_per_shard = settings, images_per_shard

    def process(self, rows: list[Row]) -> Iterator[Any]:  # Beam takes a tagged output in a union for an element
        """Yield shards and one tagged plan."""
        plan = make_plan(rows, self._settings, self._images_per_shard)
        yield from plan.shards
        yield beam.pvalue.TaggedOutput(_PLAN, replace(plan, shards=()))


class WriteShard(_Threaded):
    """A `Shard` -> its file, whole or not at all; tells what was `Written`."""

    def __init__(self, root: str, examples_uri: str) -> None:
        self._root = root
        self._examples_uri = examples_uri

    def process(self, shard: Shard) -> Iterator[Written]:
        """Write aside and rename. A bundle that Beam runs again writes the same bytes to the same name."""
        folder = os.path.join(self._examples_uri, f"Split-{shard.split}")
        aside = os.path.join(self._examples_uri, _ASIDE)
        unfinished = os.path.join(aside, f"{shard.split}-{shard.name}-{uuid.uuid4().hex}")
        for needed in (folder, aside):
            tf.io.gfile.makedirs(needed)
        labels: Counter[str] = Counter()
        lost = []
        with tf.io.TFRecordWriter(unfinished) as writer:
            for row, record in _ahead(self._pool, lambda row: (row, record_of(self._root, row)), shard.rows):
                if isinstance(record, Quarantined):
                    lost.append(replace(row, verdict=record))
                else:
                    writer.write(record)
                    labels[row.label] += 1
        tf.io.gfile.rename(unfinished, os.path.join(folder, shard.name), overwrite=True)
        yield Written(shard.split, tuple(sorted(labels.items())), tuple(lost))


class WriteReport(beam.DoFn):
    """The plan and every `Written` -> quarantine.csv and summary.json."""

    def __init__(self, report_uri: str, warnings: Sequence[str]) -> None:
        self._report_uri = report_uri
        self._warnings = tuple(warnings)

    def process(self, outcomes: list[Plan | Written]) -> Iterator[quarantine.Summary]:
        """Write both files; yields what it wrote."""
        (plan,) = (outcome for outcome in outcomes if isinstance(outcome, Plan))
        written = [outcome for outcome in outcomes if isinstance(outcome, Written)]
        summary = quarantine.summarize(plan, written, self._warnings)
        tf.io.gfile.makedirs(self._report_uri)
        for name, text in (
            (quarantine.CSV_NAME, quarantine.to_csv(quarantine.quarantined_rows(plan, written))),
            (quarantine.SUMMARY_NAME, summary.to_json()),
        ):
            with tf.io.gfile.GFile(os.path.join(self._report_uri, name), "w") as file:
                file.write(text)
        yield summary


def clean_up(examples_uri: str) -> None:
    """Remove what killed attempts left aside."""
    aside = os.path.join(examples_uri, _ASIDE)
    if tf.io.gfile.isdir(aside):
        tf.io.gfile.rmtree(aside)


def check(root: str, file: File) -> Row:
    """Read, hash and decode one file. Bad ones are rows too; this never raises for what a file holds or is."""
    size = 0
    try:
        with files.open_regular(os.path.join(root, file.path)) as opened:
            size = os.fstat(opened.fileno()).st_size
            if size > decoding.MAX_BYTES:
                return Row(file, "", size, decoding.too_many_bytes(size))
            data = opened.read(decoding.MAX_BYTES + 1)
    except OSError as error:
        return Row(file, "", size, Quarantined(f"unreadable: {error.strerror}"))
    return Row(file, hashlib.sha256(data).hexdigest(), len(data), decoding.decode(data))


def record_of(root: str, row: Row) -> bytes | Quarantined:
    """The serialized tf.Example of a row that was found good, unless its file has changed since."""
    try:
        with files.open_regular(os.path.join(root, row.path)) as file:
            data = file.read(decoding.MAX_BYTES + 1)
    except OSError as error:
        return Quarantined(f"vanished during the run: {error.strerror}")
    if hashlib.sha256(data).hexdigest() != row.sha256:
        return Quarantined("changed during the run")
    return to_example(row, data).SerializeToString(deterministic=True)


def to_example(row: Row, data: bytes) -> tf.train.Example:
    """The features that `graftline.features` names, from a good row and the bytes of its file."""
    good = row.verdict
    assert isinstance(good, Decoded), row.path
    texts = {
        features.IMAGE: data,
        features.FORMAT: good.format.encode(),
        features.FILENAME: row.path.encode(),
        features.SHA256: row.sha256.encode(),
        features.LABEL: row.label.encode(),
    }
    sizes = {features.HEIGHT: good.height, features.WIDTH: good.width}
    qualities = {
        features.BRIGHTNESS: good.brightness,
        features.CONTRAST: good.contrast,
        features.SHARPNESS: good.sharpness,
    }
    feature = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for name, v in texts.items()}
    feature |= {name: tf.train.Feature(int64_list=tf.train.Int64List(value=[v])) for name, v in sizes.items()}
    feature |= {name: tf.train.Feature(float_list=tf.train.FloatList(value=[v])) for name, v in qualities.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature))


def _ahead(pool: ThreadPoolExecutor, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """`map` in order, with no more than a few results waiting: `pool.map` would read a whole shard into memory."""
    waiting: deque[Future[Out]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > 2 * files.cpus():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
