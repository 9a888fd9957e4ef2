"""Compare training with augmentation: the plain Keras script, Graftline with fresh views, and with cached views.

    python -m benchmarks.augmented [--epochs 5] [--views 0 4] [--images DIR] [--weights FILE] [--alpha 1.0]

All flip horizontally, turn, zoom and change the contrast by up to a tenth, with the same Keras layers. The script has
these layers inside its model, Graftline has them in its input. `views` 0 draws a new view in each epoch and runs the
whole trunk each time, as the script does. `views` 4 keeps the activations of four views of each image. The seconds of
an epoch are those of the whole training, with its fixed costs and export, divided by the number of epochs. The script
takes the split that Graftline made.
"""

from benchmarks import commands


def main() -> None:
    """Print a line for each program."""
    parser = commands.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=5, help="of each phase")
    parser.add_argument("--views", type=int, nargs="+", default=[0, 4], help="values of augmentation.views")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of the head, on both sides")
    arguments = parser.parse_args()
    settings = {
        **commands.settings(arguments.weights, arguments.alpha, arguments.epochs, arguments.epochs),
        "augmentation.flip": "horizontal",
        **dict.fromkeys(("augmentation.rotation", "augmentation.zoom", "augmentation.contrast"), 0.1),
        "feature_extraction.learning_rate": arguments.learning_rate,
    }
    lines = []
    with commands.temporary_folder() as folder:
        for views in arguments.views:
            # A new workspace each: no run reuses the cache of another.
            workspace = folder / f"workspace-{views}"
            whole, summary = commands.graftline(arguments.images, workspace, {**settings, "augmentation.views": views})
            epochs = sum(phase["epochs"] for phase in summary["phases"])
            training = summary["seconds"]["Trainer"]
            lines.append((f"graftline, views {views}", whole, training, epochs, summary["accuracy"]))
        options = ("--augment", "--learning-rate", arguments.learning_rate)
        whole, plain = commands.plain_keras(arguments, folder, summary, arguments.epochs, *options)
    theirs = commands.plain_training(plain)
    lines.insert(0, ("plain Keras", whole, theirs, 2 * arguments.epochs, plain["accuracy"]))
    for what, whole, training, epochs, accuracy in lines:
        each = training / epochs
        print(
            f"{what:20}  whole {whole:6.1f} s; training {training:6.1f} s, {epochs} epochs, {each:6.2f} s each, "
            f"{commands.compared(each, theirs / (2 * arguments.epochs))}; accuracy {accuracy:.4f}"
        )


if __name__ == "__main__":
    main()
