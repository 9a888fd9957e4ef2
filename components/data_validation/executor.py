"""The executors of SchemaGen and ExampleValidator: thin shells around `statistics` and `checks`."""

import os
from typing import Any

from absl import logging
from google.protobuf import text_format
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList
from tfx.components.example_validator import executor as validator_executor
from tfx.components.schema_gen import executor as schema_gen_executor
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.types import Artifact, artifact_utils
from tfx.utils import io_utils, writer_utils

from graftline.components.data_validation import checks, findings, history, statistics
from graftline.components.data_validation.settings import ValidationSettings


class SchemaExecutor(BaseExecutor):
    """See `component.SchemaGen` for input, output and parameters."""

    def Do(  # noqa: N802 (TFX's name)
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Infer the schema and write it under the name that TFX's SchemaGen uses.

        TFX's own writer escapes all names that are not ASCII.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        schema = statistics.infer_schema(_statistics(input_dict))
        path = os.path.join(artifact_utils.get_single_uri(output_dict["schema"]), schema_gen_executor.DEFAULT_FILE_NAME)
        io_utils.write_string_file(path, text_format.MessageToString(schema, as_utf8=True))


class ValidatorExecutor(BaseExecutor):
    """See `component.ExampleValidator` for inputs, outputs and parameters."""

    def Do(  # noqa: N802 (TFX's name)
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Validate the statistics, and keep them for the next run if nothing stops this one.

        Raises:
            UserError: there is a finding with the action "stop".
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        now = _statistics(input_dict)
        schema_folder = artifact_utils.get_single_uri(input_dict["schema"])
        folder, images = exec_properties.get("history") or "", exec_properties.get("images") or ""
        reference = history.reference(folder, images) if folder else 0
        result = checks.validate(
            now,
            io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema_folder)),
            exec_properties.get("schema_file") or "",
            history.load(folder, reference),
            ValidationSettings.model_validate_json(exec_properties["settings"]),
        )
        _write(artifact_utils.get_single_instance(output_dict["anomalies"]), result)
        for finding in result.findings:
            logging.warning("%s: %s", finding.check, finding.message)
        findings.require_none_to_stop(result.findings)
        if folder:
            history.accept(folder, images, reference, now)


def _statistics(input_dict: dict[str, list[Artifact]]) -> dict[str, DatasetFeatureStatisticsList]:
    """Return the statistics by split, in the order of the splits' names in the artifact."""
    artifact = artifact_utils.get_single_instance(input_dict["statistics"])
    return {
        split: stats_artifact_utils.load_statistics(artifact, split).proto()
        for split in artifact_utils.decode_split_names(artifact.split_names)
    }


def _write(artifact: Artifact, result: checks.Result) -> None:
    """Write the files of TFX's own ExampleValidator, and the findings in addition."""
    artifact.split_names = artifact_utils.encode_split_names(sorted(result.anomalies))
    clean = {}
    for split, anomalies in result.anomalies.items():
        path = os.path.join(artifact_utils.get_split_uri([artifact], split), validator_executor.DEFAULT_FILE_NAME)
        writer_utils.write_anomalies(path, anomalies)
        clean[split] = int(not anomalies.anomaly_info and not anomalies.HasField("dataset_anomaly_info"))
    artifact.set_json_value_custom_property(validator_executor.ARTIFACT_PROPERTY_BLESSED_KEY, clean)
    io_utils.write_string_file(os.path.join(artifact.uri, findings.FILE), findings.to_json(result.findings))
