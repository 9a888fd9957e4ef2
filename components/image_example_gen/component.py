"""ImageExampleGen: the first node of the pipeline, from a folder of labelled images to Examples."""

from tfx.dsl.components.base import executor_spec
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import channel_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.image_example_gen.artifacts import Quarantine
from components.image_example_gen.executor import Executor


class ImageExampleGenSpec(ComponentSpec):
    """Parameters and outputs of ImageExampleGen; it has no inputs."""

    PARAMETERS = {  # noqa: RUF012 (TFX's own shape)
        "images": ExecutionParameter(type=str),
        "fingerprint": ExecutionParameter(type=str),
        "eval_fraction": ExecutionParameter(type=float),
        "split_seed": ExecutionParameter(type=int),
        "max_bad_fraction": ExecutionParameter(type=float),
        "report_dir": ExecutionParameter(type=str, optional=True),
        "code": ExecutionParameter(type=str, optional=True),
    }
    INPUTS: dict[str, ChannelParameter] = {}  # noqa: RUF012
    OUTPUTS = {  # noqa: RUF012
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "quarantine": ChannelParameter(type=Quarantine),
    }


class ImageExampleGen(BaseBeamComponent):
    """Reads `images/<class>/**/*` into tf.Examples in the splits "train" and "eval", uncompressed TFRecords.

    It has no driver of its own, so that it compiles for every orchestrator as it is. Outputs:
      examples: standard_artifacts.Examples with the features of `graftline.features`.
      quarantine: what was refused and why, and all counts.
    """

    SPEC_CLASS = ImageExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        images: str | RuntimeParameter,
        fingerprint: str | RuntimeParameter = "",
        eval_fraction: float | RuntimeParameter = 0.2,
        split_seed: int | RuntimeParameter = 0,
        max_bad_fraction: float | RuntimeParameter = 0.05,
        report_dir: str | RuntimeParameter | None = None,
        code: str | RuntimeParameter | None = None,
    ) -> None:
        """Make the node.

        Args:
            images: the root folder.
            fingerprint: `layouts.fingerprint` of the folder, computed before the run. It is read by nobody: it is
                part of TFX's cache key, so that any change of any file runs the ingest again. "" never does.
            eval_fraction: share of the images to evaluate on, between 0 and 1.
            split_seed: salts the split's content hash.
            max_bad_fraction: share of the files that may be quarantined before the run is refused.
            report_dir: where a copy of the latest quarantine.csv is kept, also of a refused run.
            code: hash of this component's own sources, for the cache key only, like `fingerprint`.
        """
        optional = {name: value for name, value in (("report_dir", report_dir), ("code", code)) if value is not None}
        super().__init__(
            ImageExampleGenSpec(
                images=images,
                fingerprint=fingerprint,
                eval_fraction=eval_fraction,
                split_seed=split_seed,
                max_bad_fraction=max_bad_fraction,
                examples=channel_utils.as_channel([standard_artifacts.Examples()]),
                quarantine=channel_utils.as_channel([Quarantine()]),
                **optional,
            )
        )
