"""The probabilities that both models give each image: the Evaluator's Beam pipeline writes them, the gate reads them.

The files are Parquet (`predictions-*.parquet` in the evaluation), which pandas reads.
"""

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import tensorflow_model_analysis as tfma

from graftline import features, signatures
from graftline.components.evaluator import scored, settings
from graftline.components.evaluator.scored import Answers, Slices
from graftline.components.storage import files as storage

PREFIX = "predictions"
CANDIDATE, BASELINE = "candidate", "baseline"
UNKNOWN = "unknown"  # the slice of an image whose size or brightness was not measured
_SEPARATE = "graftline_baseline"  # key of the extracts for a baseline that TFMA's metrics must not see
_MEASURED = {settings.SIZE: (features.HEIGHT, features.WIDTH), settings.BRIGHTNESS: (features.BRIGHTNESS,)}
_BATCH = 4096  # rows of a file that are read at once


def extractors(
    models: Sequence[tfma.types.EvalSharedModel],
    config: tfma.EvalConfig,
    classes: Mapping[str, int],
    output: str,
    separate: tuple[tfma.types.EvalSharedModel, tfma.EvalConfig] | None = None,
) -> list[tfma.extractors.Extractor]:
    """Return TFMA's extractors and one that writes the predictions, adds the slices and drops the images.

    `classes` says how many classes each model knows, by the model's name. `output` is the folder or URI of the files.
    `separate` is a baseline with other classes, for which TFMA computes no metrics, and TFMA's config for it.
    """
    standard = tfma.default_extractors(eval_shared_model=list(models), eval_config=config)
    last = next(number for number, each in enumerate(standard) if each.stage_name == "ExtractPredictions")
    added = []
    if separate is not None:
        model, own_config = separate
        predict = tfma.extractors.PredictionsExtractor(
            eval_config=own_config, eval_shared_model=model, output_keypath=(_SEPARATE,)
        )
        added.append(predict._replace(stage_name="ExtractBaseline"))
    write = _write_and_strip(os.path.join(output, PREFIX), dict(classes))
    added.append(tfma.extractors.Extractor(stage_name="WritePredictions", ptransform=write))
    return [*standard[: last + 1], *added, *standard[last + 1 :]]


@beam.ptransform_fn
def _write_and_strip(extracts: beam.PCollection, prefix: str, classes: dict[str, int]) -> beam.PCollection:
    """Add the slices to the extracts, remove the images, and write a row for each image."""
    _ = (
        extracts
        | "Rows" >> beam.Map(_rows, classes)
        | "Write" >> beam.io.WriteToParquetBatched(prefix, _schema(classes), file_name_suffix=".parquet")
    )
    return extracts | "Strip" >> beam.Map(_without_images)


def _schema(classes: Mapping[str, int]) -> pa.Schema:
    text = [("image", pa.string()), (settings.CLASS, pa.string())]
    text += [(dimension, pa.string()) for dimension in settings.DIMENSIONS if dimension != settings.CLASS]
    return pa.schema([*text, *((model, pa.list_(pa.float32(), count)) for model, count in classes.items())])


def _rows(extracts: Mapping[str, Any], classes: Mapping[str, int]) -> pa.Table:
    source = extracts[tfma.FEATURES_KEY]
    names, labels = _texts(source[features.FILENAME]), _texts(source[features.LABEL])
    columns = [pa.array(names), pa.array(labels)]
    columns += [pa.array(values) for values in _dimensions(source).values()]
    for model, count in classes.items():
        outputs = extracts.get(_SEPARATE) if model == BASELINE else None
        outputs = extracts[tfma.PREDICTIONS_KEY] if outputs is None else outputs
        for key in (model, signatures.PROBABILITIES):  # TFMA leaves out the name of a single model or output
            outputs = outputs.get(key, outputs) if isinstance(outputs, Mapping) else outputs
        probabilities = np.asarray(outputs, np.float32).reshape(len(names), count)
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), count))
    return pa.Table.from_arrays(columns, schema=_schema(classes))


def _without_images(extracts: Mapping[str, Any]) -> dict[str, Any]:
    """Return extracts of a few bytes for each image: TFMA's metrics need labels, predictions and slices only."""
    columns = extracts[tfma.FEATURES_KEY]
    slices = {
        settings.CLASS: columns[features.LABEL],
        **{dimension: np.array(values, object)[:, None] for dimension, values in _dimensions(columns).items()},
    }
    rest = {key: value for key, value in extracts.items() if key not in (tfma.INPUT_KEY, _SEPARATE)}
    return {**rest, tfma.FEATURES_KEY: slices}


def _dimensions(columns: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return source folder, size and brightness of each image, in the order of `settings.DIMENSIONS`."""
    names = _texts(columns[features.FILENAME])
    dimensions = {settings.FOLDER: [posixpath.dirname(name) or "." for name in names]}
    for dimension, measured in _MEASURED.items():
        values = [columns[feature] for feature in measured if feature in columns]
        if len(values) < len(measured) or any(np.size(value) != len(names) for value in values):
            dimensions[dimension] = [UNKNOWN] * len(names)
            continue
        buckets = settings.BUCKETS[dimension]
        greatest = np.max([np.ravel(value).astype(float) for value in values], axis=0)
        dimensions[dimension] = [list(buckets)[place] for place in np.digitize(greatest, list(buckets.values()))]
    return dimensions


def _texts(column: Any) -> list[str]:
    return [value.decode("utf-8", "replace") for value in np.ravel(column)]


def read(output: str, labels: Sequence[str], baseline_labels: Sequence[str] | None, scratch: str) -> Answers:
    """Read what the Beam pipeline wrote.

    A baseline with other classes is compared on the images of the classes that both models know. Both models'
    probabilities are restricted to these classes and divided by their sum; a model's answer is the likeliest of them.
    Both lists of classes are in the order of the probabilities; `baseline_labels` is None without a baseline.

    Memory: some 60 bytes an image; the probabilities are mapped from files in the folder `scratch`.
    """
    files = sorted(storage.match(os.path.join(output, f"{PREFIX}-*")))
    slices = _slices(files)
    of_class = slices[settings.CLASS]
    all_rows = np.arange(len(of_class.codes))

    def score(model: str, model_classes: Sequence[str], classes: Sequence[str], rows: np.ndarray) -> scored.Scored:
        """Score a model of `model_classes`, restricted to `classes`, on the images `rows`."""
        index = {name: number for number, name in enumerate(classes)}
        label = np.array([index.get(name, -1) for name in of_class.names], np.int64)[of_class.codes]
        column = {name: number for number, name in enumerate(model_classes)}
        columns = [column[name] for name in classes]
        chosen = np.zeros(len(label), bool)
        chosen[rows] = True

        def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            begin = 0
            for probabilities in _probabilities(files, model):
                end = begin + len(probabilities)
                which = chosen[begin:end]
                probabilities = probabilities[which]
                if columns != list(range(len(model_classes))):
                    probabilities = scored.restricted(probabilities, columns)
                yield label[begin:end][which], probabilities
                begin = end

        path = os.path.join(scratch, f"{model}-{len(classes)}-{len(rows)}")
        storage = np.memmap(path, np.float32, "w+", shape=(max(1, len(rows)), len(classes)))
        return scored.score(classes, batches(), storage)

    candidate = score(CANDIDATE, labels, labels, all_rows)
    if baseline_labels is None:
        return Answers(candidate, slices, None, all_rows)
    known_to_baseline = set(baseline_labels)
    if known_to_baseline == set(labels):
        return Answers(candidate, slices, (candidate, score(BASELINE, baseline_labels, labels, all_rows)), all_rows)
    shared = [name for name in labels if name in known_to_baseline]
    rows = np.flatnonzero(np.isin(of_class.names, shared)[of_class.codes])
    pair = score(CANDIDATE, labels, shared, rows), score(BASELINE, baseline_labels, shared, rows)
    return Answers(candidate, slices, pair, rows)


def _slices(files: Sequence[str]) -> dict[str, Slices]:
    tables = []
    for path in files:
        with storage.opened(path) as file:
            tables.append(pq.read_table(file, columns=list(settings.DIMENSIONS), use_threads=False))
    table = pa.concat_tables(tables) if tables else _schema({}).empty_table()
    slices = {}
    for dimension in settings.DIMENSIONS:
        encoded = table.column(dimension).combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        slices[dimension] = Slices(encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist())
    return slices


def _probabilities(files: Sequence[str], model: str) -> Iterator[np.ndarray]:
    for path in files:
        with storage.opened(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=[model], use_threads=False):
                column = batch.column(0)
                yield column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
