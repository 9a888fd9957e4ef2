"""The ServingValidator's executor: validates the model by its reference predictions and writes the blessing."""

import os
from typing import Any

from tfx import types
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from graftline import signatures
from graftline.blessings import BLESSED, INFRA_BLESSED, INFRA_NOT_BLESSED, SERVING_VALIDATION_FILE
from graftline.components.serving_validator import validation
from graftline.components.serving_validator.settings import ServingValidationSettings
from graftline.components.storage.versions import destination, local_copy
from graftline.references import read as read_references
from graftline.serving.versions import withdrawals
from graftline.serving.versions.base_path import content_digest


class Executor(BaseExecutor):
    """See `component.ServingValidator`."""

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write the report and the mark into the blessing."""
        self._log_startup(input_dict, output_dict, exec_properties)
        settings = ServingValidationSettings.model_validate_json(exec_properties["settings"])
        model = artifact_utils.get_single_instance(input_dict["model"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        saved_model = path_utils.serving_model_path(model.uri, path_utils.is_old_model_artifact(model))
        with local_copy(saved_model) as directory:
            may_pass = exec_properties.get("allow_withdrawn")
            reason = None if may_pass else _withdrawn(directory, exec_properties["served"])
            if reason:
                report = validation.Report(reasons=[reason], withdrawn=True)
            elif settings.enabled:
                references = read_references(os.path.join(model.uri, signatures.REFERENCES_FILE))
                report = validation.validate(directory, references, settings)
            else:
                report = validation.Report()
        mark = INFRA_BLESSED if report.passed else INFRA_NOT_BLESSED
        for name, content in ((SERVING_VALIDATION_FILE, report.to_json()), (mark, "")):
            io_utils.write_string_file(os.path.join(blessing.uri, name), content)
        blessing.set_int_custom_property(BLESSED, int(report.passed))


def _withdrawn(saved_model_dir: str, served_base_path: str) -> str | None:
    """Return why the model must not be served again; None when it may."""
    if not served_base_path:
        return None
    withdrawal = withdrawals.find(destination(served_base_path), content_digest(saved_model_dir))
    return f"{withdrawal}; push.allow_withdrawn=true pushes it all the same" if withdrawal else None
