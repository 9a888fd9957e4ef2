"""`python -m recipes.procedural_trunk --out FILE` makes the weights that ship as `backbone.weights: procedural`.

Without other options it is the recipe of the shipped weights. log.txt in this folder has what it printed then.
"""

import argparse
import os
import pathlib
import signal
import sys
import tempfile
import time

from pydantic import ValidationError

from recipes.procedural_trunk.recipe import Recipe

_LEAST_STEPS = 100


def main() -> None:
    """Check the arguments, then pretrain."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.procedural_trunk",
        description="Pretrain the trunk that ships with Graftline.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.weights.h5", help="file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawings and of the training")
    for name, field in Recipe.model_fields.items():
        if field.annotation in (int, float):
            flag = f"--{name.replace('_', '-')}"
            parser.add_argument(flag, type=field.annotation, default=field.default, help=field.description, metavar="N")
    arguments = vars(parser.parse_args())
    out, seed = arguments.pop("out"), arguments.pop("seed")
    try:
        recipe = Recipe(**arguments)
    except ValidationError as error:
        fault = error.errors()[0]
        parser.error(f"--{str(fault['loc'][0]).replace('_', '-')} {fault['input']}: {fault['msg']}")
    if seed < 0:
        parser.error(f"--seed {seed}: give 0 or more")
    if recipe.programs * recipe.each < recipe.batch:
        parser.error("--programs times --each is less than the images of one --batch")
    if recipe.images < _LEAST_STEPS * recipe.batch:
        parser.error(f"--images {recipe.images}: give at least {_LEAST_STEPS * recipe.batch:,}, {_LEAST_STEPS} batches")
    folder = out.absolute().parent
    if not out.name.endswith(".weights.h5") or not os.access(folder, os.W_OK) or not folder.is_dir():
        parser.error(f"--out {out}: give a file that ends in .weights.h5, in an existing folder that can be written")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # removes the drawings
    try:
        _pretrain(recipe, seed, out)
    except (FloatingPointError, OSError) as error:
        sys.exit(f"python -m recipes.procedural_trunk: error: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _pretrain(recipe: Recipe, seed: int, out: pathlib.Path) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from graftline import own_keras

    own_keras.set_environment()
    from graftline.trainer import keras_settings
    from recipes.procedural_trunk import drawing, training

    keras_settings.set_keras()
    print(f"seed {seed}, {recipe!r}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=out.absolute().parent) as folder:  # 49 KB an image; /tmp may be memory
        drawn = drawing.draw_all(recipe.programs, recipe.each, seed, pathlib.Path(folder))
        seconds = time.monotonic() - start
        print(f"{seconds:6.0f} s  {len(drawn.labels):,} images of {recipe.programs:,} programs drawn", flush=True)
        training.save(training.train(recipe, seed, drawn), out)
    print(f"{time.monotonic() - start:6.0f} s in all; {out} has {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
