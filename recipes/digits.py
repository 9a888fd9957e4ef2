"""The whole job on an embedded data set, as `make run` does it.

    python -m recipes.digits [--workspace DIR] [--json]

The recipe writes scikit-learn's scans of handwritten digits as PNG files. It runs recipes/digits.yaml on them, as
`graftline run` does. Then it classifies three of the scans with the pushed model.
"""

import os
import pathlib
import shlex
import shutil
import tempfile

import click

from graftline.pipeline import app
from graftline.pipeline.command import DONE, NOT_BLESSED, Command

RECIPE = pathlib.Path(__file__).with_name("digits.yaml")
FOLDER = "digits-images"


def write_images(folder: pathlib.Path) -> int:
    """Write `<folder>/<digit>/NNNN.png`, 8 by 8 gray pixels, unless the folder exists; return how many it holds.

    The scans hold values from 0 to 16: UCI's optical recognition of handwritten digits counts the bits of 4 by 4
    blocks. The files hold values from 0 to 255. The folder appears whole or not at all.
    """
    if folder.is_dir():
        return sum(1 for _ in folder.glob("*/*.png"))
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for number, (scan, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            path = unfinished / str(digit) / f"{number:04d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8)).save(path)
        os.chmod(unfinished, 0o755)  # mkdtemp makes a private folder
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return len(digits.images)


@click.command(cls=Command)
@click.option("--workspace", default="./graftline-workspace", show_default=True, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Only JSON on standard output.")
def main(workspace: str, as_json: bool) -> int:
    """Train, judge, push and try a classifier of handwritten digits."""
    from graftline.pipeline import config_file, console

    images = pathlib.Path(workspace) / FOLDER
    click.echo(f"{write_images(images):,} scans of digits in {images}", err=True)
    config = config_file.load(str(RECIPE), options={"images": str(images), "workspace": workspace})
    summary = app.run_pipeline(config)
    app.print_summary(summary, config, as_json)
    if summary.pushed_path is None:
        return NOT_BLESSED
    samples = [str(sorted(images.glob(f"{digit}/*.png"))[0]) for digit in (0, 4, 8)]
    command = ["graftline", "predict", "--model", summary.pushed_path, *samples]
    click.echo(f"\n$ {shlex.join(command)}", err=as_json)
    with console.captured(pathlib.Path(os.devnull)):  # TensorFlow prints messages in a process that imported TFX
        predictions = list(app.classify(samples, model=summary.pushed_path))
    app.print_predictions(predictions, err=as_json)
    return DONE if summary.blessed else NOT_BLESSED


if __name__ == "__main__":
    main()
