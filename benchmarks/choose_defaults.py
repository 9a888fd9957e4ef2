"""Which settings of the two phases become the defaults? Measure the candidates.

    python -m benchmarks.choose_defaults [--splits 5] [--pairs flowers-v2 eurosat-v2 flowers-v3 eurosat-v3]

For each pair of images and trunk the activations are computed once. Then the trainer's own code trains each candidate
on several random 80/20 splits, and validates on the eval split as `graftline run` does. The program prints the mean
accuracy on the eval split in per cent, and the mean number of epochs. Phase 2 starts from the first candidate of
phase 1. The defaults must not be a point worse than logistic regression on the pooled features.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from benchmarks import commands
from benchmarks.against_logistic_regression import PAIRS, Pair, logistic
from graftline.components.transform import pixels, preprocessing
from graftline.trainer import backbones, boundary, heads, models, phases, settings
from graftline.trainer.activations import CachedBatches

_SIZE = 224


@dataclass(frozen=True)
class Data:
    """Pooled features [n, D], activations at the cut of -30 [n, …] and labels [n]."""

    pooled: np.ndarray
    at_cut: np.ndarray
    labels: np.ndarray
    classes: int


@dataclass(frozen=True)
class Candidate:
    """Settings of phase 1. `init` initialises the last layer's kernel."""

    learning_rate: float = 1e-3
    dropout: float = 0.2
    init: str = "zeros"
    patience: int = 10


PHASE_1 = [
    Candidate(),
    Candidate(init="glorot_uniform"),
    Candidate(dropout=0.0),
    Candidate(learning_rate=3e-3),
    Candidate(learning_rate=1e-2),
    Candidate(patience=5),
]
PHASE_2 = [1e-5, 3e-5, 1e-4]


def load(pair: Pair) -> Data:
    """Run the frozen part of the pair's trunk over all its images."""
    classes = sorted(path.name for path in pair.images.iterdir() if path.is_dir())
    folders = [sorted((pair.images / name).iterdir()) for name in classes]
    files = [(str(path), index) for index, paths in enumerate(folders) for path in paths]
    grafted = _graft(pair, len(classes), 0.2)
    cut = _cut(grafted)

    def batches() -> Iterator[tf.Tensor]:
        mode = backbones.get(pair.backbone).preprocessing
        for start in range(0, len(files), 32):
            chunk = [tf.io.read_file(path) for path, _ in files[start : start + 32]]
            yield preprocessing.preprocess(pixels.decode_batch(tf.stack(chunk), _SIZE), mode)

    frozen = boundary.FrozenPart(grafted.model, [grafted.embedding, *cut])
    pooled, at_cut = (np.concatenate(parts) for parts in zip(*map(frozen, batches()), strict=True))
    return Data(pooled, at_cut, np.array([label for _, label in files], np.int64), len(classes))


def _graft(pair: Pair, classes: int, dropout: float) -> heads.Grafted:
    trunk = models.build_trunk(
        settings.BackboneSettings(name=pair.backbone, weights=str(pair.weights), options=pair.options)
    )
    return heads.graft(trunk, settings.HeadSettings(dropout=dropout), classes)


def split(data: Data, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers of train and of eval."""
    order = np.random.default_rng(seed).permutation(len(data.labels))
    return np.sort(order[len(order) // 5 :]), np.sort(order[: len(order) // 5])


def phase_1(pair: Pair, data: Data, candidate: Candidate, seed: int) -> tuple[heads.Grafted, phases.PhaseResult]:
    """Train a head. The grafted model holds its weights."""
    keras.utils.set_random_seed(seed)
    grafted = _graft(pair, data.classes, candidate.dropout)
    kernel = grafted.model.get_layer("probabilities").kernel
    kernel.assign(keras.initializers.get(candidate.init)(kernel.shape))
    phases.freeze_trunk(grafted, [])
    phase = settings.FeatureExtractionSettings(learning_rate=candidate.learning_rate, patience=candidate.patience)
    return grafted, _train(grafted, [], phase, data, seed)


def phase_2(data: Data, grafted: heads.Grafted, learning_rate: float, seed: int) -> phases.PhaseResult:
    """Train the upper trunk, from a trained head on."""
    unfrozen = phases.trainable_layers(models.layers_to_unfreeze(grafted.trunk, -30))
    phases.freeze_trunk(grafted, unfrozen)
    return _train(grafted, unfrozen, settings.FineTuningSettings(learning_rate=learning_rate), data, seed)


def _cut(grafted: heads.Grafted) -> boundary.Boundary:
    return phases.find_boundary(grafted, phases.trainable_layers(models.layers_to_unfreeze(grafted.trunk, -30)))


def _train(
    grafted: heads.Grafted,
    unfrozen: list[keras.Layer],
    phase: settings.FeatureExtractionSettings | settings.FineTuningSettings,
    data: Data,
    seed: int,
) -> phases.PhaseResult:
    train, held_back = split(data, seed)
    cut, x = (_cut(grafted), data.at_cut) if unfrozen else ((grafted.embedding,), data.pooled)
    head = [layer for layer in grafted.head_layers if layer.weights]
    part = phases.TrainedPart(
        boundary.part_above(grafted.model, cut),
        [*unfrozen, *head],
        head,
        CachedBatches(x[train], data.labels[train], 32, seed),
        CachedBatches(x[held_back], data.labels[held_back], 32),
    )
    return phases.train_phase("phase", part, phase, settings.TrainingSettings(), may_discard=bool(unfrozen))


def main() -> None:
    """Print the table, a line for each candidate."""
    parser = commands.parser(__doc__, images=False, trunk=False)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    arguments = parser.parse_args()
    seeds = range(arguments.splits)
    for name in arguments.pairs:
        pair = PAIRS[name]
        data = load(pair)
        bars = []
        for seed in seeds:
            rows = zip(("train", "eval"), split(data, seed), strict=True)
            bars.append(logistic({key: (data.pooled[row], data.labels[row]) for key, row in rows}))
        plain, scaled = 100 * np.mean(bars, axis=0)
        print(f"{name}: logistic regression {plain:.2f}, standardised {scaled:.2f}")
        for candidate in PHASE_1:
            results = [phase_1(pair, data, candidate, seed)[1] for seed in seeds]
            _print(name, f"phase 1 {candidate}", results)
            keras.utils.clear_session()
        for learning_rate in PHASE_2:
            heads = [(seed, phase_1(pair, data, PHASE_1[0], seed)[0]) for seed in seeds]
            results = [phase_2(data, grafted, learning_rate, seed) for seed, grafted in heads]
            _print(name, f"phase 2 learning_rate={learning_rate:g}", results)
            keras.utils.clear_session()


def _print(name: str, what: str, results: list[phases.PhaseResult]) -> None:
    accuracy = 100 * float(np.mean([result.val_accuracy for result in results]))
    epochs, kept = np.mean([result.epochs for result in results]), sum(result.kept for result in results)
    print(f"{name}: {accuracy:6.2f}  {epochs:4.0f} epochs  kept {kept}/{len(results)}  {what}")


if __name__ == "__main__":
    main()
