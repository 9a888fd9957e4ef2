"""Which settings of the two training phases to make the defaults: the measurements behind the choice.

    python -m benchmarks.choose_defaults                    # everything; minutes on two cores
    python -m benchmarks.choose_defaults --part phase1      # the head alone, half a minute once features are cached

For each pair of an image set and a trunk, and each of several random 80/20 splits by content hash:

- `logistic`: scikit-learn's logistic regression on the trunk's average-pooled features, with and without
  standardisation: the bar that the product must not fall more than one point under;
- `phase1`: the softmax head trained by Adam on the same features with early stopping on validation loss, over a grid.
  Adam is written out in numpy (Kingma & Ba 2015, with Keras' constants), some twenty times faster than `fit` on
  features this small; `phase2` starts from a head trained by Keras itself, and so checks it;
- `phase2`: the last 30 layers unfrozen with every BatchNormalization frozen, trained from the activations at the
  boundary. The phase keeps its best epoch, or phase 1's weights where no epoch had a lower validation loss;
- `digits`: scikit-learn's 8x8 digits on a MobileNetV2 without pretrained weights, cut at an inner layer.

Validation is the eval split, as in Keras' tutorials, but for the `held out` rows of phase 1, where a tenth of the
training images stops the training. Accuracy is always that on the eval split, in per cent, the mean over splits.
"""

import argparse
import hashlib
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests import assets

INPUT_SIZE = 224
UNFROZEN_LAYERS = 30
V3_LARGE_MINIMALISTIC = assets.ASSETS / "weights/mobilenet_v3_large_minimalistic_1.0_224_no_top_DEQUANT.h5"
PAIRS = (("flowers", "v2-1.0"), ("eurosat", "v2-0.35"), ("flowers", "v3-large"), ("eurosat", "v3-large"))


def build_trunk(name: str) -> tuple[keras.Model, bool]:
    """The trunk with its weights, and whether images must be scaled to -1..1 before it."""
    shape = (INPUT_SIZE, INPUT_SIZE, 3)
    if name == "v3-large":
        trunk = keras.applications.MobileNetV3Large(
            input_shape=shape,
            minimalistic=True,
            include_top=False,
            include_preprocessing=True,
            weights=str(V3_LARGE_MINIMALISTIC),
        )
        return trunk, False
    alpha, weights = {"v2-1.0": (1.0, assets.MOBILENET_V2_100), "v2-0.35": (0.35, assets.MOBILENET_V2_035)}[name]
    trunk = keras.applications.MobileNetV2(input_shape=shape, alpha=alpha, include_top=False, weights=str(weights))
    return trunk, True


def boundary(trunk: keras.Model, unfrozen: int) -> int:
    """Index of the last layer, below the `unfrozen` last ones, through which all that lies above gets its input."""
    maker = {id(tensor): i for i, layer in enumerate(trunk.layers) for tensor in tf.nest.flatten(layer.output)}
    last_use = [0] * len(trunk.layers)
    for i, layer in enumerate(trunk.layers[1:], start=1):
        for tensor in tf.nest.flatten(layer.input):
            last_use[maker[id(tensor)]] = i
    below = range(len(trunk.layers) - unfrozen)
    return max(cut for cut in below if all(last_use[i] <= cut for i in range(cut)))


@dataclass(frozen=True)
class Pair:
    """An image set seen through a trunk: pooled features [N, D], boundary activations [N, H, W, C], labels, hashes."""

    images: str
    trunk: str
    features: np.ndarray
    activations: np.ndarray
    labels: np.ndarray
    hashes: list[str]

    def eval_mask(self, seed: int) -> np.ndarray:
        """True where the image belongs to the eval split of this split seed, about one in five."""
        salted = (hashlib.sha256(f"{seed}:{content}".encode()).hexdigest() for content in self.hashes)
        return np.array([int(digest[:8], 16) < 0.2 * 2**32 for digest in salted])


def load_pair(images: str, trunk_name: str, cache: pathlib.Path) -> Pair:
    """Read the pair's arrays from the cache folder, or run the trunk over every image and put them there."""
    root = {"flowers": assets.FLOWERS, "eurosat": assets.EUROSAT}[images]
    classes = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    files = [(path, i) for i, name in enumerate(classes) for path in sorted((root / name).glob("*.jp*g"))]
    stored = {part: cache / f"{images}-{trunk_name}-{part}.npy" for part in ("features", "activations")}
    if not all(path.exists() for path in stored.values()):
        trunk, scaled = build_trunk(trunk_name)
        cut = trunk.layers[boundary(trunk, UNFROZEN_LAYERS)].output
        both = keras.Model(trunk.input, [cut, keras.layers.GlobalAveragePooling2D()(trunk.output)])

        def read(path: tf.Tensor) -> tf.Tensor:
            image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
            image = tf.image.resize(image, (INPUT_SIZE, INPUT_SIZE), antialias=True)
            return image / 127.5 - 1.0 if scaled else image

        paths = tf.data.Dataset.from_tensor_slices([str(path) for path, _ in files])
        activations, features = both.predict(paths.map(read, num_parallel_calls=2).batch(32), verbose=0)
        np.save(stored["activations"], activations)
        np.save(stored["features"], features)
        keras.backend.clear_session()
    return Pair(
        images,
        trunk_name,
        np.load(stored["features"]),
        np.load(stored["activations"], mmap_mode="r"),
        np.array([i for _, i in files]),
        [hashlib.sha256(path.read_bytes()).hexdigest() for path, _ in files],
    )


@dataclass(frozen=True)
class HeadSettings:
    """Settings of phase 1. `hold_out` stops on a tenth of the training images instead of the eval split."""

    learning_rate: float = 1e-3
    dropout: float = 0.2
    batch_size: int = 32
    epochs: int = 100
    patience: int = 10
    min_delta: float = 0.001
    standardise: bool = False
    label_smoothing: float = 0.0
    hold_out: bool = False

    def describe(self) -> str:
        extras = [name for name in ("standardise", "hold_out") if getattr(self, name)]
        if self.label_smoothing:
            extras.append(f"smoothing {self.label_smoothing}")
        text = f"lr {self.learning_rate:g} dropout {self.dropout:g} batch {self.batch_size} patience {self.patience}"
        return " ".join([text, *extras]).replace("hold_out", "held out")


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def train_head(pair: Pair, seed: int, settings: HeadSettings) -> tuple[float, float, int]:
    """Train the softmax head: (accuracy and log loss on the eval split at the best epoch, epochs run)."""
    rng = np.random.default_rng(seed)
    evaluated = pair.eval_mask(seed)
    held_out = ~evaluated & (rng.random(len(evaluated)) < 0.1) if settings.hold_out else evaluated
    train = np.flatnonzero(~evaluated & ~held_out)
    x, y = pair.features, pair.labels
    if settings.standardise:
        x = (x - x[train].mean(axis=0)) / np.maximum(x[train].std(axis=0), 1e-3)
    classes = int(y.max()) + 1
    targets = np.eye(classes, dtype=np.float32) * (1 - settings.label_smoothing) + settings.label_smoothing / classes
    limit = np.sqrt(6 / (x.shape[1] + classes))
    weights = [rng.uniform(-limit, limit, (x.shape[1], classes)).astype(np.float32), np.zeros(classes, np.float32)]
    first: list[np.ndarray] = [np.zeros_like(weight) for weight in weights]
    second: list[np.ndarray] = [np.zeros_like(weight) for weight in weights]
    step, best, reference, waited = 0, (np.inf, 0.0, 0.0), np.inf, 0
    epochs_run = 0
    while epochs_run < settings.epochs and waited < settings.patience:
        epochs_run += 1
        rng.shuffle(train)
        for start in range(0, len(train), settings.batch_size):
            batch = train[start : start + settings.batch_size]
            inputs = x[batch]
            if settings.dropout:
                kept = rng.random(inputs.shape, dtype=np.float32) >= settings.dropout
                inputs = inputs * kept / np.float32(1 - settings.dropout)
            error = (softmax(inputs @ weights[0] + weights[1]) - targets[y[batch]]) / len(batch)
            step += 1
            rate = settings.learning_rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            for i, gradient in enumerate((inputs.T @ error, error.sum(axis=0))):
                first[i] += 0.1 * (gradient - first[i])
                second[i] += 0.001 * (gradient**2 - second[i])
                weights[i] -= np.float32(rate) * first[i] / (np.sqrt(second[i]) + np.float32(1e-7))
        probabilities = np.clip(softmax(x @ weights[0] + weights[1]), 1e-7, 1)
        loss = float(-(targets[y[held_out]] * np.log(probabilities[held_out])).sum(axis=1).mean())
        waited += 1
        if loss < reference - settings.min_delta:
            correct = probabilities[evaluated].argmax(axis=1) == y[evaluated]
            log_loss = -np.log(probabilities[evaluated, y[evaluated]])
            best, reference, waited = (loss, float(correct.mean()), float(log_loss.mean())), loss, 0
    return best[1], best[2], epochs_run


def print_row(name: str, values: Iterable[float], note: str = "") -> None:
    cells = list(values)
    mean = f"{np.mean(cells):8.2f}"
    print(f"{name:58}" + "".join(f"{cell:18.2f}" for cell in cells) + f"{mean:>10}  {note}", flush=True)


def logistic_table(pairs: list[Pair], seeds: range) -> None:
    for name, standardised in (("logistic regression", False), ("logistic regression, standardised", True)):
        means = []
        for pair in pairs:
            scores = []
            for seed in seeds:
                evaluated = pair.eval_mask(seed)
                steps = [StandardScaler()] if standardised else []
                model = make_pipeline(*steps, LogisticRegression(max_iter=2000))
                model.fit(pair.features[~evaluated], pair.labels[~evaluated])
                scores.append(model.score(pair.features[evaluated], pair.labels[evaluated]))
            means.append(100 * float(np.mean(scores)))
        print_row(name, means)


def phase1_table(pairs: list[Pair], seeds: range) -> None:
    base = HeadSettings()
    grid = [HeadSettings(learning_rate=rate, dropout=drop) for rate in (1e-3, 3e-3, 1e-2) for drop in (0.0, 0.2)]
    grid += [replace(base, patience=5), replace(base, batch_size=64), replace(base, standardise=True)]
    grid += [replace(base, label_smoothing=0.1), replace(base, hold_out=True)]
    for settings in grid:
        runs = [[train_head(pair, seed, settings) for seed in seeds] for pair in pairs]
        accuracy, loss, epochs = np.mean(np.array(runs), axis=1).T
        note = "log loss " + " ".join(f"{v:.3f}" for v in loss) + "; epochs " + " ".join(f"{v:.0f}" for v in epochs)
        print_row("phase 1: " + settings.describe(), 100 * accuracy, note)


def compile_classifier(model: keras.Model, learning_rate: float) -> None:
    # jit_compile: XLA on CPU is many times slower than oneDNN on these depthwise convolutions.
    model.compile(
        keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False
    )


def fine_tune(pair: Pair, seed: int, rates: list[float], epochs: int, patience: int) -> list[tuple[float, float]]:
    """(accuracy, seconds) of Keras' own phase 1, then of phase 2 at each learning rate from that phase 1."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    evaluated, settings = pair.eval_mask(seed), HeadSettings()
    x, y = np.array(pair.activations), pair.labels
    dropout = keras.layers.Dropout(settings.dropout)
    dense = keras.layers.Dense(int(y.max()) + 1, activation="softmax")
    pooled = keras.Input(pair.features.shape[1:])
    head = keras.Model(pooled, dense(dropout(pooled)))
    compile_classifier(head, settings.learning_rate)
    stop = keras.callbacks.EarlyStopping(
        patience=settings.patience, min_delta=settings.min_delta, restore_best_weights=True
    )
    started = time.perf_counter()
    head.fit(
        pair.features[~evaluated],
        y[~evaluated],
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        validation_data=(pair.features[evaluated], y[evaluated]),
        callbacks=[stop],
        verbose=0,
    )
    seconds = time.perf_counter() - started
    frozen = head.evaluate(pair.features[evaluated], y[evaluated], verbose=0, return_dict=True)
    results = [(frozen["accuracy"], seconds)]

    trunk, _ = build_trunk(pair.trunk)
    unfrozen = trunk.layers[-UNFROZEN_LAYERS:]
    for layer in trunk.layers:
        layer.trainable = layer in unfrozen and not isinstance(layer, keras.layers.BatchNormalization)
    upper = keras.Model(trunk.layers[boundary(trunk, UNFROZEN_LAYERS)].output, trunk.output)
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, dense(dropout(keras.layers.GlobalAveragePooling2D()(upper(inputs)))))
    after_phase1 = model.get_weights()
    for rate in rates:
        model.set_weights(after_phase1)
        compile_classifier(model, rate)
        started = time.perf_counter()
        history = model.fit(
            x[~evaluated],
            y[~evaluated],
            batch_size=settings.batch_size,
            epochs=epochs,
            validation_data=(x[evaluated], y[evaluated]),
            callbacks=[keras.callbacks.EarlyStopping(patience=patience)],
            verbose=0,
        ).history
        best = int(np.argmin(history["val_loss"]))
        improved = history["val_loss"][best] < frozen["loss"]
        accuracy = history["val_accuracy"][best] if improved else frozen["accuracy"]
        results.append((accuracy, time.perf_counter() - started))
    return results


def phase2_table(pairs: list[Pair], seeds: range, rates: list[float], epochs: int, patience: int) -> None:
    collected = []
    for pair in pairs:
        for seed in seeds:
            collected.append(fine_tune(pair, seed, rates, epochs, patience))
            cells = " ".join(f"{100 * accuracy:.2f}" for accuracy, _ in collected[-1])
            print(f"{pair.images} {pair.trunk} split {seed}: {cells}", file=sys.stderr, flush=True)
    runs = np.array(collected).reshape(len(pairs), len(seeds), len(rates) + 1, 2)
    names = ["phase 1 by Keras", *(f"phase 2: lr {rate:g} epochs {epochs} patience {patience}" for rate in rates)]
    for name, (accuracy, seconds) in zip(names, runs.mean(axis=1).transpose(1, 2, 0), strict=True):
        print_row(name, 100 * accuracy, "seconds " + " ".join(f"{value:.0f}" for value in seconds))


def digits_table(seeds: range) -> None:
    """Untrained MobileNetV2 0.35 at 32 px, frozen, cut at a layer: eval accuracy of a head on it, 15 epochs."""
    digits = load_digits()
    images = tf.image.resize(np.repeat(digits.images[..., None] * 16, 3, axis=-1), (32, 32), antialias=True)
    images = np.clip(images.numpy(), 0, 255) / 127.5 - 1
    labels = digits.target
    print(f"\n{'digits, MobileNetV2 0.35 without weights, 32 px':64}{'feature std':>14}{'accuracy':>10}", flush=True)
    for cut in ("Conv1_relu", "expanded_conv_project_BN", "block_2_add", "out_relu"):
        for pooling in ("average", "flatten"):
            scores, spread = [], 0.0
            for seed in seeds:
                keras.backend.clear_session()
                keras.utils.set_random_seed(seed)
                trunk = keras.applications.MobileNetV2(
                    input_shape=(32, 32, 3), alpha=0.35, include_top=False, weights=None
                )
                maps = trunk.get_layer(cut).output
                pool = keras.layers.Flatten() if pooling == "flatten" else keras.layers.GlobalAveragePooling2D()
                features = keras.Model(trunk.input, pool(maps)).predict(images, batch_size=128, verbose=0)
                spread = float(features.std())
                evaluated = np.random.default_rng(seed).random(len(labels)) < 0.2
                head = keras.Sequential([keras.Input(features.shape[1:]), keras.layers.Dense(10, activation="softmax")])
                compile_classifier(head, 1e-2)
                head.fit(features[~evaluated], labels[~evaluated], batch_size=32, epochs=15, verbose=0)
                scores.append(head.evaluate(features[evaluated], labels[evaluated], verbose=0, return_dict=True))
            accuracy = 100 * float(np.mean([score["accuracy"] for score in scores]))
            print(f"{cut + ', ' + pooling + ', head lr 0.01':64}{spread:14.2g}{accuracy:10.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the candidates for the default training settings.")
    parts = ("logistic", "phase1", "phase2", "digits")
    parser.add_argument("--part", choices=parts, action="append", help="only this part; may be given several times")
    parser.add_argument("--seeds", type=int, default=5, help="number of split seeds, from 0 (default 5)")
    parser.add_argument("--pairs", type=int, nargs="+", default=list(range(len(PAIRS))), help="indices into PAIRS")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 3e-5, 1e-4], help="phase 2 learning rates")
    parser.add_argument("--epochs", type=int, default=10, help="most epochs of phase 2")
    parser.add_argument("--patience", type=int, default=3, help="of phase 2")
    parser.add_argument(
        "--cache", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "graftline-defaults"
    )
    options = parser.parse_args()
    wanted, seeds = options.part or parts, range(options.seeds)
    options.cache.mkdir(parents=True, exist_ok=True)
    if set(wanted) - {"digits"}:
        if not assets.ASSETS.is_dir():
            parser.exit(2, f"no real weights and photos at {assets.ASSETS}; set GRAFTLINE_ASSETS\n")
        pairs = [load_pair(*PAIRS[i], options.cache) for i in options.pairs]
        header = "".join(f"{pair.images + ' ' + pair.trunk:>18}" for pair in pairs)
        print(f"{'eval accuracy, %, mean of ' + str(len(seeds)) + ' splits':58}{header}{'mean':>10}", flush=True)
        if "logistic" in wanted:
            logistic_table(pairs, seeds)
        if "phase1" in wanted:
            phase1_table(pairs, seeds)
        if "phase2" in wanted:
            phase2_table(pairs, seeds, options.rates, options.epochs, options.patience)
    if "digits" in wanted:
        digits_table(seeds)


if __name__ == "__main__":
    main()
