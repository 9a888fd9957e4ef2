"""What candidate and baseline said of each image: written by the Evaluator's Beam pipeline, read back for the gate.

The files are Parquet (`predictions-*.parquet` in the evaluation), so that anyone can look at them with pandas.
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
from apache_beam.io.filesystems import CompressionTypes, FileSystems

from graftline import features, signatures
from graftline.components.evaluator import scored, settings
from graftline.components.evaluator.scored import Answers, Slices

PREFIX = "predictions"
CANDIDATE, BASELINE = "candidate", "baseline"
UNKNOWN = "unknown"  # the slice of an image whose size or brightness was not measured
_BASELINE_ALONE = "graftline_baseline"  # key of the extracts, where TFMA must not see the baseline
_MEASURED = {settings.SIZE: (features.HEIGHT, features.WIDTH), settings.BRIGHTNESS: (features.BRIGHTNESS,)}
_BATCH = 4096  # rows of a file that are read at once


def extractors(
    models: Sequence[tfma.types.EvalSharedModel],
    config: tfma.EvalConfig,
    classes: Mapping[str, int],
    output: str,
    alone: tuple[tfma.types.EvalSharedModel, tfma.EvalConfig] | None = None,
) -> list[tfma.extractors.Extractor]:
    """TFMA's extractors, and one that writes what each model said, adds the slices and drops the images.

    Args:
      models: those that TFMA is to compute metrics of.
      config: TFMA's.
      classes: how many classes each model knows, by its name.
      output: folder or URI of the files.
      alone: a baseline with other classes, and TFMA's config for it by itself.
    """
    found = tfma.default_extractors(eval_shared_model=list(models), eval_config=config)
    last = next(number for number, each in enumerate(found) if each.stage_name == "ExtractPredictions")
    added = []
    if alone is not None:
        model, of_model = alone
        predict = tfma.extractors.PredictionsExtractor(
            eval_config=of_model, eval_shared_model=model, output_keypath=(_BASELINE_ALONE,)
        )
        added.append(predict._replace(stage_name="ExtractBaseline"))
    write = _WriteAndStrip(os.path.join(output, PREFIX), dict(classes))
    added.append(tfma.extractors.Extractor(stage_name="WritePredictions", ptransform=write))
    return [*found[: last + 1], *added, *found[last + 1 :]]


class _WriteAndStrip(beam.PTransform):
    """Extracts to the same with slices and without images; writes the rows on the side."""

    def __init__(self, prefix: str, classes: dict[str, int]) -> None:
        super().__init__()
        self._prefix, self._classes = prefix, classes

    def expand(self, extracts: beam.PCollection) -> beam.PCollection:
        """The rows go into files beside the stream of extracts."""
        classes = self._classes
        _ = (
            extracts
            | "Rows" >> beam.Map(_rows, classes)
            | "Write" >> beam.io.WriteToParquetBatched(self._prefix, _schema(classes), file_name_suffix=".parquet")
        )
        return extracts | "Strip" >> beam.Map(_stripped)


def _schema(classes: Mapping[str, int]) -> pa.Schema:
    text = [("image", pa.string()), (settings.CLASS, pa.string())]
    text += [(dimension, pa.string()) for dimension in settings.DIMENSIONS if dimension != settings.CLASS]
    return pa.schema([*text, *((model, pa.list_(pa.float32(), many)) for model, many in classes.items())])


def _rows(extracts: Mapping[str, Any], classes: Mapping[str, int]) -> pa.Table:
    given = extracts[tfma.FEATURES_KEY]
    names, labels = _texts(given[features.FILENAME]), _texts(given[features.LABEL])
    columns = [pa.array(names), pa.array(labels)]
    columns += [pa.array(values) for values in _dimensions(given).values()]
    for model, many in classes.items():
        said = extracts.get(_BASELINE_ALONE) if model == BASELINE else None
        said = extracts[tfma.PREDICTIONS_KEY] if said is None else said
        for key in (model, signatures.PROBABILITIES):  # TFMA leaves out the name of a single model, or output
            said = said.get(key, said) if isinstance(said, Mapping) else said
        flat = np.asarray(said, np.float32).reshape(len(names), many)
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), many))
    return pa.Table.from_arrays(columns, schema=_schema(classes))


def _stripped(extracts: Mapping[str, Any]) -> dict[str, Any]:
    """TFMA's metrics need no images: what follows holds a few bytes for each, and the slices that it may cut by."""
    given = extracts[tfma.FEATURES_KEY]
    column = {
        settings.CLASS: given[features.LABEL],
        **{dimension: np.array(values, object)[:, None] for dimension, values in _dimensions(given).items()},
    }
    kept = {key: value for key, value in extracts.items() if key not in (tfma.INPUT_KEY, _BASELINE_ALONE)}
    return {**kept, tfma.FEATURES_KEY: column}


def _dimensions(given: Mapping[str, Any]) -> dict[str, list[str]]:
    """Source folder, size and brightness of each image, in the order of `settings.DIMENSIONS`."""
    names = _texts(given[features.FILENAME])
    found = {settings.FOLDER: [posixpath.dirname(name) or "." for name in names]}
    for dimension, measured in _MEASURED.items():
        values = [given[feature] for feature in measured if feature in given]
        if len(values) < len(measured) or any(np.size(value) != len(names) for value in values):
            found[dimension] = [UNKNOWN] * len(names)
            continue
        buckets = settings.BUCKETS[dimension]
        greatest = np.max([np.ravel(value).astype(float) for value in values], axis=0)
        found[dimension] = [list(buckets)[place] for place in np.digitize(greatest, list(buckets.values()))]
    return found


def _texts(column: Any) -> list[str]:
    return [value.decode("utf-8", "replace") for value in np.ravel(column)]


def read(output: str, ours: Sequence[str], theirs: Sequence[str] | None, scratch: str) -> Answers:
    """Reads what the Beam pipeline wrote.

    A baseline that knows other classes is compared on the images of those classes that both know, with both models'
    probabilities restricted to these and divided by their sum: what a model thinks likeliest among them is its answer.

    Memory: some 60 bytes an image; the probabilities are mapped from files.

    Args:
      output: folder or URI of the files.
      ours: the candidate's classes, in the order of its probabilities.
      theirs: the baseline's; None without one.
      scratch: folder on disk for the probabilities.
    """
    (found,) = FileSystems.match([os.path.join(output, f"{PREFIX}-*")])
    files = sorted(each.path for each in found.metadata_list)
    slices = _slices(files)
    of_image = slices[settings.CLASS]
    everything = np.arange(len(of_image.codes))

    def scored_by(model: str, known: Sequence[str], classes: Sequence[str], rows: np.ndarray) -> scored.Scored:
        """The answers of a model that knows `known`, restricted to `classes`, to the images `rows`."""
        index = {name: number for number, name in enumerate(classes)}
        label = np.array([index.get(name, -1) for name in of_image.names], np.int64)[of_image.codes]
        place = {name: number for number, name in enumerate(known)}
        columns = [place[name] for name in classes]
        chosen = np.zeros(len(label), bool)
        chosen[rows] = True

        def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            begin = 0
            for given in _probabilities(files, model):
                end = begin + len(given)
                which = chosen[begin:end]
                whole = columns == list(range(given.shape[1]))
                yield label[begin:end][which], given[which] if whole else scored.restricted(given[which], columns)
                begin = end

        path = os.path.join(scratch, f"{model}-{len(classes)}-{len(rows)}")
        into = np.memmap(path, np.float32, "w+", shape=(max(1, len(rows)), len(classes)))
        return scored.score(classes, batches(), into)

    candidate = scored_by(CANDIDATE, ours, ours, everything)
    if theirs is None:
        return Answers(candidate, slices, None, everything)
    if set(theirs) == set(ours):
        return Answers(candidate, slices, (candidate, scored_by(BASELINE, theirs, ours, everything)), everything)
    known_to_them = set(theirs)
    both = [name for name in ours if name in known_to_them]
    known = np.isin(of_image.names, both)
    rows = np.flatnonzero(known[of_image.codes])
    shared = scored_by(CANDIDATE, ours, both, rows), scored_by(BASELINE, theirs, both, rows)
    return Answers(candidate, slices, shared, rows)


def _slices(files: Sequence[str]) -> dict[str, Slices]:
    tables = []
    for path in files:
        with _opened(path) as file:
            tables.append(pq.read_table(file, columns=list(settings.DIMENSIONS), use_threads=False))
    table = pa.concat_tables(tables) if tables else _schema({}).empty_table()
    found = {}
    for dimension in settings.DIMENSIONS:
        encoded = table.column(dimension).combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        found[dimension] = Slices(encoded.indices.to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist())
    return found


def _probabilities(files: Sequence[str], model: str) -> Iterator[np.ndarray]:
    for path in files:
        with _opened(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=[model], use_threads=False):
                column = batch.column(0)
                yield column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def _opened(path: str) -> Any:
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
