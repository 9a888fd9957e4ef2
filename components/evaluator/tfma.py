"""TFMA's config, generated from the gate's settings, and the metrics that TFMA does not have.

TFMA's figures are for its own tools, for slices and plots; `judging` judges by the same metrics, made of the answers.
"""

import json
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types, metric_util

from graftline import features, signatures
from graftline.components.evaluator import metrics, settings
from graftline.components.evaluator.predictions import BASELINE, CANDIDATE


def eval_config(gate: settings.GateSettings, classes: int, baseline: bool, candidate: bool = True) -> tfma.EvalConfig:
    """TFMA's config: the function that is served, on the file's bytes, against the label's index.

    TFMA loads a Keras 3 model as a generic SavedModel, so the signature is named and the metrics are listed by hand.
    It is given the thresholds that it can express: those of all images and of the metrics that it computes; a change
    only where no significance is asked for.

    Args:
      gate: what is asked.
      classes: how many classes the candidate knows.
      baseline: whether there is one that knows the same classes.
      candidate: False for a config that only serves to run a baseline with other classes.
    """
    named = [name for name, there in ((CANDIDATE, candidate), (BASELINE, baseline)) if there]
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(
                name=name,
                is_baseline=name == BASELINE and candidate,
                signature_name=signatures.SERVING_EXAMPLES,
                preprocessing_function_names=[signatures.TRANSFORM_FEATURES],
                prediction_key=signatures.PROBABILITIES,
                label_key=features.LABEL_INDEX,
            )
            for name in named
        ],
        slicing_specs=[tfma.SlicingSpec(), *(tfma.SlicingSpec(feature_keys=[name]) for name in gate.slices)],
        metrics_specs=[tfma.MetricsSpec(metrics=_metric_configs(gate, classes, baseline))],
    )


def _metric_configs(gate: settings.GateSettings, classes: int, baseline: bool) -> list[tfma.MetricConfig]:
    def config(class_name: str, name: str, module: str = "", **arguments: Any) -> tfma.MetricConfig:
        threshold = _threshold(name, gate, baseline)
        made = tfma.MetricConfig(class_name=class_name, module=module, config=json.dumps({"name": name, **arguments}))
        if threshold.ByteSize():
            # A plain threshold would be one of each slice.
            made.per_slice_thresholds.add(slicing_specs=[tfma.SlicingSpec()], threshold=threshold)
        return made

    return [
        config("ExampleCount", "example_count"),
        config("SparseCategoricalAccuracy", metrics.ACCURACY),
        *(
            config("SparseTopKCategoricalAccuracy", name, k=k)
            for name, k in metrics.TOP_K.items()
            if k < classes and (k == 3 or name in gate.thresholds)
        ),
        config("SparseCategoricalCrossentropy", metrics.CROSS_ENTROPY),
        config("ExpectedCalibrationError", metrics.CALIBRATION, __name__),
        *(config("Macro", name, __name__, classes=classes) for name in metrics.MACRO),
        config("MultiClassConfusionMatrixPlot", "confusion_matrix"),
    ]


def _threshold(metric: str, gate: settings.GateSettings, baseline: bool) -> tfma.MetricThreshold:
    spec = tfma.MetricThreshold()
    if metric == "example_count":
        spec.value_threshold.lower_bound.value = gate.min_examples
    threshold = gate.thresholds.get(metric, settings.Threshold())
    if threshold.min is not None:
        spec.value_threshold.lower_bound.value = threshold.min
    if threshold.max is not None:
        spec.value_threshold.upper_bound.value = threshold.max
    if threshold.min_change is not None and baseline and gate.alpha is None:
        bound = threshold.min_change + (metrics.ROUNDING if gate.tie == "refuse" else -metrics.ROUNDING)
        if metric in metrics.LOWER_IS_BETTER:
            spec.change_threshold.direction = tfma.MetricDirection.LOWER_IS_BETTER
            spec.change_threshold.absolute.value = -bound
        else:
            spec.change_threshold.direction = tfma.MetricDirection.HIGHER_IS_BETTER
            spec.change_threshold.absolute.value = bound
    return spec


class ExpectedCalibrationError(metric_types.Metric):
    """See `metrics.calibration_terms` for its definition and source."""

    def __init__(self, name: str = metrics.CALIBRATION) -> None:
        super().__init__(metric_util.merge_per_key_computations(_computations), name=name, metric=metrics.CALIBRATION)


class Macro(metric_types.Metric):
    """Precision, recall or F1 of each class, the mean of the classes: see `metrics.macro_terms`.

    TFMA's own are those of one class at a threshold of its probability; the class that is served is the best one.
    """

    def __init__(self, name: str, classes: int) -> None:
        super().__init__(metric_util.merge_per_key_computations(_computations), name=name, metric=name, classes=classes)


metric_types.register_metric(ExpectedCalibrationError)
metric_types.register_metric(Macro)


def _computations(
    name: str,
    metric: str,
    classes: int = 0,
    eval_config: tfma.EvalConfig | None = None,
    model_name: str = "",
    output_name: str = "",
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(name=name, model_name=model_name, output_name=output_name)
    combiner = _Sums(key, metric, classes, eval_config)
    return [metric_types.MetricComputation(keys=[key], preprocessors=None, combiner=combiner)]


class _Sums(beam.CombineFn):
    """Adds up the terms of a metric, example by example."""

    def __init__(
        self, key: metric_types.MetricKey, metric: str, classes: int, eval_config: tfma.EvalConfig | None
    ) -> None:
        self._key, self._metric, self._classes, self._eval_config = key, metric, classes, eval_config

    def create_accumulator(self) -> np.ndarray:
        """No sums."""
        return np.zeros(metrics.BINS + 1 if self._metric == metrics.CALIBRATION else 3 * self._classes)

    def add_input(self, accumulator: np.ndarray, element: metric_types.StandardMetricInputs) -> np.ndarray:
        """The sums with one example more."""
        label, prediction, _ = next(
            metric_util.to_label_prediction_example_weight(
                element, eval_config=self._eval_config, model_name=self._key.model_name, flatten=False
            )
        )
        label, predicted = label.reshape(-1)[:1].astype(np.int64), np.array([prediction.argmax()])
        if self._metric == metrics.CALIBRATION:
            terms = metrics.calibration_terms(label == predicted, np.array([prediction.max()], np.float64))
        else:
            terms = metrics.macro_terms(label, predicted, self._classes)
        accumulator[terms.indices] += terms.data
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        """Sums of both."""
        return np.sum(list(accumulators), axis=0)

    def extract_output(self, accumulator: np.ndarray) -> dict[metric_types.MetricKey, float]:
        """The metric."""
        return {self._key: float(metrics.of_sums(self._metric, accumulator[None])[0])}
