"""Solves a linear head to its optimum on the features of the train split, in place of epochs of gradient steps.

`solve_phase` is the counterpart of `phases.train_phase`. `solve` is the mathematics alone: features in, kernel and bias
out. The standardisation and the temperature are folded into them, so the model keeps its form.
"""

import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from graftline.errors import UserError
from graftline.trainer import losses
from graftline.trainer.activations import Batches, EpochOrder
from graftline.trainer.boundary import as_inputs
from graftline.trainer.phases import Phase, PhaseResult, TrainedPart
from graftline.trainer.settings import FeatureExtractionSettings
from graftline.trainer.solver_options import DEFAULTS

# The features are float64 while they are solved, and scikit-learn and liblinear each hold a copy.
_MAX_BYTES = 4 << 30
_FOLDS = 5


@dataclass(frozen=True)
class LinearHead:
    """Logits x @ kernel + bias, float64."""

    kernel: np.ndarray  # [D, C]
    bias: np.ndarray  # [C]
    converged: bool

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return logits [n, C] of features [n, D]."""
        return features @ self.kernel + self.bias


def check_memory(images: int, views: int, width: int) -> None:
    """Raise UserError if the features, float64 [images * views, width], are too many for the memory."""
    size = images * views * width * 8
    if size > _MAX_BYTES:
        raise UserError(
            f"feature_extraction.solver keeps all features in memory: {images:,} images in {views} views with "
            f"{width:,} features need {size / 2**30:.1f} GiB, and the limit is {_MAX_BYTES >> 30} GiB: set "
            "feature_extraction.solver=gradient, head.pooling=avg or a smaller augmentation.views"
        )


def solve_phase(phase: Phase, part: TrainedPart, balanced: bool, views: int, seed: int) -> PhaseResult:
    """Solve the output layer on all `views` of the train split and write its kernel and bias.

    The result counts as one epoch. Its metrics are those of the model itself, with the weights that are exported.

    Raises:
      UserError: the train split has images of one class only.
    """
    name, settings, (layer,) = phase.name, phase.settings, part.head
    assert isinstance(settings, FeatureExtractionSettings)
    at_boundary = len(phase.boundary) == 1 and phase.boundary[0] is layer.input
    below = None if at_boundary else keras.Model(as_inputs(phase.boundary), layer.input)
    features, labels, images = _read_features(part.train, below, views, seed)
    classes = part.model.output.shape[-1]
    head = solve(settings, features, labels, images, classes, balanced, seed)
    kernel, bias = head.kernel, head.bias
    if layer.kernel.shape[-1] == 1:  # one logit z stands for the two logits [0, z]
        kernel, bias = kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
    layer.kernel.assign(kernel.astype(np.float32))
    layer.bias.assign(bias.astype(np.float32))
    part.model.compile(
        loss=losses.build(0.0), metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")], jit_compile=False
    )
    part.train.epoch = 0
    trained = part.model.evaluate(part.train.for_fit, verbose=0, return_dict=True)
    held_out = part.model.evaluate(part.val.for_fit, verbose=0, return_dict=True)
    note = ""
    if not head.converged:
        options = {**DEFAULTS[settings.solver], **settings.solver_options}
        note = (
            f"the {settings.solver} did not reach its optimum in {options['max_iter']:,} iterations; raise max_iter "
            "in feature_extraction.solver_options, or lower C there"
        )
        logging.warning("%s: %s", name, note)
    return PhaseResult(
        name=name,
        epochs=1,
        ended="optimum" if head.converged else "max_iter",
        accuracy=trained["accuracy"],
        val_accuracy=held_out["accuracy"],
        val_loss=held_out["loss"],
        trainable_weights=sum(math.prod(variable.shape) for variable in part.model.trainable_variables),
        best_epoch=0,
        history={**{key: [value] for key, value in trained.items()}, **_prefix_val(held_out)},
        note=note,
    )


def _prefix_val(metrics: dict[str, float]) -> dict[str, list[float]]:
    return {f"val_{key}": [value] for key, value in metrics.items()}


def _read_features(
    train: Batches, below: keras.Model | None, views: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the output layer's inputs, float64 [n * views, D], with label index and image index, int64 [n * views].

    `below` leads from the cached activations to the output layer; None where it stands on them.
    """
    rows, labels, images = [], [], []
    order = EpochOrder(len(train.labels), 1, seed)
    for view in range(views):
        train.epoch = view
        images.append(order.rows(view))
        for inputs, label in _iterate(train):
            # Dropout below the output does nothing here, as in a prediction.
            values = inputs if below is None else below(inputs, training=False)
            rows.append(keras.ops.convert_to_numpy(values))
            labels.append(np.asarray(label))
    return np.concatenate(rows).astype(np.float64), np.concatenate(labels), np.concatenate(images)


def _iterate(batches: Batches) -> Iterator[tuple[Any, Any]]:
    dataset: Any = batches.for_fit
    if isinstance(dataset, keras.utils.PyDataset):
        yield from (dataset[index] for index in range(len(dataset)))
    else:
        yield from dataset


def solve(
    settings: FeatureExtractionSettings,
    features: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    classes: int,
    balanced: bool,
    seed: int,
) -> LinearHead:
    """Return the best linear head for features float64 [n, D], label index [n] and image index [n].

    Several rows of one image are its augmented views; together they weigh as much as one image. A class without rows
    gets the probability of one image in n + 1, as in Laplace's rule, because its optimum is a bias of minus infinity.

    Raises:
      UserError: all labels are the same.
    """
    from sklearn.preprocessing import StandardScaler  # takes a second to import and is rarely needed

    present = np.unique(labels)
    if len(present) < 2:
        raise UserError(
            "feature_extraction.solver: the train split has images of one class only: add images of other classes"
        )
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    weights = np.full(len(labels), 1 / np.bincount(images)[images[0]])
    if balanced:
        share = losses.class_weights(labels)
        weights *= np.array([share[int(label)] for label in labels])
    head = _fit(settings, scaled, labels, weights, seed)
    if settings.solver == "linear_svm":
        factor = _inverse_temperature(settings, scaled, labels, images, weights, seed)
        head = LinearHead(head.kernel * factor, head.bias * factor, head.converged)
    kernel, bias = np.zeros((features.shape[1], classes)), np.empty(classes)
    bias[:] = _log_sum_exp(head.logits(scaled)).mean() - math.log(len(np.unique(images)) + 1)
    kernel[:, present] = head.kernel / scaler.scale_[:, None]
    bias[present] = head.bias - (scaler.mean_ / scaler.scale_) @ head.kernel
    return LinearHead(kernel, bias, head.converged)


def _fit(
    settings: FeatureExtractionSettings, features: np.ndarray, labels: np.ndarray, weights: np.ndarray, seed: int
) -> LinearHead:
    """Return the head of the classes in `labels`, by scikit-learn."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    kind = {"logistic_regression": LogisticRegression, "linear_svm": LinearSVC}[settings.solver]
    # Where there are fewer images than features, liblinear's dual is faster; it visits the images in a random order.
    extra = {"dual": "auto"} if kind is LinearSVC else {}
    options = {**DEFAULTS[settings.solver], **settings.solver_options}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = kind(**options, **extra, random_state=seed).fit(features, labels, sample_weight=weights)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    kernel, bias = model.coef_.T, model.intercept_
    if kernel.shape[1] == 1:  # of two classes scikit-learn gives one logit z: the softmax of [-z/2, z/2] is the same
        kernel, bias = np.hstack([-kernel, kernel]) / 2, np.array([-bias[0], bias[0]]) / 2
    return LinearHead(kernel, bias, converged)


def _inverse_temperature(
    settings: FeatureExtractionSettings,
    features: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    weights: np.ndarray,
    seed: int,
) -> float:
    """Return the factor on an SVM's margins for which their softmax predicts the labels best.

    One temperature for all classes, as in Guo et al. (https://arxiv.org/abs/1706.04599), so the ranking stays. The
    margins come from cross-validation: an SVM's margins on its own training rows are too large (Platt, Probabilistic
    outputs for support vector machines, 1999). A held-out part would cost training images. The targets are
    Platt's, (N + 1) / (N + 2) for a class of N images, so the factor is finite where all margins are right. All
    views of an image are in the same fold.
    """
    from scipy.optimize import minimize_scalar
    from sklearn.model_selection import StratifiedKFold

    names, first_rows = np.unique(images, return_index=True)
    present, of_image = np.unique(labels[first_rows], return_inverse=True)
    counts = np.bincount(of_image)
    repeated = counts[of_image] > 1  # the one image of a class is in the training part of each fold
    if not repeated.any():
        return 1.0
    names_to_judge, judged_labels = names[repeated], of_image[repeated]
    folds = StratifiedKFold(min(_FOLDS, int(counts.max())), shuffle=True, random_state=seed)
    margins, targets, row_weights = [], [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer images than there are folds
        splits = list(folds.split(names_to_judge, judged_labels))
    for _, held_out in splits:
        rows = np.isin(images, names_to_judge[held_out])
        head = _fit(settings, features[~rows], labels[~rows], weights[~rows], seed)
        margins.append(head.logits(features[rows]))
        own = np.searchsorted(present, labels[rows])
        target = np.repeat((1 / (counts[own] + 2) / (len(present) - 1))[:, None], len(present), axis=1)
        target[np.arange(len(own)), own] = (counts[own] + 1) / (counts[own] + 2)
        targets.append(target)
        row_weights.append(weights[rows])
    all_margins, all_targets, all_weights = map(np.concatenate, (margins, targets, row_weights))

    def cross_entropy(log_factor: float) -> float:
        logits = all_margins * math.exp(log_factor)
        return float(all_weights @ (_log_sum_exp(logits) - (all_targets * logits).sum(axis=1)))

    return math.exp(minimize_scalar(cross_entropy, bounds=(-7, 7), method="bounded").x)


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    top = logits.max(axis=1)
    return top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
