"""Is the default config good enough? Compare its accuracy with logistic regression on the same trunk and split.

    python -m benchmarks.against_logistic_regression [--splits 5] [--pairs flowers-v2 eurosat-v2 flowers-v3 eurosat-v3]

Each run is `graftline run --json` in a new workspace with another `data.split_seed`. Logistic regression, plain and on
standardised features, is fitted to the average-pooled features of the same frozen trunk. The features come from the
run's own records, through the run's own Transform. A run takes about two minutes on two cores.
"""

import functools
import pathlib
from dataclasses import dataclass

import numpy as np

from benchmarks import commands
from graftline import features
from tests import assets

_WEIGHTS = assets.ASSETS / "weights"


@dataclass(frozen=True)
class Pair:
    """A data set and a trunk with real weights."""

    images: pathlib.Path
    backbone: str
    weights: pathlib.Path
    options: dict[str, object]


_V3 = _WEIGHTS / "mobilenet_v3_large_minimalistic_1.0_224_no_top_DEQUANT.h5"
PAIRS = {
    "flowers-v2": Pair(assets.FLOWERS, "MobileNetV2", assets.MOBILENET_V2_100, {}),
    "eurosat-v2": Pair(assets.EUROSAT, "MobileNetV2", assets.MOBILENET_V2_035, {"alpha": 0.35}),
    "flowers-v3": Pair(assets.FLOWERS, "MobileNetV3Large", _V3, {"minimalistic": True}),
    "eurosat-v3": Pair(assets.EUROSAT, "MobileNetV3Large", _V3, {"minimalistic": True}),
}


def pooled_features(pair: Pair, workspace: pathlib.Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each split the frozen trunk's average-pooled features float32 [n, D] and the labels int64 [n]."""
    import keras
    import tensorflow_transform as tft

    from graftline.trainer import boundary, export, heads, models
    from graftline.trainer.inputs import Pixels, Records
    from graftline.trainer.settings import BackboneSettings, HeadSettings

    artifacts = workspace / "artifacts"
    (examples,) = (artifacts / "ImageExampleGen" / "examples").iterdir()
    (graph,) = (artifacts / "Transform" / "transform_graph").iterdir()
    transform = tft.TFTransformOutput(str(graph))
    settings = BackboneSettings(name=pair.backbone, weights=str(pair.weights), options=pair.options)
    grafted = heads.graft(models.build_trunk(settings), HeadSettings(), 2)
    frozen, pixels = boundary.FrozenPart(grafted.model, [grafted.embedding]), Pixels(transform)
    data = {}
    for split in features.SPLITS:
        records = Records([str(examples / f"Split-{split}" / "*")], export.read_labels(transform))
        batches = pixels.batches(records, functools.partial(np.arange, len(records)), 32)
        data[split] = (np.concatenate([frozen(images)[0] for images, _ in batches]), records.labels)
    keras.utils.clear_session()
    return data


def logistic(data: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Return two accuracies on the eval split: on the features as they are, and on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    plain = LogisticRegression(max_iter=2000)
    scaled = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    plain_score, scaled_score = (model.fit(*data["train"]).score(*data["eval"]) for model in (plain, scaled))
    return float(plain_score), float(scaled_score)


def main() -> None:
    """Print a line for each run and the mean of each pair."""
    parser = commands.parser(__doc__, images=False, trunk=False)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    arguments = parser.parse_args()
    for name in arguments.pairs:
        pair = PAIRS[name]
        trunk = {"backbone.name": pair.backbone, "backbone.weights": pair.weights, "backbone.options": pair.options}
        rows = []
        for split_seed in range(arguments.splits):
            with commands.temporary_folder() as workspace:
                _, summary = commands.graftline(pair.images, workspace, {**trunk, "data.split_seed": split_seed})
                plain, scaled = logistic(pooled_features(pair, workspace))
            rows.append((summary["accuracy"], summary["phases"][0]["val_accuracy"], plain, scaled))
            shown = "  ".join(f"{value:.4f}" for value in rows[-1])
            print(f"{name} split {split_seed}: graftline, after phase 1, LR, standardised LR: {shown}", end="  ")
            print(f"{sum(summary['seconds'].values()):.0f} s, Trainer {summary['seconds']['Trainer']:.0f} s")
        ours, head, plain, scaled = np.mean(rows, axis=0)
        print(f"{name} mean of {len(rows)}: graftline {ours:.4f} (after phase 1 {head:.4f}), ", end="")
        print(f"LR {plain:.4f} ({ours - plain:+.4f}), standardised LR {scaled:.4f} ({ours - scaled:+.4f})")


if __name__ == "__main__":
    main()
