"""The Beam stages of ImageExampleGen: check every file, plan, write the shards, report.

Beam's workers import this module; it imports no TFX, so that they start fast.

Only rows of a few hundred bytes cross a shuffle. Image bytes stay within one call of one DoFn: the in-memory runner
keeps everything that is grouped or reshuffled, and 5,000 phone photos are 20 GB. So each file is read twice: first to
hash and decode it, and after planning to write it. In return the plan knows which images are good: every split and
shard gets its exact share, and a class never loses its only training image to a bad file.

Rows cross a shuffle in pickled batches, because Beam's coders take 0.1 ms for each row. The batches are compressed by
zlib, because the in-memory runner keeps all of them: this halves the memory and takes 5 us for each row.
"""

import hashlib
import os
import pickle
import uuid
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

import apache_beam as beam
import tensorflow as tf

from graftline import features
from graftline.components.image_example_gen import assignments, decoding, duplicates_report, quarantine
from graftline.components.image_example_gen.decoding import Decoded, Quarantined
from graftline.components.image_example_gen.layouts import File, Layout, Roots
from graftline.components.image_example_gen.plan import IMAGES_PER_SHARD, CheckedFile, Plan, Shard, make_plan
from graftline.components.image_example_gen.quarantine import WrittenShard
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.components.storage import files
from graftline.serving.images import isolated

_BATCH = 512  # files in a Beam element: enough to keep a thread pool busy, few enough to spread over workers
_CHUNK = 32  # files that a thread takes at once; fewer if they are large
_CHUNK_BYTES = 16 << 20
_ASIDE = "aside"  # folder of unfinished shards, beside Split-*: everything inside Split-* is read as data
_PLAN = "plan"

In = TypeVar("In")
Out = TypeVar("Out")


def ingest(
    pipeline: beam.Pipeline,
    layout: Layout,
    examples_uri: str,
    report_uri: str,
    settings: IngestSettings,
    state: str = "",
    images_per_shard: int = IMAGES_PER_SHARD,
) -> None:
    """Add the stages that write `examples_uri/Split-{train,eval}/` and a report under `report_uri`.

    The splits of the images of earlier runs in the folder or URI `state` are only read; "" is for none.
    """
    batches = [_packed(layout.files[i : i + _BATCH]) for i in range(0, len(layout.files), _BATCH)]
    refused = [CheckedFile(File(path, label), "", 0, Quarantined(reason)) for path, label, reason in layout.refused]
    checked = (
        pipeline
        | "Files" >> beam.Create(batches)
        | "SpreadFiles" >> beam.Reshuffle()
        | "Check" >> beam.ParDo(CheckFiles(layout.roots, settings))
    )
    not_opened = pipeline | "NotOpened" >> beam.Create([_packed(refused)])
    planned = (
        (checked, not_opened)
        | "AllRows" >> beam.Flatten()
        | "OneList" >> beam.combiners.ToList()
        | "Plan" >> beam.ParDo(PlanShards(settings, state, images_per_shard)).with_outputs(_PLAN, main="shards")
    )
    written = (
        planned.shards
        | "SpreadShards" >> beam.Reshuffle()
        | "Write" >> beam.ParDo(WriteShard(layout.roots, settings, examples_uri))
    )
    _ = (
        (planned[_PLAN], written)
        | "Outcomes" >> beam.Flatten()
        | "OneReport" >> beam.combiners.ToList()
        | "Report" >> beam.ParDo(WriteReport(report_uri, layout, settings))
    )


class _Threaded(beam.DoFn):
    """A DoFn with a thread pool for its lifetime: reading and decoding release the GIL."""

    def __init__(self, roots: Roots, settings: IngestSettings) -> None:
        self._roots, self._settings = roots, settings

    def setup(self) -> None:
        """Start the pool."""
        self._pool = ThreadPoolExecutor(files.REMOTE_THREADS if self._roots.remote else files.cpus())

    def teardown(self) -> None:
        """Stop the pool and the isolated decoder."""
        self._pool.shutdown()
        isolated.close()


class CheckFiles(_Threaded):
    """A packed batch of files -> a packed list of `CheckedFile`, with hash and verdict."""

    def process(self, packed: bytes) -> Iterator[bytes]:
        """Yield the list."""
        batch: Sequence[File] = _unpacked(packed)
        chunks = [batch[start : start + _CHUNK] for start in range(0, len(batch), _CHUNK)]
        rows = self._pool.map(lambda chunk: check(self._roots, chunk, self._settings), chunks)
        yield _packed(list(chain.from_iterable(rows)))


class PlanShards(beam.DoFn):
    """All lists of rows -> the packed shards. The plan without its shards goes to the output "plan"."""

    def __init__(self, settings: IngestSettings, state: str, images_per_shard: int) -> None:
        """Make the stage."""
        self._settings, self._state, self._images_per_shard = settings, state, images_per_shard

    def process(self, packed: list[bytes]) -> Iterator[Any]:  # in a union Beam takes a tagged output for an element
        """Yield the shards and one tagged plan."""
        known = assignments.load(self._state, self._settings) if self._state else {}
        rows = chain.from_iterable(map(_unpacked, packed))
        plan = make_plan(rows, self._settings, self._images_per_shard, known=known)
        yield from map(_packed, plan.shards)
        yield beam.pvalue.TaggedOutput(_PLAN, replace(plan, shards=()))


class WriteShard(_Threaded):
    """A packed `Shard` -> its file, whole or not at all, and a `WrittenShard`."""

    def __init__(self, roots: Roots, settings: IngestSettings, examples_uri: str) -> None:
        """Make the stage."""
        super().__init__(roots, settings)
        self._examples_uri = examples_uri

    def process(self, packed: bytes) -> Iterator[WrittenShard]:
        """Write to a temporary name, then rename. A bundle that Beam repeats writes the same bytes."""
        shard: Shard = _unpacked(packed)
        folder = os.path.join(self._examples_uri, f"Split-{shard.split}")
        aside = os.path.join(self._examples_uri, _ASIDE)
        unfinished = os.path.join(aside, f"{shard.split}-{shard.name}-{uuid.uuid4().hex}")
        for needed in (folder, aside):
            tf.io.gfile.makedirs(needed)
        labels: Counter[str] = Counter()
        lost = []
        with tf.io.TFRecordWriter(unfinished) as writer:
            for rows, records in self._map(shard.rows):
                for row, record in zip(rows, records, strict=True):
                    if isinstance(record, Quarantined):
                        lost.append(replace(row, verdict=record))
                    else:
                        writer.write(record)
                        labels[row.label] += 1
        tf.io.gfile.rename(unfinished, os.path.join(folder, shard.name), overwrite=True)
        yield WrittenShard(shard.split, tuple(sorted(labels.items())), tuple(lost))

    def _map(self, rows: Sequence[CheckedFile]) -> Iterator[tuple[Sequence[CheckedFile], list[bytes | Quarantined]]]:
        """Yield `_records` of all rows.

        The pool makes them if they are remote or transcoded. For plain copies threads take twice the time: they only
        hand the interpreter to each other.
        """
        if self._roots.remote or any(isinstance(row.verdict, Decoded) and row.verdict.transcoded for row in rows):
            return _ahead(self._pool, self._records, _chunks(rows))
        return map(self._records, _chunks(rows))

    def _records(self, rows: Sequence[CheckedFile]) -> tuple[Sequence[CheckedFile], list[bytes | Quarantined]]:
        return rows, [record_of(self._roots, row, self._settings) for row in rows]


class WriteReport(beam.DoFn):
    """The plan and every `WrittenShard` -> quarantine.csv, summary.json, the splits and the reports on copies."""

    def __init__(self, report_uri: str, layout: Layout, settings: IngestSettings) -> None:
        """Make the stage."""
        self._report_uri, self._roots, self._warnings = report_uri, layout.roots, layout.warnings
        self._max_side = settings.max_side

    def process(self, outcomes: list[Plan | WrittenShard]) -> Iterator[quarantine.Summary]:
        """Write the files and yield the summary."""
        (plan,) = (outcome for outcome in outcomes if isinstance(outcome, Plan))
        written = [outcome for outcome in outcomes if isinstance(outcome, WrittenShard)]
        summary = quarantine.summarize(plan, written, self._warnings)
        tf.io.gfile.makedirs(self._report_uri)
        for name, text in (
            (quarantine.CSV_NAME, quarantine.to_csv(quarantine.quarantined_rows(plan, written))),
            (quarantine.SUMMARY_NAME, summary.to_json()),
        ):
            with tf.io.gfile.GFile(os.path.join(self._report_uri, name), "w") as file:
                file.write(text)
        assignments.write(os.path.join(self._report_uri, quarantine.SPLITS_NAME), plan.splits)
        duplicates_report.write(self._report_uri, plan, self._read_stored)
        yield summary

    def _read_stored(self, path: str) -> bytes | None:
        """Return an image's bytes as they are stored, so that other formats' decoders stay out of this process."""
        try:
            data, _ = files.read(self._roots.locate(path), decoding.MAX_BYTES)
        except OSError:
            return None
        if files.sniff(data[: files.HEAD_BYTES]) in files.DECODABLE:
            return data
        verdict = decoding.decode(data, self._max_side)
        stored = verdict if isinstance(verdict, Quarantined) else decoding.to_store(data, verdict, self._max_side)
        return stored if isinstance(stored, bytes) else None


def clean_up(examples_uri: str) -> None:
    """Remove the unfinished shards of killed attempts."""
    aside = os.path.join(examples_uri, _ASIDE)
    if tf.io.gfile.isdir(aside):
        tf.io.gfile.rmtree(aside)


def check(roots: Roots, chunk: Sequence[File], settings: IngestSettings) -> list[CheckedFile]:
    """Read, hash and decode some files. Bad files get a row too: no type or content of a file raises."""
    rows: list[CheckedFile] = []
    waiting: list[tuple[File, bytes]] = []
    held = 0  # bytes

    def decode() -> None:
        verdicts = decoding.decode_many([data for _, data in waiting], settings.max_side)
        for (file, data), verdict in zip(waiting, verdicts, strict=True):
            rows.append(CheckedFile(file, hashlib.sha256(data).hexdigest(), len(data), verdict))
        waiting.clear()

    for file in chunk:
        try:
            data, size = files.read(roots.locate(file.path), decoding.MAX_BYTES)
        except OSError as error:
            rows.append(CheckedFile(file, "", 0, Quarantined(f"unreadable: {error.strerror}")))
            continue
        if size > decoding.MAX_BYTES:
            rows.append(CheckedFile(file, "", size, decoding.too_many_bytes(size)))
            continue
        waiting.append((file, data))
        held += len(data)
        if held > _CHUNK_BYTES:
            decode()
            held = 0
    decode()
    return rows


def record_of(roots: Roots, row: CheckedFile, settings: IngestSettings) -> bytes | Quarantined:
    """Return the serialized tf.Example of a good file, or a refusal if the file has changed since it was checked."""
    try:
        data, _ = files.read(roots.locate(row.path), decoding.MAX_BYTES)
    except OSError as error:
        return Quarantined(f"vanished during the run: {error.strerror}")
    if hashlib.sha256(data).hexdigest() != row.sha256:
        return Quarantined("changed during the run")
    assert isinstance(row.verdict, Decoded), row.path
    stored = decoding.to_store(data, row.verdict, settings.max_side)
    if isinstance(stored, Quarantined):
        return stored
    return to_example(row, stored).SerializeToString(deterministic=True)


def to_example(row: CheckedFile, data: bytes) -> tf.train.Example:
    """Return the features that `graftline.features` names, from a good file and the bytes to store."""
    good = row.verdict
    assert isinstance(good, Decoded), row.path
    sha256 = hashlib.sha256(data).hexdigest() if good.transcoded else row.sha256
    example = tf.train.Example()
    # Filled in place: protobuf copies parts that are passed to it, which takes twice the time.
    feature = example.features.feature
    for name, text in (
        (features.IMAGE, data),
        (features.FORMAT, good.format.encode()),
        (features.FILENAME, row.path.encode()),
        (features.SHA256, sha256.encode()),
        (features.LABEL, row.label.encode()),
    ):
        feature[name].bytes_list.value.append(text)
    for name, size in ((features.HEIGHT, good.height), (features.WIDTH, good.width)):
        feature[name].int64_list.value.append(size)
    for name, quality in (
        (features.BRIGHTNESS, good.brightness),
        (features.CONTRAST, good.contrast),
        (features.SHARPNESS, good.sharpness),
    ):
        feature[name].float_list.value.append(quality)
    return example


def _packed(value: Any) -> bytes:
    return zlib.compress(pickle.dumps(value), 1)


def _unpacked(packed: bytes) -> Any:
    return pickle.loads(zlib.decompress(packed))


def _chunks(rows: Sequence[CheckedFile]) -> Iterator[list[CheckedFile]]:
    chunk: list[CheckedFile] = []
    for row in rows:
        if chunk and (len(chunk) == _CHUNK or sum(one.size for one in chunk) + row.size > _CHUNK_BYTES):
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk


def _ahead(pool: ThreadPoolExecutor, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
    """Map in order with few results waiting: `pool.map` would read a whole shard into memory."""
    waiting: deque[Future[Out]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > 2 * files.cpus():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
