"""The Evaluator's executor: runs TFMA on both models, has the answers judged, writes the verdict and the blessing."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_model_analysis as tfma
from tfx import types
from tfx.components.evaluator import constants
from tfx.components.util import tfxio_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from graftline import features, patterns, signatures
from graftline.blessings import INFRA_BLESSED, SERVING_VALIDATION_FILE
from graftline.components.evaluator import judging, predictions, verdict
from graftline.components.evaluator.predictions import BASELINE, CANDIDATE
from graftline.components.evaluator.settings import (
    GateSettings,
    check_classes,
    describe_lookalikes,
    explain_other_classes,
)
from graftline.components.evaluator.tfma import eval_config
from graftline.components.storage import versions
from graftline.errors import UserError
from graftline.uri import is_uri

_TELEMETRY = ["Evaluator"]
_VALUES_ALONE = "only the min and max thresholds were applied"


class _Model(NamedTuple):
    """Directory of a SavedModel, and its classes in the order of its probabilities."""

    directory: str
    labels: Sequence[str]
    name: str = ""  # its path for messages, where `directory` is a temporary copy or link


class Executor(base_beam_executor.BaseBeamExecutor):
    """Evaluates the candidate and the served model on the same images, and blesses the candidate or not.

    The baseline is the served model:
    - with `served_base_path`, a folder or a URI: the highest version there when the node runs, because somebody may
      have rolled back since the run began;
    - otherwise the directory that the exec property `served` names, which is empty when no model is served;
    - without both (a Vertex Endpoint has no folder of versions): the input `baseline_model`;
    - with `reset_baseline`: none.
    """

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write TFMA's results, `predictions-*.parquet`, the two files of the verdict, and the blessing."""
        self._log_startup(input_dict, output_dict, exec_properties)
        gate = GateSettings.model_validate_json(exec_properties["gate"])
        directory = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        candidate = _Model(directory, _labels(directory))
        check_classes(gate, candidate.labels)
        evaluation = artifact_utils.get_single_uri(output_dict["evaluation"])
        served, notes = _baseline(input_dict, exec_properties)
        checks = _serving_validation(input_dict)
        with _readable(served) as directory:
            baseline = _Model(directory, _served_labels(directory, served), served) if served else None
            if baseline is not None and (note := _class_note(candidate.labels, baseline.labels)):
                notes.append(note)
                checks += _check_served_classes(candidate.labels, baseline.labels)
                if not _comparable(candidate.labels, baseline.labels):
                    served, baseline = "", None
            # AutoGraph would rewrite the code of TFMA's metrics for graphs, in a second or more; they run eagerly.
            tf.autograph.experimental.do_not_convert(self._evaluate)(
                gate, input_dict["examples"], candidate, baseline, evaluation
            )
        with tempfile.TemporaryDirectory() as scratch:
            served_labels = baseline.labels if baseline else None
            answers = predictions.read(evaluation, candidate.labels, served_labels, scratch)
            judged = judging.judge(gate, answers, notes, checks)
        io_utils.write_string_file(os.path.join(evaluation, verdict.VERDICT_FILE), judged.to_json())
        io_utils.write_string_file(os.path.join(evaluation, verdict.VERDICT_TEXT), judged.to_text())
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        _bless(blessing, judged.blessed, input_dict["model"][0], served, exec_properties)

    def _evaluate(
        self,
        gate: GateSettings,
        examples: list[types.Artifact],
        candidate: _Model,
        baseline: _Model | None,
        output: str,
    ) -> None:
        """Run TFMA; its metrics and the rows of `predictions` go under `output`."""
        classes = {CANDIDATE: len(candidate.labels), **({BASELINE: len(baseline.labels)} if baseline else {})}
        together = baseline is not None and baseline.labels == candidate.labels
        config = eval_config([CANDIDATE, BASELINE] if together else [CANDIDATE], classes[CANDIDATE], gate.slices)
        models = [tfma.default_eval_shared_model(candidate.directory, model_name=CANDIDATE, eval_config=config)]
        separate = None
        if baseline is not None and together:
            models.append(_served_model(baseline, config))
        elif baseline is not None:
            # TFMA would compare different classes under the same index, or crash (tfx issue 4390).
            own_config = eval_config([BASELINE], classes[BASELINE])
            separate = (_served_model(baseline, own_config)._replace(model_name=""), own_config)
        splits = artifact_utils.decode_split_names(artifact_utils.get_single_instance(examples).split_names)
        split = features.TEST if features.TEST in splits else features.EVAL
        source = tfxio_utils.get_tfxio_factory_from_artifact(
            examples=examples, telemetry_descriptors=_TELEMETRY, raw_record_column_name=tfma.ARROW_INPUT_COLUMN
        )(io_utils.all_files_pattern(artifact_utils.get_split_uri(examples, split)))
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Read" >> source.BeamSource()
                | "Evaluate"
                >> tfma.ExtractEvaluateAndWriteResults(
                    eval_shared_model=models,
                    eval_config=config,
                    extractors=predictions.extractors(models, config, classes, output, separate),
                    output_path=output,
                )
            )


def _baseline(inputs: Mapping[str, list[types.Artifact]], exec_properties: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the directory of the baseline, "" for none, and the notes about that for the verdict."""
    served, base_path = exec_properties.get("served"), exec_properties.get("served_base_path")
    if base_path is not None:
        served = versions.served_version(base_path)
    if served is None:
        resolved = inputs.get("baseline_model")
        served = path_utils.serving_model_path(artifact_utils.get_single_uri(resolved)) if resolved else ""
    if exec_properties.get("reset_baseline"):
        return "", [f"--reset-baseline set the served model aside: {_VALUES_ALONE}"]
    return served, [] if served else [verdict.NOTHING_SERVED]


@contextlib.contextmanager
def _readable(served: str) -> Iterator[str]:
    """Give a directory with the served version that TensorFlow can read: a copy of one at s3://, else `served`."""
    with contextlib.ExitStack() as stack:
        try:
            tf.io.gfile.exists(served)
        except tf.errors.UnimplementedError:
            served = stack.enter_context(versions.local_copy(served))
        if not is_uri(served):
            served = stack.enter_context(patterns.plain_path(served))
        yield served


def _served_model(served: _Model, config: tfma.EvalConfig) -> tfma.types.EvalSharedModel:
    """Return TFMA's handle of the served SavedModel; it raises UserError when the model cannot be loaded."""
    try:
        shared = tfma.default_eval_shared_model(served.directory, model_name=BASELINE, eval_config=config)
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise _unusable(served.name, served.directory, error) from error
    load = shared.model_loader.construct_fn

    def load_or_explain() -> Any:
        try:
            model = load()
        except Exception as error:
            raise _unusable(served.name, served.directory, error) from error
        missing = {signatures.SERVING_EXAMPLES, signatures.TRANSFORM_FEATURES} - set(model.signatures)
        if missing:
            raise _unusable(served.name, served.directory, f"it has no signature {', '.join(sorted(missing))}")
        return model

    loader = tfma.types.ModelLoader(construct_fn=load_or_explain, tags=shared.model_loader.tags)
    return shared._replace(model_loader=loader)


def _unusable(served: str, directory: str, why: object) -> UserError:
    reason = str(why).replace(directory, served).strip().split("\n")[0][:200]
    return UserError(
        f"{served}: the served model cannot be loaded, so the new one cannot be compared with it ({reason}). Repair or "
        "remove that version, or set it aside with `graftline run --reset-baseline`"
    )


def _labels(directory: str) -> list[str]:
    with tf.io.gfile.GFile(os.path.join(directory, "assets", features.LABELS_FILE), "rb") as file:
        return features.parse_labels(file.read())


def _served_labels(directory: str, served: str) -> list[str]:
    try:
        return _labels(directory)
    except (tf.errors.OpError, OSError, UnicodeDecodeError) as error:
        raise _unusable(served, directory, error) from error


def _comparable(labels: Sequence[str], served_labels: Sequence[str]) -> bool:
    """Return whether the two models have enough classes in common to be compared."""
    return len(set(labels) & set(served_labels)) >= 2


def _class_note(labels: Sequence[str], served_labels: Sequence[str]) -> str:
    """Return what the verdict says about a served model with other classes; "" when both have the same classes."""
    ours, theirs = set(labels), set(served_labels)
    if ours == theirs:
        return ""
    if not _comparable(labels, served_labels):
        return f"the served model has other classes and cannot be compared: {_VALUES_ALONE}"
    sides = (("new", sorted(ours - theirs)), ("gone", sorted(theirs - ours)))
    changes = "; ".join(f"{kind}: {', '.join(names[:10])}" for kind, names in sides if names)
    return (
        f"the served model has other classes ({changes}): both models were compared on the images of the "
        f"{len(ours & theirs)} classes that both have, by their probabilities for these classes only"
        f"{describe_lookalikes(labels, served_labels)}"
    )


def _check_served_classes(labels: Sequence[str], served_labels: Sequence[str]) -> list[verdict.Check]:
    """Return a check that failed if the served model knows none of the candidate's classes."""
    if not (reason := explain_other_classes(labels, served_labels)):
        return []
    text = (
        f"a model is served by this name, and {reason}: failed (if this is another model, set model.name; if it takes "
        "the place of the served one, run with --reset-baseline)"
    )
    return [verdict.Check(verdict.SERVED_CLASSES, "passed", 1, 0.0, False, because=text)]


def _serving_validation(inputs: Mapping[str, list[types.Artifact]]) -> list[verdict.Check]:
    """Return what the serving validation found, as a check of the verdict; nothing where none ran."""
    if not inputs.get("infra_blessing"):
        return []
    uri = artifact_utils.get_single_uri(inputs["infra_blessing"])
    path = os.path.join(uri, SERVING_VALIDATION_FILE)
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            report = json.load(file)
        passed, reasons = bool(report["passed"]), "; ".join(map(str, report.get("reasons", [])))
        if passed and report.get("images") == 0:
            return []  # it was switched off
        if report.get("withdrawn"):  # no server was asked
            return [verdict.Check(verdict.WITHDRAWN, "passed", 1, 0.0, False, because=f"withdrawn: {reasons}")]
    else:  # TFX's InfraValidator gives no reasons
        passed, reasons = tf.io.gfile.exists(os.path.join(uri, INFRA_BLESSED)), ""
    text = "a model server gave the same answers as the trained model: passed"
    if not passed:
        text = f"the serving validation refused the model: {reasons or 'it gave no reason'}"
    return [verdict.Check(verdict.SERVING, "passed", 1, float(passed), passed, because=text)]


def _bless(
    blessing: types.Artifact, blessed: bool, model: types.Artifact, served: str, exec_properties: Mapping[str, Any]
) -> None:
    """Write the blessing as TFX's Evaluator does, for TFX's Pusher and its resolver of the latest blessed model."""
    name = constants.BLESSED_FILE_NAME if blessed else constants.NOT_BLESSED_FILE_NAME
    io_utils.write_string_file(os.path.join(blessing.uri, name), "")
    value = constants.BLESSED_VALUE if blessed else constants.NOT_BLESSED_VALUE
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, value)
    blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri)
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
    if served:
        blessing.set_string_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, served)
    if "current_component_id" in exec_properties:
        blessing.set_string_custom_property("component_id", exec_properties["current_component_id"])
