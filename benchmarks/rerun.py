"""What does a second run cost when the folder has grown by a tenth, and a third with another learning rate?

    python -m benchmarks.rerun [--epochs 5] [--head-only] [--images DIR] [--weights FILE] [--alpha 1.0]

Three runs share one workspace: nine tenths of the images; all images; all images with another
`feature_extraction.learning_rate`. Each has the same number of epochs, so only the work of the frozen part shrinks.
`--head-only` leaves phase 2 out. The Trainer reports how many images went through the trunk and how many were reused.
"""

import pathlib
import shutil

from benchmarks import commands
from graftline.components.image_example_gen.scan import scan


def copy(images: pathlib.Path, to: pathlib.Path, every_tenth: bool) -> None:
    """Copy every tenth image of the folder, or all others."""
    for number, (path, *_) in enumerate(scan(images).files):
        if (number % 10 == 9) == every_tenth:
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(images / path, to / path)


def main() -> None:
    """Print a line for each run."""
    parser = commands.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=5, help="of each phase")
    parser.add_argument("--head-only", action="store_true", help="only phase 1")
    arguments = parser.parse_args()
    epochs = (arguments.epochs, 0 if arguments.head_only else arguments.epochs)
    settings = commands.settings(arguments.weights, arguments.alpha, *epochs)
    steps = {
        "nine tenths of the images": {"feature_extraction.learning_rate": 1e-3},
        "all of the images": {"feature_extraction.learning_rate": 1e-3},
        "another learning rate": {"feature_extraction.learning_rate": 5e-4},
    }
    first = 0.0
    print("{}+{} epochs".format(*epochs))
    with commands.temporary_folder() as root:
        images = root / "images"
        for number, (what, changed) in enumerate(steps.items()):
            if number < 2:
                copy(arguments.images, images, every_tenth=number == 1)
            seconds, summary = commands.graftline(images, root / "workspace", {**settings, **changed})
            trainer, passed = summary["seconds"]["Trainer"], summary["activations"]
            first = first or trainer
            print(
                f"{what:25}  {summary['examples']:6,} images; through the trunk {passed['computed']:6,}, "
                f"reused {passed['reused']:6,}; Trainer {trainer:6.1f} s, ratio to the first {trainer / first:.2f}; "
                f"whole {seconds:6.1f} s; accuracy {summary['accuracy']:.4f}"
            )


if __name__ == "__main__":
    main()
