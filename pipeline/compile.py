"""Writes the DAG as a pipeline spec for Kubeflow Pipelines or Vertex AI: no network, no credentials, no cluster."""

import json
import pathlib
from typing import Literal

import yaml

from graftline import __version__
from graftline.components.image_example_gen import layouts
from graftline.errors import UserError
from graftline.pipeline import preflight
from graftline.pipeline.config import BYTE_BATCHES, Config
from graftline.trainer import backbones
from graftline.uri import is_uri

Target = Literal["kubeflow", "vertex"]

# Brought at submission: a hash of the images' content, so that the cluster's cache sees a changed image.
FINGERPRINT_PARAMETER = "images_fingerprint"


def compile_pipeline(config: Config, target: Target, output: pathlib.Path) -> None:
    """Compiles the DAG.

    Paths of the config go into the spec as they stand: they are paths of the cluster's nodes.

    Args:
      config: what to run; `cluster.image` is the container image that has graftline installed.
      target: "vertex" writes a PipelineJob as JSON (schema 2.0.0), "kubeflow" a PipelineSpec as YAML (2.1.0).
      output: the file.

    Raises:
      UserError: no images, settings that no folder suits, or the file cannot be written.
    """
    if not config.image_folders:
        raise UserError(
            "images is not set: name the folder of images that the cluster reads, such as gs://bucket/photos"
        )
    if not output.absolute().parent.is_dir():
        raise UserError(f"{output} cannot be written: there is no folder {output.parent}")
    preflight.check_phases(config)
    layouts.check_settings(config.image_folders, config.data.ingest)
    if config.serving_validation.enabled and config.serving_validation.engine == "docker":
        raise UserError(
            "serving_validation.engine is docker, but TFX's InfraValidator does not compile for a cluster: set it to "
            "graftline"
        )
    from tfx import v1 as tfx

    from graftline.pipeline.dag import create_pipeline

    workspace = config.workspace.rstrip("/")
    pipeline = create_pipeline(
        config,
        pipeline_root=f"{workspace}/artifacts",
        models=f"{workspace}/models",
        state=workspace,
        fingerprint=tfx.dsl.experimental.RuntimeParameter(name=FINGERPRINT_PARAMETER, ptype=str, default=""),
        beam_pipeline_args=[*_RUNNERS[config.beam.runner], BYTE_BATCHES, *config.beam.options],
    )
    runner = tfx.orchestration.experimental.KubeflowV2DagRunner(
        config=tfx.orchestration.experimental.KubeflowV2DagRunnerConfig(
            default_image=config.cluster.image or f"graftline:{__version__}",
            use_pipeline_spec_2_1=target == "kubeflow",
        )
    )
    job = runner.run(pipeline, write_out=False)
    for node in _LOOKING:
        del job["pipelineSpec"]["root"]["dag"]["tasks"][node]["cachingOptions"]
    if target == "vertex":
        text = json.dumps(job, indent=2, sort_keys=True)
    else:
        text = yaml.safe_dump(job["pipelineSpec"], sort_keys=True)
    try:
        output.write_text(text + "\n")
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}") from error


# They look at the folder of served versions, where what was pushed or rolled back since is in no input of theirs.
_LOOKING = ("ServingValidator", "Evaluator", "Pusher")

_RUNNERS = {
    "direct": ["--runner=DirectRunner"],
    "flink": ["--runner=FlinkRunner"],
    "spark": ["--runner=SparkRunner"],
    "dataflow": ["--runner=DataflowRunner"],
}


def warnings(config: Config) -> list[str]:
    """A sentence for each path that is none of an object store, where every node finds it anyway."""
    paths = {"images": ", ".join(path for path in config.image_folders if not is_uri(path))}
    optional = {
        "workspace": config.workspace,
        "data.manifest": config.data.manifest,
        "data.schema_file": config.data.schema_file,
        "push.path": config.push.path,
    }
    paths |= {key: path for key, path in optional.items() if path and not is_uri(path)}
    if config.backbone.weights not in backbones.WEIGHTS:
        paths["backbone.weights"] = config.backbone.weights
    return [
        f"{key} is '{path}': every node of the cluster must find it under that path, on a volume that all mount"
        for key, path in paths.items()
        if path
    ]
