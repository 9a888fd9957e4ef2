"""TFMA's config: the function that is served, and stock metrics for TFMA's own tools.

The gate judges by its own metrics (`judging`), which are computed from each image's probabilities.
"""

import json
from collections.abc import Iterable, Sequence

import tensorflow_model_analysis as tfma

from graftline import features, signatures
from graftline.components.evaluator import metrics
from graftline.components.evaluator.predictions import BASELINE


def eval_config(models: Sequence[str], classes: int, slices: Iterable[str] = ()) -> tfma.EvalConfig:
    """Return TFMA's config: the function that is served, on the file's bytes, against the label's index.

    TFMA loads a Keras 3 model as a generic SavedModel, so the config names the signature and lists the metrics.
    The models are named; if one of two is BASELINE, TFMA compares the other with it. The metrics are also computed for
    each value of the dimensions `slices`, such as "class".
    """
    stock: list[tuple[str, dict[str, str | int]]] = [
        ("ExampleCount", {}),
        ("SparseCategoricalAccuracy", {"name": metrics.ACCURACY}),
        ("SparseCategoricalCrossentropy", {"name": metrics.CROSS_ENTROPY}),
        ("MultiClassConfusionMatrixPlot", {"name": "confusion_matrix"}),
    ]
    if classes > 3:
        stock.append(("SparseTopKCategoricalAccuracy", {"name": "top_3_accuracy", "k": 3}))
    configs = [tfma.MetricConfig(class_name=name, config=json.dumps(config)) for name, config in stock]
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(
                name=name,
                is_baseline=name == BASELINE and len(models) > 1,
                signature_name=signatures.SERVING_EXAMPLES,
                preprocessing_function_names=[signatures.TRANSFORM_FEATURES],
                prediction_key=signatures.PROBABILITIES,
                label_key=features.LABEL_INDEX,
            )
            for name in models
        ],
        slicing_specs=[tfma.SlicingSpec(), *(tfma.SlicingSpec(feature_keys=[name]) for name in slices)],
        metrics_specs=[tfma.MetricsSpec(metrics=configs)],
    )
