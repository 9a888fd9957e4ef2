"""The whole DAG on one screen. Every runner builds it here; what differs between them comes in as arguments."""

import contextlib
import csv
import hashlib
import importlib.metadata
import os
import pathlib
import uuid
import zlib
from collections.abc import Sequence
from typing import Any

from tfx.components import StatisticsGen, Trainer
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import trainer_pb2
from tfx.types import Channel, standard_artifacts

from graftline import features
from graftline.components.data_validation import history, schema_file
from graftline.components.data_validation.component import ExampleValidator, ImportSchemaGen, SchemaGen
from graftline.components.data_validation.statistics import stats_options
from graftline.components.evaluator.component import Evaluator
from graftline.components.image_example_gen import quarantine
from graftline.components.image_example_gen.component import ImageExampleGen
from graftline.components.pusher.component import pusher as make_pusher
from graftline.components.serving_validator.component import serving_validator as make_serving_validator
from graftline.components.storage.versions import destination
from graftline.components.transform.component import Transform
from graftline.pipeline.config import Config
from graftline.serving.versions import withdrawals
from graftline.trainer import backbones
from graftline.trainer.settings import TrainerSettings
from graftline.uri import is_uri

_ROOT = pathlib.Path(__file__).parents[1]

# What decides the pixels that the Transform makes of an image's bytes.
_PIXEL_SOURCES = (
    "components/transform/preprocessing.py",
    "components/transform/pixels.py",
    "trainer/backbones.py",
    "graftline",
)
# And what decides the activations that are made of them.
_ACTIVATION_SOURCES = tuple(f"trainer/{name}.py" for name in ("augmentation", "inputs", "boundary", "models"))
_PUSH_SOURCES = tuple(
    f"serving/versions/{name}.py" for name in ("publish", "base_path", "labels", "withdrawals", "locate")
)
# Their versions decide which files can be decoded.
_DECODERS = ("pillow", "pillow-heif", "tensorflow")


def create_pipeline(
    config: Config,
    *,
    pipeline_root: str,
    models: str,
    fingerprint: Any = "",
    served: str | None = None,
    reset_baseline: bool = False,
    report_dir: str = "",
    state: str = "",
    beam_pipeline_args: list[str] | None = None,
    metadata_connection_config: Any = None,
) -> Pipeline:
    """From a folder of images to a pushed model.

    Args:
      config: what to do.
      pipeline_root: where artifacts go.
      models: directory of served models; see `base_path`.
      fingerprint: of the images' content (or a RuntimeParameter that brings it): a changed image re-runs ingest.
      served: directory of the version that is served now, "" when none is; None where that is not known.
      reset_baseline: the gate compares with nothing, as in a first run.
      report_dir: where ingest leaves a copy of its quarantine list, also when it fails; none when empty.
      state: folder or URI of what the Trainer keeps from run to run: checkpoints and activations; none when empty.
      beam_pipeline_args: for the Beam stages.
      metadata_connection_config: MLMD's, for a local run.
    """
    size, served_base_path = config.backbone.size, base_path(config, models)
    # What lies beside the versions is no input of a node: here it goes into cache keys, on a cluster there is no cache.
    local = isinstance(fingerprint, str)
    withdrawn = _withdrawn(served_base_path) if local else ""
    content = _content(served_base_path, served)

    # Images to TFRecords of tf.Examples, split by content hash; what cannot be decoded is quarantined.
    example_gen = ImageExampleGen(
        images=config.image_folders,
        fingerprint=fingerprint,
        settings=config.data.ingest,
        state=state,
        report_dir=report_dir,
        code=code_hash("components/image_example_gen", "components/storage", "serving/images", "graftline")
        + _versions(*_DECODERS)
        + _again(report_dir, config.image_folders),
    )

    # Labels, formats, sizes and quality numbers; of JPEG bytes only the count. Held against a schema, the last run's
    # and one another, before anything is trained.
    statistics_gen = StatisticsGen(examples=example_gen.outputs["examples"], stats_options=stats_options())
    curated, validation_code = config.data.schema_file, code_hash("components/data_validation", "graftline")
    schema_gen = (
        ImportSchemaGen(schema_file=curated, sha256=_schema_hash(curated, here=isinstance(fingerprint, str)))
        if curated
        else SchemaGen(statistics=statistics_gen.outputs["statistics"], code=validation_code)
    )
    statistics_history = f"{state}/statistics/{pipeline_name(config)}" if state else None
    example_validator = ExampleValidator(
        statistics=statistics_gen.outputs["statistics"],
        schema=schema_gen.outputs["schema"],
        settings=config.data.validation,
        schema_file=curated,
        history=statistics_history,
        images=fingerprint,
        reference=_reference(statistics_history, fingerprint),
        code=validation_code,
    )

    # Decode, upright, resize, the backbone's preprocessing and the label's index, as one graph. It is applied inside
    # tf.data and inside the served model, so no float image is ever written; with `data.materialize` uint8 ones are.
    transform = Transform(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        preprocessing_fn="graftline.components.transform.preprocessing.preprocessing_fn",
        materialize=config.data.materialize,
        disable_statistics=True,
        custom_config={
            "backbone": config.backbone.name,
            "input_size": size,
            "resize": config.data.resize,
            "materialize": config.data.materialize,
            "code": code_hash(*_PIXEL_SOURCES, "components/transform/component.py"),
        },
    )

    # It takes nothing from the validation: on a cluster both would start together, and the training after this one.
    transform.add_upstream_node(example_validator)

    # The last model that was blessed: what a warm start goes on from and, on a cluster, what the gate compares with.
    baseline = Resolver(
        strategy_class=LatestBlessedModelStrategy,
        model=Channel(type=standard_artifacts.Model),
        model_blessing=Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("baseline")

    # A new head on the frozen trunk; then the upper trunk at a very low learning rate; then the SavedModel.
    trainer = Trainer(
        run_fn="graftline.trainer.run_fn.run_fn",
        examples=example_gen.outputs["examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema_gen.outputs["schema"],
        base_model=baseline.outputs["model"] if config.training.warm_start else None,
        train_args=trainer_pb2.TrainArgs(splits=[features.TRAIN]),
        eval_args=trainer_pb2.EvalArgs(splits=[features.EVAL]),
        custom_config=TrainerSettings(
            backbone=config.backbone,
            head=config.head,
            training=config.training,
            feature_extraction=config.feature_extraction,
            fine_tuning=config.fine_tuning,
            augmentation=config.augmentation,
            boundary_cache=config.boundary_cache,
            resize=config.data.resize,
            materialize=config.data.materialize,
            seed=config.seed,
            state=state,
            served=served_base_path if config.training.warm_start else "",
            # Names the activations in the cache: those of images that were made square in another way are others.
            preprocessing=f"{config.data.resize} {'uint8' if config.data.materialize else 'float32'} "
            + code_hash(*_PIXEL_SOURCES, *_ACTIVATION_SOURCES),
            # A base that was rolled back from is none; where the metadata was not told, it is found all the same.
            code=code_hash("trainer", "graftline") + (withdrawn if config.training.warm_start else ""),
            weights_sha256=_weights_hash(config.backbone.weights),
        ).model_dump(mode="json"),
    )

    # The candidate in a real model server, asked what clients ask. What fails here the gate does not bless.
    serving_validator = make_serving_validator(
        config.serving_validation.for_precision(config.training.precision),
        model=trainer.outputs["model"],
        examples=example_gen.outputs["examples"],
        served=served_base_path,
        allow_withdrawn=config.push.allow_withdrawn,
        withdrawn=withdrawn,
        code=code_hash("components/serving_validator", "components/storage/versions.py", "serving", "graftline"),
    )

    # The gate: thresholds on the eval split, and against the model that is served, on the same examples.
    evaluator = Evaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        gate=config.gate,
        served=served,
        served_base_path=None if config.push.vertex.project else served_base_path,
        baseline_model=baseline.outputs["model"],
        infra_blessing=serving_validator.outputs["blessing"],
        reset_baseline=reset_baseline,
        code=code_hash(
            "components/evaluator",
            "components/storage/versions.py",
            "graftline",
        )
        + content,
    )

    # A blessed model becomes the next version, seen whole or not at all.
    pusher = make_pusher(
        config.push,
        served_base_path,
        config.model_name,
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=serving_validator.outputs["blessing"],
        served=f"{served} {content}" if served else uuid.uuid4().hex if local else "",
        code=code_hash("components/pusher", "components/storage/versions.py", *_PUSH_SOURCES, "graftline"),
    )

    return Pipeline(
        pipeline_name=pipeline_name(config),
        pipeline_root=pipeline_root,
        components=[
            example_gen,
            statistics_gen,
            schema_gen,
            example_validator,
            transform,
            baseline,
            trainer,
            serving_validator,
            evaluator,
            pusher,
        ],
        enable_cache=True,
        beam_pipeline_args=beam_pipeline_args or [],
        metadata_connection_config=metadata_connection_config,
    )


def pipeline_name(config: Config) -> str:
    """Of the TFX pipeline. The baseline is looked for under this name, so each served model has its own."""
    # Vertex takes lower-case letters, digits and hyphens only; names that differ must stay different.
    plain = "".join(character if character.isalnum() else "-" for character in config.model_name.lower()).strip("-")
    tail = "" if plain == config.model_name else f"-{zlib.crc32(config.model_name.encode()):08x}"
    return f"graftline-{plain}{tail}"


def base_path(config: Config, models: str) -> str:
    """The folder or URI of the model's numbered versions: `push.path`, or `<models>/<model name>`."""
    path = config.push.path or f"{models}/{config.model_name}"
    return path if is_uri(path) else os.path.abspath(path)


def code_hash(*paths: str) -> str:
    """Hash of Graftline's own sources under these paths.

    User functions that TFX finds by import path, and executors, are not part of its cache key: without this an edited
    trainer would be served from the cache.
    """
    digest = hashlib.sha256()
    for path in paths:
        top = _ROOT / path
        ground = sorted(_ROOT.glob("*.py")) if path == "graftline" else None
        for file in ground or (sorted(top.rglob("*.py")) if top.is_dir() else [top]):
            digest.update(str(file.relative_to(_ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _versions(*distributions: str) -> str:
    """Name and version of each that is installed."""
    found = []
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f" {name} {importlib.metadata.version(name)}")
    return "".join(found)


def _again(report_dir: str, folders: Sequence[str]) -> str:
    """Something new each time where the last ingest left files out for reasons that may have passed, else "".

    What is wrong with a file on disk is part of the images' fingerprint; of one at a URI that may be a checksum alone.
    """
    remote = any(is_uri(folder) for folder in folders)

    def may_pass(reason: str) -> bool:
        busy = reason.startswith("decoding took too long") and "processor time" not in reason
        return busy or reason.startswith(("vanished", "changed during")) or (remote and reason.startswith("unreadable"))

    last = pathlib.Path(report_dir, quarantine.CSV_NAME)
    if not report_dir or not last.is_file():
        return ""
    with last.open(newline="") as file:
        again = any(may_pass(row["reason"]) for row in csv.DictReader(file))
    return f" {uuid.uuid4().hex}" if again else ""


def _schema_hash(path: str, here: bool) -> str:
    """Hash of the curated schema; "" for one that only the nodes of a cluster can read."""
    return schema_file.check(path) if here or pathlib.Path(path).is_file() else ""


def _withdrawn(served_base_path: str) -> str:
    """What was rolled back from so far: a model that came through before a rollback is validated again after it."""
    return " ".join(sorted(withdrawals.withdrawn(destination(served_base_path))))


def _content(served_base_path: str, served: str | None) -> str:
    """Digest of the served version, whose number a removed one may have had before it; "" where there is none."""
    if not served:
        return ""
    base = destination(served_base_path)
    return next((base.digest(version) for version, path in base.versions().items() if path == served), "")


def _weights_hash(weights: str) -> str:
    """Hash of a weights file, so that another file under the same name is another run; "" for anything else."""
    file = backbones.weights_file(weights)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else ""


def _reference(statistics_history: str | None, fingerprint: Any) -> int:
    """The run that the statistics will be compared with; 0 when there is none, or it can't be known before the run."""
    known = statistics_history is not None and not is_uri(statistics_history) and isinstance(fingerprint, str)
    return history.reference(str(statistics_history), fingerprint) if known else 0
