"""The Evaluator: TFX's own, with the gate's thresholds in, and a verdict that a person can read out."""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tfx import types
from tfx.components.evaluator import executor as tfx_executor
from tfx.dsl.components.base import executor_spec
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.types import artifact_utils, standard_artifacts, standard_component_specs
from tfx.types.component_spec import ExecutionParameter
from tfx.utils import path_utils

from components import gate
from graftline import features, signatures

_BASELINE = "baseline"
_BASELINE_INPUT = "baseline_model"


def eval_config(thresholds: Mapping[str, gate.Threshold]) -> tfma.EvalConfig:
    """TFMA's config: the function that is served, on the file's bytes, against the label's index.

    TFMA loads a Keras 3 model as a generic SavedModel, so the signature is named and the metrics are listed by hand.
    """
    metrics = [tfma.MetricConfig(class_name="ExampleCount", config=json.dumps({"name": gate.EXAMPLE_COUNT}))]
    for name, metric in gate.METRICS.items():
        threshold = thresholds.get(name, gate.Threshold())
        spec = tfma.MetricThreshold()
        if threshold.min is not None:
            spec.value_threshold.lower_bound.value = threshold.min
        if threshold.max is not None:
            spec.value_threshold.upper_bound.value = threshold.max
        if threshold.min_change is not None:
            if metric.higher_is_better:
                spec.change_threshold.direction = tfma.MetricDirection.HIGHER_IS_BETTER
                spec.change_threshold.absolute.value = threshold.min_change - gate.ROUNDING
            else:
                spec.change_threshold.direction = tfma.MetricDirection.LOWER_IS_BETTER
                spec.change_threshold.absolute.value = gate.ROUNDING - threshold.min_change
        config = tfma.MetricConfig(class_name=metric.tfma_class, config=json.dumps({"name": name, **metric.config}))
        if spec.ByteSize():
            config.threshold.CopyFrom(spec)
        metrics.append(config)

    def model_spec(**which: Any) -> tfma.ModelSpec:
        return tfma.ModelSpec(
            signature_name=signatures.SERVING_EXAMPLES,
            preprocessing_function_names=[signatures.TRANSFORM_FEATURES],
            prediction_key=signatures.PROBABILITIES,
            label_key=features.LABEL_INDEX,
            **which,
        )

    return tfma.EvalConfig(
        model_specs=[model_spec(name="candidate"), model_spec(name=_BASELINE, is_baseline=True)],
        slicing_specs=[tfma.SlicingSpec()],
        metrics_specs=[tfma.MetricsSpec(metrics=metrics)],
    )


def thresholds_of(config: tfma.EvalConfig) -> dict[str, gate.Threshold]:
    """The thresholds that `eval_config` put in, read back: the verdict speaks of what TFMA was given."""
    thresholds = {}
    for config_of_metric in config.metrics_specs[0].metrics:
        name = json.loads(config_of_metric.config)["name"]
        spec = config_of_metric.threshold
        if not config_of_metric.HasField("threshold"):
            continue
        value, change = spec.value_threshold, spec.change_threshold
        sign = 1 if change.direction == tfma.MetricDirection.HIGHER_IS_BETTER else -1
        thresholds[name] = gate.Threshold(
            min=value.lower_bound.value if value.HasField("lower_bound") else None,
            max=value.upper_bound.value if value.HasField("upper_bound") else None,
            min_change=sign * change.absolute.value + gate.ROUNDING if change.HasField("absolute") else None,
        )
    return thresholds


class Executor(tfx_executor.Executor):
    """TFX's Evaluator, against the model that is served, which writes the verdict.

    The exec property `served` names the directory of the served version, or is empty when none is. It decides: the
    Resolver finds the blessed model with the highest artifact id, which another may have replaced since. Where
    `served` is not given (on a cluster) the Resolver's model is the baseline.
    """

    def Do(  # noqa: N802
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluates, blesses or not, and writes `verdict.json` into the evaluation."""
        inputs = dict(input_dict)
        examples = artifact_utils.get_single_instance(inputs["examples"])
        if features.TEST in artifact_utils.decode_split_names(examples.split_names):
            exec_properties = {**exec_properties, "example_splits": json.dumps([features.TEST])}
        with contextlib.ExitStack() as stack:
            served = exec_properties.get("served")
            if served is not None:
                inputs.pop(_BASELINE_INPUT, None)
            if served:
                inputs[_BASELINE_INPUT] = [_as_artifact(served, stack.enter_context(tempfile.TemporaryDirectory()))]
            note = ""
            if not inputs.get(_BASELINE_INPUT):
                note = "no model is served yet, so the value thresholds alone decided"
            else:
                theirs, ours = (_labels(inputs[key]) for key in (_BASELINE_INPUT, "model"))
                if theirs != ours:
                    # TFMA's comparison of different label sets crashes (tfx issue 4390).
                    del inputs[_BASELINE_INPUT]
                    note = "the served model knows other classes, so the value thresholds alone decided: "
                    note += _difference(theirs, ours)
            # AutoGraph would rewrite the code of TFMA's metrics for graphs, in a second or more; they run eagerly.
            tf.autograph.experimental.do_not_convert(super().Do)(inputs, output_dict, exec_properties)
        if served and inputs.get(_BASELINE_INPUT):
            blessing = artifact_utils.get_single_instance(output_dict["blessing"])
            blessing.set_string_custom_property("baseline_model_uri", served)
        config = json_format.Parse(exec_properties["eval_config"], tfma.EvalConfig())
        evaluation = artifact_utils.get_single_uri(output_dict["evaluation"])
        candidate, baseline = _metrics(evaluation)
        verdict = gate.Verdict(
            blessed=tfma.load_validation_result(evaluation).validation_ok,
            examples=int(candidate[gate.EXAMPLE_COUNT]),
            candidate=candidate,
            baseline=baseline,
            checks=gate.check(thresholds_of(config), candidate, baseline),
            note=note,
        )
        with tf.io.gfile.GFile(os.path.join(evaluation, gate.VERDICT_FILE), "w") as file:
            file.write(verdict.to_json())


class EvaluatorSpec(standard_component_specs.EvaluatorSpec):
    """TFX's, and what is served."""

    PARAMETERS = {  # noqa: RUF012
        **standard_component_specs.EvaluatorSpec.PARAMETERS,
        "served": ExecutionParameter(type=str, optional=True),
        "code": ExecutionParameter(type=str, optional=True),
    }


class Evaluator(BaseBeamComponent):
    """See Executor. Outputs `evaluation` and `blessing`, as TFX's own."""

    SPEC_CLASS = EvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel,
        eval_config: tfma.EvalConfig,
        served: str | None,
        code: str,
    ) -> None:
        """Makes the node; it evaluates on the test split where there is one, else on eval.

        `code` is there for the cache key only.
        """
        super().__init__(
            EvaluatorSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                eval_config=eval_config,
                example_splits=json.dumps([features.EVAL]),
                code=code,
                evaluation=types.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=types.Channel(type=standard_artifacts.ModelBlessing),
                **({} if served is None else {"served": served}),
            )
        )


def _as_artifact(saved_model: str, folder: str) -> types.Artifact:
    """A Model artifact at `folder` whose serving model is the SavedModel."""
    artifact = standard_artifacts.Model()
    artifact.uri = folder
    os.symlink(saved_model, path_utils.serving_model_dir(folder))
    return artifact


def _labels(model: list[types.Artifact]) -> list[str]:
    directory = path_utils.serving_model_path(artifact_utils.get_single_uri(model))
    with tf.io.gfile.GFile(os.path.join(directory, "assets", features.LABELS_FILE), "rb") as file:
        return features.parse_labels(file.read())


def _difference(theirs: list[str], ours: list[str]) -> str:
    new, gone = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    return "; ".join(f"{what}: {', '.join(names[:10])}" for what, names in (("new", new), ("gone", gone)) if names)


def _metrics(evaluation: str) -> tuple[dict[str, float], dict[str, float]]:
    """The overall metrics by name, of the candidate and of the baseline (empty when there was none)."""
    candidate: dict[str, float] = {}
    baseline: dict[str, float] = {}
    for of_slice in tfma.load_metrics(evaluation):
        for metric in of_slice.metric_keys_and_values:
            if metric.key.is_diff or not metric.value.HasField("double_value"):
                continue
            # Without a baseline TFMA takes the candidate's name away.
            of_model = baseline if metric.key.model_name == _BASELINE else candidate
            of_model[metric.key.name] = metric.value.double_value.value
    return candidate, baseline
