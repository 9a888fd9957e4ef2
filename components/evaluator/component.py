"""The Evaluator: TFMA on the function that is served, and the gate's verdict, which decides the blessing.

TFX's own blesses by TFMA's thresholds, which know neither significance nor ties, crash when the label set has changed
(tfx issue 4390), and have no place for what a serving validation found.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_model_analysis as tfma
from tfx import types
from tfx.components.evaluator import constants
from tfx.components.util import tfxio_utils
from tfx.dsl.components.base import base_beam_executor, executor_spec
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.types import artifact_utils, component_spec, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ExecutionParameter
from tfx.types.system_executions import Evaluate
from tfx.utils import io_utils, path_utils

from graftline import features, signatures
from graftline.blessings import INFRA_BLESSED, SERVING_VALIDATION_FILE
from graftline.components.evaluator import judging, predictions, settings
from graftline.components.evaluator import verdict as gate
from graftline.components.evaluator.predictions import BASELINE, CANDIDATE
from graftline.components.evaluator.tfma import eval_config
from graftline.components.storage import versions as object_store
from graftline.errors import UserError

_TELEMETRY = ["Evaluator"]


class Executor(base_beam_executor.BaseBeamExecutor):
    """Evaluates the candidate and the model that is served on the same images, and blesses or not.

    The baseline is the model that is served:
    - the highest version under `served_base_path`, a folder or a URI, when the node runs: what was served when the
      run began may have been rolled back from while it trained;
    - without that the directory that the exec property `served` names, empty when none is served;
    - with neither (a Vertex Endpoint, which has no folder of versions) it is the input `baseline_model`;
    - `reset_baseline` sets all of them aside.
    """

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes TFMA's results, `predictions-*.parquet`, `verdict.json` and `verdict.txt`, and the blessing."""
        self._log_startup(input_dict, output_dict, exec_properties)
        asked = settings.GateSettings.model_validate_json(exec_properties["gate"])
        model = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        served, notes = _baseline(input_dict, exec_properties)
        ours = _labels(model)
        settings.check_classes(asked, ours)
        evaluation = artifact_utils.get_single_uri(output_dict["evaluation"])
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        splits = artifact_utils.decode_split_names(examples.split_names)
        split = features.TEST if features.TEST in splits else features.EVAL
        with _readable(served) as directory:
            theirs = _served_labels(directory) if served else None
            if theirs is not None and set(theirs) != set(ours):
                if len(both := set(theirs) & set(ours)) < 2:
                    served, theirs = "", None
                    notes.append("the served model knows other classes, so the value thresholds alone decided")
                else:
                    notes.append(
                        f"the served model knows other classes ({_difference(theirs, ours)}): the two were compared on "
                        f"the images of the {len(both)} classes that both know, by their probabilities alone"
                    )
            # AutoGraph would rewrite the code of TFMA's metrics for graphs, in a second or more; they run eagerly.
            tf.autograph.experimental.do_not_convert(self._evaluate)(
                asked,
                examples,
                split,
                {CANDIDATE: (model, ours), **({BASELINE: (directory, theirs)} if theirs else {})},
                evaluation,
            )
        with tempfile.TemporaryDirectory() as scratch:
            answers = predictions.read(evaluation, ours, theirs, scratch)
            infra = _serving_validation(input_dict)
            verdict = judging.judge(asked, answers, notes, infra)
        io_utils.write_string_file(os.path.join(evaluation, gate.VERDICT_FILE), verdict.to_json())
        io_utils.write_string_file(os.path.join(evaluation, gate.VERDICT_TEXT), verdict.to_text())
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        _bless(blessing, verdict.blessed, input_dict["model"][0], served, exec_properties)

    def _evaluate(
        self,
        asked: settings.GateSettings,
        examples: types.Artifact,
        split: str,
        models: Mapping[str, tuple[str, Sequence[str]]],
        output: str,
    ) -> None:
        """Runs TFMA; `models` has the SavedModel and the classes of each."""
        classes = {name: len(labels) for name, (_, labels) in models.items()}
        alike = BASELINE in models and models[BASELINE][1] == models[CANDIDATE][1]
        config = eval_config(asked, classes[CANDIDATE], baseline=alike)
        candidate = models[CANDIDATE][0]
        shared = [tfma.default_eval_shared_model(candidate, model_name=CANDIDATE, eval_config=config)]
        alone = None
        if alike:
            shared.append(_served_model(models[BASELINE][0], config))
        elif BASELINE in models:
            # TFMA would compare other classes under the same numbers, or crash (tfx issue 4390).
            of_baseline = eval_config(asked, classes[BASELINE], baseline=True, candidate=False)
            served = _served_model(models[BASELINE][0], of_baseline)
            alone = (served._replace(model_name=""), of_baseline)
        source = tfxio_utils.get_tfxio_factory_from_artifact(
            examples=[examples], telemetry_descriptors=_TELEMETRY, raw_record_column_name=tfma.ARROW_INPUT_COLUMN
        )(io_utils.all_files_pattern(artifact_utils.get_split_uri([examples], split)))
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Read" >> source.BeamSource()
                | "Evaluate"
                >> tfma.ExtractEvaluateAndWriteResults(
                    eval_shared_model=shared,
                    eval_config=config,
                    extractors=predictions.extractors(shared, config, classes, output, alone),
                    output_path=output,
                )
            )


class EvaluatorSpec(component_spec.ComponentSpec):
    """See Executor; `gate` is `GateSettings` as JSON, `code` is there for the cache key only."""

    PARAMETERS = {  # noqa: RUF012
        "gate": ExecutionParameter(type=str),
        "served": ExecutionParameter(type=str, optional=True),
        "served_base_path": ExecutionParameter(type=str, optional=True),
        "reset_baseline": ExecutionParameter(type=int, optional=True),
        "code": ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {  # noqa: RUF012
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": ChannelParameter(type=standard_artifacts.Model, optional=True),
        "infra_blessing": ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
    }
    OUTPUTS = {  # noqa: RUF012
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    TYPE_ANNOTATION = Evaluate


class Evaluator(BaseBeamComponent):
    """See Executor. Outputs `evaluation` and `blessing`, as TFX's own."""

    SPEC_CLASS = EvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        gate: settings.GateSettings,
        *,
        served: str | None = None,
        served_base_path: str | None = None,
        baseline_model: types.BaseChannel | None = None,
        infra_blessing: types.BaseChannel | None = None,
        reset_baseline: bool = False,
        code: str = "",
    ) -> None:
        """Makes the node; it evaluates on the test split where there is one, else on eval.

        Args:
          examples: with the split `eval`.
          model: the candidate.
          gate: what it must reach.
          served: directory of the version that is served, "" when none is; None where that is not known yet. With
            `served_base_path` for the cache key alone.
          served_base_path: folder or URI of the served versions, looked at when the node runs.
          baseline_model: what to compare with where neither is known.
          infra_blessing: of the serving validation: a model that it refused is evaluated and not blessed.
          reset_baseline: compare with nothing, as in a first run.
          code: for the cache key only.
        """
        given = {
            "served": served,
            "served_base_path": served_base_path,
            "baseline_model": baseline_model,
            "infra_blessing": infra_blessing,
            "reset_baseline": 1 if reset_baseline else None,
        }
        super().__init__(
            EvaluatorSpec(
                examples=examples,
                model=model,
                gate=gate.model_dump_json(exclude_defaults=True),
                code=code,
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
                **{key: value for key, value in given.items() if value is not None},
            )
        )


def _baseline(inputs: Mapping[str, list[types.Artifact]], exec_properties: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The directory of the baseline, "" for none, and what is to be said of that."""
    served, base_path = exec_properties.get("served"), exec_properties.get("served_base_path")
    if base_path is not None:
        served = object_store.served_version(base_path)
    if served is None:
        resolved = inputs.get("baseline_model")
        served = path_utils.serving_model_path(artifact_utils.get_single_uri(resolved)) if resolved else ""
    if exec_properties.get("reset_baseline"):
        return "", ["the served model was set aside, as --reset-baseline asks: the value thresholds alone decided"]
    return served, [] if served else [gate.NOTHING_SERVED]


@contextlib.contextmanager
def _readable(served: str) -> Iterator[str]:
    """A directory that TensorFlow can read with the served version: itself, but for a copy of one at s3://."""
    with contextlib.ExitStack() as stack:
        try:
            tf.io.gfile.exists(served)
        except tf.errors.UnimplementedError:
            served = stack.enter_context(object_store.local_copy(served))
        yield served


def _served_model(path: str, config: tfma.EvalConfig) -> tfma.types.EvalSharedModel:
    """TFMA's handle of the served SavedModel, which says what is wrong when it can't be loaded."""
    try:
        shared = tfma.default_eval_shared_model(path, model_name=BASELINE, eval_config=config)
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise _unusable(path, error) from error
    load = shared.model_loader.construct_fn

    def loading() -> Any:
        try:
            loaded = load()
        except Exception as error:
            raise _unusable(path, error) from error
        missing = {signatures.SERVING_EXAMPLES, signatures.TRANSFORM_FEATURES} - set(loaded.signatures)
        if missing:
            raise _unusable(path, f"it has no signature {', '.join(sorted(missing))}")
        return loaded

    return shared._replace(model_loader=tfma.types.ModelLoader(construct_fn=loading, tags=shared.model_loader.tags))


def _unusable(path: str, why: object) -> UserError:
    reason = str(why).strip().split("\n")[0][:200]
    return UserError(
        f"{path}: the model that is served cannot be loaded, so nothing can be compared with it ({reason}); put that "
        "version right or take it away, or set it aside with `graftline run --reset-baseline`"
    )


def _labels(directory: str) -> list[str]:
    with tf.io.gfile.GFile(os.path.join(directory, "assets", features.LABELS_FILE), "rb") as file:
        return features.parse_labels(file.read())


def _served_labels(directory: str) -> list[str]:
    try:
        return _labels(directory)
    except (tf.errors.OpError, OSError) as error:
        raise _unusable(directory, error) from error


def _difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    new, gone = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    return "; ".join(f"{what}: {', '.join(names[:10])}" for what, names in (("new", new), ("gone", gone)) if names)


def _serving_validation(inputs: Mapping[str, list[types.Artifact]]) -> gate.Check | None:
    """What the serving validation found, as a check of the verdict; None where none ran."""
    if not inputs.get("infra_blessing"):
        return None
    uri = artifact_utils.get_single_uri(inputs["infra_blessing"])
    path = os.path.join(uri, SERVING_VALIDATION_FILE)
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            found = json.load(file)
        passed, reasons = bool(found["passed"]), [str(reason) for reason in found.get("reasons", [])]
        if passed and found.get("images") == 0:
            return None  # it was switched off
        if found.get("withdrawn"):  # no server was asked
            text = f"withdrawn: {'; '.join(reasons)}"
            return gate.Check(gate.WITHDRAWN, "passed", 1, 0.0, False, because=text)
    else:
        passed, reasons = tf.io.gfile.exists(os.path.join(uri, INFRA_BLESSED)), []
    text = "the model server answered as the model was trained, passed"
    if not passed:
        text = f"refused by the serving validation: {'; '.join(reasons) or 'it does not say why'}"
    return gate.Check(gate.SERVING, "passed", 1, float(passed), passed, because=text)


def _bless(
    blessing: types.Artifact, blessed: bool, model: types.Artifact, served: str, exec_properties: Mapping[str, Any]
) -> None:
    """As TFX's Evaluator says it, for its Pusher and its resolver of the latest blessed model."""
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
