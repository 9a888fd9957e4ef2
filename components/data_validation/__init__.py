"""Data validation: compares a run's statistics with a schema, with the last run and between the splits."""

from typing import TYPE_CHECKING

from graftline.faces import face

if TYPE_CHECKING:
    from graftline.components.data_validation.component import ExampleValidator, make_schema_gen, make_statistics_gen
    from graftline.components.data_validation.findings import FILE as FINDINGS_FILE
    from graftline.components.data_validation.findings import Finding
    from graftline.components.data_validation.findings import from_json as read_findings
    from graftline.components.data_validation.history import reference as reference_run
    from graftline.components.data_validation.schema_file import check as check_schema_file
    from graftline.components.data_validation.settings import ValidationSettings

__getattr__ = face(__name__)
