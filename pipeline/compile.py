"""Write the DAG as a pipeline spec for Kubeflow Pipelines or Vertex AI: no network, no credentials, no cluster."""

import json
import os
import pathlib
from typing import Literal

import yaml

from graftline import __version__, masking
from graftline.components.image_example_gen import check_settings
from graftline.errors import UserError
from graftline.pipeline import preflight
from graftline.pipeline.config import BYTE_BATCHES, Config
from graftline.pipeline.site import Site
from graftline.trainer import WEIGHTS
from graftline.uri import is_uri
from graftline.workspace import Workspace

Target = Literal["kubeflow", "vertex"]

# The parameter is set at submission: a hash of the images' content, so that the cluster's cache sees a changed image.
FINGERPRINT_PARAMETER = "images_fingerprint"

# These nodes read the served versions, which are not among their inputs: they must not come from the cluster's cache.
_UNCACHED = ("ServingValidator", "Evaluator", "Pusher")


def compile_pipeline(config: Config, target: Target, output: pathlib.Path) -> None:
    """Compile the DAG into a file.

    For "vertex" it is a PipelineJob as JSON (schema 2.0.0), for "kubeflow" a PipelineSpec as YAML (2.1.0). The config's
    paths go into the spec as they are: they are paths of the cluster's nodes.

    Raises:
      UserError: no images, settings that contradict one another, or the file cannot be written.
    """
    _check(config, output)
    from tfx import v1 as tfx

    from graftline.pipeline.dag import create_pipeline

    fingerprint = tfx.dsl.experimental.RuntimeParameter(name=FINGERPRINT_PARAMETER, ptype=str, default="")
    pipeline = create_pipeline(
        config,
        Site(Workspace(config.workspace.rstrip("/")), fingerprint),
        beam_pipeline_args=[f"--runner={config.beam.runner.title()}Runner", BYTE_BATCHES, *config.beam.options],
    )
    runner = tfx.orchestration.experimental.KubeflowV2DagRunner(
        config=tfx.orchestration.experimental.KubeflowV2DagRunnerConfig(
            default_image=config.cluster.image or f"graftline:{__version__}", use_pipeline_spec_2_1=target == "kubeflow"
        )
    )
    job = runner.run(pipeline, write_out=False)
    for node in _UNCACHED:
        del job["pipelineSpec"]["root"]["dag"]["tasks"][node]["cachingOptions"]
    as_json = target == "vertex"
    text = json.dumps(job, indent=2, sort_keys=True) if as_json else yaml.safe_dump(job["pipelineSpec"], sort_keys=True)
    try:
        output.write_text(text + "\n")
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}") from error


def _check(config: Config, output: pathlib.Path) -> None:
    """Raise UserError for what can be seen to be wrong without the cluster."""
    if not config.image_folders:
        raise UserError(
            "images is not set: name the folder of images that the cluster reads, such as gs://bucket/photos"
        )
    if not output.absolute().parent.is_dir():
        raise UserError(f"{output} cannot be written: there is no folder {output.parent}")
    if secrets := masking.secret_flags(config.beam.options):
        raise UserError(
            f"beam.options holds {', '.join(secrets)}: a compiled pipeline is a file that others read, and must hold "
            "no secret. Leave it out, and give the cluster's nodes their credentials by their environment or by a "
            "service account"
        )
    preflight.check_phases(config)
    check_settings(config.image_folders, config.data.ingest)
    if config.serving_validation.enabled and config.serving_validation.engine == "docker":
        raise UserError(
            "serving_validation.engine is docker, but TFX's InfraValidator does not compile for a cluster: set it to "
            "graftline"
        )


def warnings(config: Config) -> list[str]:
    """Return a sentence for each path that is not a URI: the nodes find such a path only on a volume that all mount."""
    settings = {
        "images": ", ".join(path for path in config.image_folders if not is_uri(path)),
        "workspace": config.workspace,
        "data.manifest": config.data.manifest,
        "data.schema_file": config.data.schema_file,
        "push.path": config.push.path,
    }
    paths = {key: path for key, path in settings.items() if path and not is_uri(path)}
    if config.backbone.weights not in WEIGHTS:
        paths["backbone.weights"] = config.backbone.weights
    mounted = "every node of the cluster must find it under that path, on a volume that all mount"
    relative = "a relative path is another folder on each node; name a URI, or an absolute path on a mounted volume"
    return [
        f"{key} is '{path}': {mounted if all(map(os.path.isabs, path.split(', '))) else relative}"
        for key, path in paths.items()
    ]
