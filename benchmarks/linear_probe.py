"""How much does the trunk that ships know of real images? Compare a linear classifier on the features of each trunk.

    python -m benchmarks.linear_probe [--splits 5] [FILE...]

The features are average-pooled at 96 pixels. The classifier is logistic regression (C=0.1) on standardised features, on
stratified splits with two thirds to train on and one third to test on. The rows are: a random trunk as Keras makes it,
and as Graftline scales it; the mean and deviation of each colour, without a trunk; the trunk that ships; the same trunk
with ImageNet weights; and each weights FILE. This takes about two minutes on two cores.
"""

import pathlib
from collections.abc import Callable

import numpy as np

from benchmarks import commands
from tests import assets

SIZE = 96
Data = tuple[np.ndarray, np.ndarray]  # uint8 [n, SIZE, SIZE, 3] and label index int64 [n]


def folder(path: pathlib.Path) -> Data:
    """Return the images of a folder of classes, as Graftline decodes them."""
    import tensorflow as tf

    from graftline.components.transform import pixels

    files = sorted(path.glob("*/*"))
    parts = [files[start : start + 64] for start in range(0, len(files), 64)]
    images = [pixels.decode_batch(tf.constant([file.read_bytes() for file in part]), SIZE, "stretch") for part in parts]
    names = sorted({file.parent.name for file in files})
    labels = np.array([names.index(file.parent.name) for file in files])
    return np.concatenate([np.round(batch).astype(np.uint8) for batch in images]), labels


def digits() -> Data:
    """Return scikit-learn's 1,797 scans of 8 by 8 pixels, magnified."""
    import tensorflow as tf
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = np.round(digits.images * (255 / 16))[..., None].repeat(3, axis=3)
    return tf.image.resize(scans, (SIZE, SIZE)).numpy().round().astype(np.uint8), digits.target


def trunk(weights: str, calibrated_on: np.ndarray | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images to features float32 [n, 1280]; a random trunk is scaled by `calibrated_on`."""
    import keras
    import tensorflow as tf

    from graftline.trainer import models
    from graftline.trainer.settings import BackboneSettings

    keras.utils.set_random_seed(0)
    settings = BackboneSettings(name="MobileNetV2", weights=weights, input_size=SIZE, options={"alpha": 0.35})
    built = models.build_trunk(settings)
    if calibrated_on is not None:
        models.calibrate(built, tf.constant(calibrated_on / np.float32(127.5) - 1))
    pooled = keras.Model(built.input, keras.layers.GlobalAveragePooling2D()(built.output))
    return lambda images: pooled.predict(images / np.float32(127.5) - 1, batch_size=64, verbose=0)


def colours(images: np.ndarray) -> np.ndarray:
    """Return the mean and deviation of each channel, float64 [n, 6]."""
    return np.concatenate([images.mean(axis=(1, 2)), images.std(axis=(1, 2))], axis=1)


def accuracy(features: np.ndarray, labels: np.ndarray, splits: int) -> tuple[float, float]:
    """Return the mean and the standard deviation of the accuracy over the splits."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    split = StratifiedShuffleSplit(splits, test_size=1 / 3, random_state=0)
    accuracies = cross_val_score(model, features, labels, cv=split)
    return float(accuracies.mean()), float(accuracies.std())


def main() -> None:
    """Print a line for each trunk."""
    parser = commands.parser(__doc__, images=False, trunk=False)
    parser.add_argument("weights", nargs="*", metavar="FILE", help="more weights of MobileNetV2, alpha 0.35, no top")
    parser.add_argument("--splits", type=int, default=5)
    args = parser.parse_args()
    if not assets.ASSETS.is_dir():
        parser.error(f"{assets.ASSETS} holds no real weights and photos; set GRAFTLINE_ASSETS")
    sets = {"flowers": folder(assets.FLOWERS), "eurosat": folder(assets.EUROSAT), "digits": digits()}
    rows: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "random": lambda images: trunk("none")(images),
        "random, scaled": lambda images: trunk("none", images[:: len(images) // 32])(images),
        "colours only": colours,
        "procedural": lambda images: trunk("procedural")(images),
        "ImageNet": lambda images: trunk(str(assets.MOBILENET_V2_035))(images),
    }
    rows |= {path: lambda images, path=path: trunk(path)(images) for path in args.weights}
    print(f"{'':<16}" + "".join(f"{name:>16}" for name in sets))
    for name, features in rows.items():
        results = [accuracy(features(images), labels, args.splits) for images, labels in sets.values()]
        print(f"{name:<16}" + "".join(f"{mean:>9.3f} ± {deviation:.3f}" for mean, deviation in results))


if __name__ == "__main__":
    main()
