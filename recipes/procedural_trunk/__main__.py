"""`python -m recipes.procedural_trunk --out FILE`: makes the weights that ship as `backbone.weights: procedural`.

With no other options it is the very recipe of the shipped ones; log.txt beside this file is what it printed then.
"""

import argparse
import os
import pathlib
import signal
import sys
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recipes.procedural_trunk.recipe import Recipe

_LEAST_STEPS = 100


def main() -> None:
    from pydantic import ValidationError

    from recipes.procedural_trunk.recipe import Recipe

    parser = argparse.ArgumentParser(
        prog="python -m recipes.procedural_trunk",
        description="Pretrain the trunk that ships.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.weights.h5", help="the weights")
    parser.add_argument("--seed", type=int, default=0, help="of the drawings and of the training")
    for name, field in Recipe.model_fields.items():
        if field.annotation in (int, float):
            flag = f"--{name.replace('_', '-')}"
            parser.add_argument(flag, type=field.annotation, default=field.default, help=field.description, metavar="N")
    given = vars(parser.parse_args())
    out, seed = given.pop("out"), given.pop("seed")
    try:
        recipe = Recipe(**given)
    except ValidationError as error:
        wrong = error.errors()[0]
        parser.error(f"--{str(wrong['loc'][0]).replace('_', '-')} {wrong['input']}: {wrong['msg']}")
    if seed < 0:
        parser.error(f"--seed {seed}: give 0 or more")
    if recipe.programs * recipe.each < recipe.batch:
        parser.error("--programs times --each are fewer images than one --batch")
    if recipe.images < _LEAST_STEPS * recipe.batch:
        parser.error(f"--images {recipe.images}: give at least {_LEAST_STEPS * recipe.batch:,}, {_LEAST_STEPS} batches")
    folder = out.absolute().parent
    if not out.name.endswith(".weights.h5") or not os.access(folder, os.W_OK) or not folder.is_dir():
        parser.error(f"--out {out}: give a file that ends in .weights.h5, in a folder that is there and can be written")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the drawings are removed
    try:
        _make(recipe, seed, out)
    except (FloatingPointError, OSError) as error:
        sys.exit(f"python -m recipes.procedural_trunk: error: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _make(recipe: "Recipe", seed: int, out: pathlib.Path) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from recipes.procedural_trunk import drawing, training

    print(f"seed {seed}, {recipe!r}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=out.absolute().parent) as folder:  # 49 KB an image; /tmp may be memory
        drawn = drawing.draw_all(recipe.programs, recipe.each, seed, pathlib.Path(folder))
        took = time.monotonic() - start
        print(f"{took:6.0f} s  {len(drawn.labels):,} images of {recipe.programs:,} programs drawn", flush=True)
        training.use_two_cores()
        training.save(training.train(recipe, seed, drawn), out)
    print(f"{time.monotonic() - start:6.0f} s in all; {out} has {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
