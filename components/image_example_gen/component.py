"""ImageExampleGen: the first node of the pipeline, from a folder of labelled images to Examples."""

import json
from collections.abc import Sequence

from tfx.dsl.components.base import executor_spec
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import channel_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from graftline.components.image_example_gen.artifacts import Quarantine
from graftline.components.image_example_gen.executor import Executor
from graftline.components.image_example_gen.settings import IngestSettings


class ImageExampleGenSpec(ComponentSpec):
    """Parameters and outputs of ImageExampleGen; it has no inputs."""

    PARAMETERS = {  # noqa: RUF012 (TFX's own shape)
        "images": ExecutionParameter(type=str),  # JSON: a list of folders or URIs
        "fingerprint": ExecutionParameter(type=str),
        "settings": ExecutionParameter(type=str),
        "state": ExecutionParameter(type=str, optional=True),
        "report_dir": ExecutionParameter(type=str, optional=True),
        "code": ExecutionParameter(type=str, optional=True),
    }
    INPUTS: dict[str, ChannelParameter] = {}  # noqa: RUF012
    OUTPUTS = {  # noqa: RUF012
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "quarantine": ChannelParameter(type=Quarantine),
    }


class ImageExampleGen(BaseBeamComponent):
    """Reads labelled images into tf.Examples in the splits "train" and "eval", as uncompressed TFRecords.

    The node has no driver, so that it compiles for every orchestrator. Outputs:
      examples: standard_artifacts.Examples with the features of `graftline.features`.
      quarantine: the refused files with their reasons, and all counts.
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        images: Sequence[str],
        fingerprint: str | RuntimeParameter = "",
        settings: IngestSettings | None = None,
        state: str | None = None,
        report_dir: str | RuntimeParameter | None = None,
        code: str | RuntimeParameter | None = None,
    ) -> None:
        """Make the node for root folders or URIs.

        No executor reads `fingerprint`, the `fingerprint.fingerprint` of the images before the run, or `code`, a hash
        of the sources. They are part of TFX's cache key, so that a change of any file runs the ingest again. With a
        fingerprint of "" it never does. The folder or URI `state` keeps the splits of images from run to run; None
        keeps none. The folder `report_dir` gets a copy of the latest quarantine.csv, also of a refused run.
        """
        given = {"state": state, "report_dir": report_dir, "code": code}
        optional = {name: value for name, value in given.items() if value is not None}
        super().__init__(
            ImageExampleGenSpec(
                images=json.dumps(list(images)),
                fingerprint=fingerprint,
                settings=(settings or IngestSettings()).model_dump_json(),
                examples=channel_utils.as_channel([standard_artifacts.Examples()]),
                quarantine=channel_utils.as_channel([Quarantine()]),
                **optional,
            )
        )
