"""The executor of ImageExampleGen: a thin shell that runs `ingest`'s stages and judges their counts."""

import json
import os
from dataclasses import replace
from typing import Any

import tensorflow as tf
from absl import logging
from tfx.components.util import examples_utils
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.proto import example_gen_pb2
from tfx.types import Artifact, artifact_utils

from graftline.components.image_example_gen import assignments, quarantine
from graftline.components.image_example_gen.ingest import clean_up, ingest
from graftline.components.image_example_gen.quarantine import Summary
from graftline.components.image_example_gen.scan import scan
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.components.storage import files
from graftline.uri import is_uri

COUNTS = ("found", "examples", "quarantined", "duplicates")


class Executor(BaseBeamExecutor):
    """See `component.ImageExampleGen` for inputs, outputs and parameters."""

    def Do(  # noqa: N802 (TFX's name)
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Ingest the folder `images`.

        Raises:
            UserError: the folder, or too many of its files, cannot be used.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        refused = artifact_utils.get_single_instance(output_dict["quarantine"])
        images, state = json.loads(exec_properties["images"]), exec_properties.get("state") or ""
        settings = IngestSettings.model_validate_json(exec_properties["settings"])
        if any(map(is_uri, (*images, settings.manifest or ""))):
            files.use_beam_options(self._beam_pipeline_args)
        layout = scan(images, settings)
        if state:
            if warning := assignments.mend(state, settings):
                layout = replace(layout, notes=(*layout.notes, warning))
            assignments.load(state, settings)  # reports a damaged file in a few words, before Beam adds its own
        for warning in layout.warnings:
            logging.warning("%s", warning)
        with self._make_beam_pipeline() as pipeline:
            ingest(pipeline, layout, examples.uri, refused.uri, settings, state)
        clean_up(examples.uri)
        with tf.io.gfile.GFile(os.path.join(refused.uri, quarantine.SUMMARY_NAME)) as file:
            summary = Summary.from_json(file.read())
        # TFX removes the outputs of a failed execution, hence the copy that outlives it.
        kept = _keep_report(refused.uri, exec_properties.get("report_dir") or "")
        quarantine.require_usable(summary, layout.root, settings, kept, layout.empty_classes)
        if state:  # only now: a refused run must not settle any splits
            chosen = assignments.read(os.path.join(refused.uri, quarantine.SPLITS_NAME))
            assignments.save(state, settings, chosen)
        _describe(examples, refused, summary)
        counts = (getattr(summary, name) for name in COUNTS)
        logging.info("%s: %d files, %d examples, %d quarantined, %d duplicates", layout.root, *counts)


def _keep_report(report_uri: str, report_dir: str) -> str:
    """Copy quarantine.csv to `report_dir`, if it is given, and return the path of the copy or ""."""
    if not report_dir:
        return ""
    tf.io.gfile.makedirs(report_dir)
    copy = os.path.join(report_dir, quarantine.CSV_NAME)
    tf.io.gfile.copy(os.path.join(report_uri, quarantine.CSV_NAME), copy, overwrite=True)
    return copy


def _describe(examples: Artifact, refused: Artifact, summary: Summary) -> None:
    examples.split_names = artifact_utils.encode_split_names(list(summary.by_split))
    # No file_format: TFX has a name only for "tfrecords_gzip", and its readers use the file's suffix.
    examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)
    for name in COUNTS:
        refused.set_int_custom_property(name, getattr(summary, name))
