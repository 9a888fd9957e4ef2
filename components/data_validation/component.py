"""SchemaGen, ImportSchemaGen and ExampleValidator: the nodes from statistics to their validation."""

from tfx.components import StatisticsGen
from tfx.components.schema_gen.import_schema_gen import executor as import_executor
from tfx.dsl.components.base import executor_spec
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import BaseChannel, channel_utils, standard_artifacts, standard_component_specs
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from graftline.components.data_validation.executor import SchemaExecutor, ValidatorExecutor
from graftline.components.data_validation.settings import ValidationSettings
from graftline.components.data_validation.statistics import stats_options


class ExampleValidatorSpec(ComponentSpec):
    """Inputs and outputs of TFX's ExampleValidator, and other parameters."""

    PARAMETERS = {  # noqa: RUF012 (TFX's own shape)
        "settings": ExecutionParameter(type=str),
        "schema_file": ExecutionParameter(type=str, optional=True),
        "history": ExecutionParameter(type=str, optional=True),
        "images": ExecutionParameter(type=str, optional=True),
        "reference": ExecutionParameter(type=int, optional=True),
        "code": ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {  # noqa: RUF012
        "statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "schema": ChannelParameter(type=standard_artifacts.Schema),
    }
    OUTPUTS = {"anomalies": ChannelParameter(type=standard_artifacts.ExampleAnomalies)}  # noqa: RUF012


class ExampleValidator(BaseComponent):
    """Compares the statistics with the schema, with the last run and between the splits; it may stop the run.

    Outputs:
      anomalies: TFDV's anomalies of each split, as TFX's own ExampleValidator writes them, and `findings.FILE`.
    """

    SPEC_CLASS = ExampleValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(ValidatorExecutor)

    def __init__(
        self,
        statistics: BaseChannel,
        schema: BaseChannel,
        settings: ValidationSettings,
        schema_file: str | None = None,
        history: str | None = None,
        images: str | RuntimeParameter = "",
        reference: int = 0,
        code: str = "",
    ) -> None:
        """Make the node.

        `schema_file` is the path of the curated schema; None for an inferred schema. `history` is the folder or URI of
        the statistics that the module `history` keeps from run to run; None compares with no run. `images` is the
        fingerprint of the images. Two are only for the cache key: `code`, a hash of the sources, and `reference`, the
        result of `history.reference` before the run, so that the same statistics are validated again if they are
        compared with another run.
        """
        given = {"schema_file": schema_file, "history": history}
        super().__init__(
            ExampleValidatorSpec(
                statistics=statistics,
                schema=schema,
                settings=settings.model_dump_json(),
                images=images,
                reference=reference,
                code=code,
                anomalies=channel_utils.as_channel([standard_artifacts.ExampleAnomalies()]),
                **{name: value for name, value in given.items() if value is not None},
            )
        )


class SchemaGenSpec(ComponentSpec):
    """Input and output of TFX's SchemaGen."""

    PARAMETERS = {"code": ExecutionParameter(type=str, optional=True)}  # noqa: RUF012
    INPUTS = {"statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics)}  # noqa: RUF012
    OUTPUTS = {"schema": ChannelParameter(type=standard_artifacts.Schema)}  # noqa: RUF012


class SchemaGen(BaseComponent):
    """Infers the schema by TFDV and lists every class in it: see `statistics.infer_schema`."""

    SPEC_CLASS = SchemaGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(SchemaExecutor)

    def __init__(self, statistics: BaseChannel, code: str = "") -> None:
        """Make the node; `code` is a hash of this component's own sources, only for the cache key."""
        super().__init__(
            SchemaGenSpec(
                statistics=statistics, code=code, schema=channel_utils.as_channel([standard_artifacts.Schema()])
            )
        )


class ImportSchemaGenSpec(standard_component_specs.ImportSchemaGenSpec):
    """The specification of TFX's ImportSchemaGen, with a hash of the file's content."""

    PARAMETERS = {  # noqa: RUF012
        **standard_component_specs.ImportSchemaGenSpec.PARAMETERS,
        "sha256": ExecutionParameter(type=str),
    }


class ImportSchemaGen(BaseComponent):
    """TFX's ImportSchemaGen with the file's content in its cache key; TFX's own key holds only the file's name."""

    SPEC_CLASS = ImportSchemaGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(import_executor.Executor)

    def __init__(self, schema_file: str, sha256: str) -> None:
        """Make the node from a schema file and the hash that `schema_file.check` returns."""
        super().__init__(
            ImportSchemaGenSpec(
                schema_file=schema_file, sha256=sha256, schema=channel_utils.as_channel([standard_artifacts.Schema()])
            )
        )


def make_statistics_gen(examples: BaseChannel) -> StatisticsGen:
    """Return the node of the statistics that the other nodes of this module read."""
    return StatisticsGen(examples=examples, stats_options=stats_options())


def make_schema_gen(statistics: BaseChannel, schema_file: str | None, sha256: str, code: str) -> BaseComponent:
    """Return the node of the schema: the curated file, or one that infers the schema from the statistics."""
    return ImportSchemaGen(schema_file, sha256) if schema_file else SchemaGen(statistics, code)
