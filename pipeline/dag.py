"""The whole DAG on one screen. Every runner builds it here, and a `Site` says where it runs."""

from typing import Any

from tfx.components import Trainer
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Channel, standard_artifacts

from graftline.components.data_validation import ExampleValidator, make_schema_gen, make_statistics_gen
from graftline.components.evaluator import Evaluator
from graftline.components.image_example_gen import ImageExampleGen
from graftline.components.pusher import make_pusher
from graftline.components.serving_validator import make_serving_validator
from graftline.components.transform import Transform
from graftline.pipeline.cache_keys import cache_keys
from graftline.pipeline.config import Config
from graftline.pipeline.site import Site, pipeline_name

RUN_FN = "graftline.trainer.run_fn.run_fn"


def create_pipeline(config: Config, site: Site, reset_baseline: bool = False, **more: Any) -> Pipeline:
    """Return the pipeline from a folder of images to a pushed model.

    Args:
      config: what to do.
      site: where to do it, and what is known there.
      reset_baseline: the gate compares with nothing, as in a first run.
      **more: other arguments of TFX's Pipeline, such as `beam_pipeline_args`.
    """
    keys, state, base_path = cache_keys(config, site), site.workspace.root, site.base_path(config)

    # Images to TFRecords of tf.Examples, split by content hash. What cannot be decoded is quarantined.
    example_gen = ImageExampleGen(
        images=config.image_folders,
        fingerprint=site.fingerprint,
        settings=config.data.ingest,
        state=state,
        report_dir=site.workspace.quarantine if site.readable else "",
        **keys["ImageExampleGen"],
    )

    # Labels, formats, sizes and quality numbers. Of JPEG bytes only the count.
    statistics_gen = make_statistics_gen(example_gen.outputs["examples"])

    # The user's schema, or one that is inferred from the statistics.
    schema_gen = make_schema_gen(statistics_gen.outputs["statistics"], config.data.schema_file, **keys["SchemaGen"])

    # The statistics against the schema, the last run's statistics and one another, before anything is trained.
    example_validator = ExampleValidator(
        statistics=statistics_gen.outputs["statistics"],
        schema=schema_gen.outputs["schema"],
        settings=config.data.validation,
        schema_file=config.data.schema_file,
        history=site.statistics(config),
        images=site.fingerprint,
        **keys["ExampleValidator"],
    )

    # Decode, upright, resize, the backbone's preprocessing and the label's index, as one graph. It is applied inside
    # tf.data and inside the served model, so no float image is ever written; with `data.materialize` uint8 ones are.
    transform = Transform(
        examples=example_gen.outputs["examples"],
        schema=schema_gen.outputs["schema"],
        preprocessing=config.backbone.mode,
        input_size=config.backbone.size,
        settings=config.data,
        **keys["Transform"],
    )
    # Nothing of the validation goes in. Without this both would start together on a cluster, and the training as well.
    transform.add_upstream_node(example_validator)

    # The last blessed model: a warm start begins from it, and the gate compares with it where no versions are served.
    baseline = Resolver(
        strategy_class=LatestBlessedModelStrategy,
        model=Channel(type=standard_artifacts.Model),
        model_blessing=Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("baseline")

    # A new head on the frozen trunk, then the upper trunk at a very low learning rate, then the SavedModel. By TFX's
    # default the split "train" is trained on, and "eval" decides when to stop.
    trainer = Trainer(
        run_fn=RUN_FN,
        examples=example_gen.outputs["examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema_gen.outputs["schema"],
        base_model=baseline.outputs["model"] if config.training.warm_start else None,
        custom_config=config.trainer(state, base_path, **keys["Trainer"]),
    )

    # The candidate in a real model server, asked what clients ask. The gate does not bless what fails here.
    serving_validator = make_serving_validator(
        config.serving_validation.for_precision(config.training.precision),
        model=trainer.outputs["model"],
        examples=example_gen.outputs["examples"],
        served=base_path,
        allow_withdrawn=config.push.allow_withdrawn,
        **keys["ServingValidator"],
    )

    # The gate: thresholds on the eval split, and against the model that is served, on the same examples.
    evaluator = Evaluator(
        examples=example_gen.outputs["examples"],
        model=trainer.outputs["model"],
        gate=config.gate,
        served=site.served,
        served_base_path=None if config.push.vertex.project else base_path,
        baseline_model=baseline.outputs["model"],
        infra_blessing=serving_validator.outputs["blessing"],
        reset_baseline=reset_baseline,
        **keys["Evaluator"],
    )

    # A blessed model becomes the next version, seen whole or not at all.
    pusher = make_pusher(
        config.push,
        base_path,
        config.model_name,
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=serving_validator.outputs["blessing"],
        **keys["Pusher"],
    )

    data = [example_gen, statistics_gen, schema_gen, example_validator, transform]
    model = [baseline, trainer, serving_validator, evaluator, pusher]
    return Pipeline(pipeline_name(config), site.workspace.artifacts, components=data + model, enable_cache=True, **more)
