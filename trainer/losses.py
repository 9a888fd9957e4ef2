"""What training minimises: cross-entropy, optionally with smoothed labels or with a weight for each class."""

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="graftline")
class SmoothedSparseCategoricalCrossentropy(keras.losses.CategoricalCrossentropy):
    """Keras' CategoricalCrossentropy, which can smooth labels, applied to label indices."""

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """Return the loss of each image, [N], from label index [N] or [N, 1] and probabilities [N, C]."""
        index = keras.ops.cast(keras.ops.reshape(y_true, [-1]), "int32")
        return super().call(keras.ops.one_hot(index, y_pred.shape[-1]), y_pred)


def build(label_smoothing: float) -> keras.losses.Loss:
    """Return the loss of probabilities [N, C] against a label index int64 [N].

    The share `label_smoothing` of the label, in [0, 1), is spread over all C classes (Szegedy et al.,
    https://arxiv.org/abs/1512.00567, section 7).
    """
    if label_smoothing:
        return SmoothedSparseCategoricalCrossentropy(label_smoothing=label_smoothing)
    return keras.losses.SparseCategoricalCrossentropy()


def class_weights(labels: np.ndarray) -> dict[int, float]:
    """Return weights for `fit(class_weight=…)` that give each class of the labels int64 [n] the same share of the loss.

    A class has the weight n / (k · count), scikit-learn's "balanced", where k is the number of classes with images. The
    mean over all images is 1. A class without images has no weight.
    """
    from sklearn.utils.class_weight import compute_class_weight  # takes a second to import and is rarely needed

    present = np.unique(labels)
    weights = compute_class_weight("balanced", classes=present, y=labels)
    return {int(index): float(weight) for index, weight in zip(present, weights, strict=True)}
