"""Compare Graftline with the tutorials' plain Keras script: wall time and accuracy, in turn on the same machine.

    python -m benchmarks.against_plain_keras [--epochs 5 10] [--splits 5] [--learning-rate 1e-3]
                                             [--images DIR] [--weights FILE] [--alpha 1.0]

Both have the same split of the same images, MobileNetV2 at 224 px, the same numbers of epochs in both phases, the same
rate for the head and 1e-5 for the top 30 layers. Graftline runs first, with `data.split_seed` 0, 1, …, and the script
takes the split from Graftline's report. Two things differ. The script keeps its last epoch; Graftline keeps its best
epoch on the eval split, so its accuracy is a little too high. And Graftline resizes with antialiasing.

"training" compares the script's two phases and export with Graftline's Trainer. "whole" compares the whole processes
with imports; Graftline's has ingest, validation and gate in it.
"""

import argparse

import numpy as np

from benchmarks import commands

Pair = dict[str, float]  # seconds and accuracy of both programs on one split, by name


def compare(arguments: argparse.Namespace, epochs: int, split_seed: int) -> Pair:
    """Run both programs, and print the seconds of each of Graftline's stages."""
    rate = arguments.learning_rate
    settings = {
        **commands.settings(arguments.weights, arguments.alpha, epochs, epochs),
        "feature_extraction.learning_rate": rate,
        "data.split_seed": split_seed,
        "seed": split_seed,
    }
    with commands.temporary_folder() as folder:
        whole, summary = commands.graftline(arguments.images, folder / "workspace", settings)
        options = ("--learning-rate", rate, "--seed", split_seed)
        plain_whole, plain = commands.plain_keras(arguments, folder, summary, epochs, *options)
    stages = {"start": summary["startup_seconds"], **summary["seconds"]}
    print(f"{epochs}+{epochs} epochs, split {split_seed}, seconds by stage")
    print("  graftline: " + ", ".join(f"{stage} {value:.1f}" for stage, value in stages.items()))
    print("  plain Keras: " + ", ".join(f"{part} {value:.1f}" for part, value in plain["seconds"].items()))
    ours = {"whole": whole, "training": summary["seconds"]["Trainer"], "accuracy": summary["accuracy"]}
    theirs = {"plain_training": commands.plain_training(plain), "plain_accuracy": plain["accuracy"]}
    return {**ours, "plain_whole": plain_whole, **theirs}


def show(what: str, pairs: list[Pair]) -> None:
    """Print a line of the table: the means over the pairs."""

    def mean(field: str) -> float:
        return float(np.mean([pair[field] for pair in pairs]))

    def times(ours: str, theirs: str) -> str:
        compared = commands.compared(mean(ours), mean(theirs))
        return f"{mean(theirs):.1f} -> {mean(ours):.1f} s, {compared}"

    print(f"{what}: training {times('training', 'plain_training')}; whole {times('whole', 'plain_whole')}")


def show_accuracy(what: str, pairs: list[Pair]) -> None:
    """Print the accuracies of each split, their means, and the mean difference with its standard error."""
    plain, ours = np.array([(pair["plain_accuracy"], pair["accuracy"]) for pair in pairs]).T
    difference = ours - plain
    each = "  ".join(f"{one:.4f}/{other:.4f}" for one, other in zip(plain, ours, strict=True))
    print(f"{what}: accuracy, plain Keras / graftline of each split: {each}")
    line = f"{what}: mean {plain.mean():.4f} / {ours.mean():.4f}, difference {difference.mean():+.4f}"
    if len(pairs) > 1:
        line += f", standard error {difference.std(ddof=1) / np.sqrt(len(pairs)):.4f}"
    print(line)


def main() -> None:
    """Run all pairs, then print a line of times and a line of accuracies for each number of epochs."""
    parser = commands.parser(__doc__)
    parser.add_argument("--epochs", type=int, nargs="+", default=[5], help="of each phase; several give a line each")
    parser.add_argument("--splits", type=int, default=1, help="how many values of data.split_seed")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of the head, on both sides")
    arguments = parser.parse_args()
    pairs: dict[int, list[Pair]] = {epochs: [] for epochs in arguments.epochs}
    for split_seed in range(arguments.splits):
        for epochs, done in pairs.items():
            done.append(compare(arguments, epochs, split_seed))
            show("  plain Keras -> graftline", done[-1:])
    for epochs, done in pairs.items():
        show(f"\n{epochs}+{epochs} epochs, mean of {len(done)}, plain Keras -> graftline", done)
        show_accuracy(f"{epochs}+{epochs} epochs", done)


if __name__ == "__main__":
    main()
