"""`python -m trainer.pretraining --out FILE`: makes the weights that ship as `backbone.weights: procedural`.

With no other options it is the very recipe of the shipped ones; log.txt beside this file is what it printed then.
"""

import argparse
import os
import pathlib
import tempfile
import time
from dataclasses import fields


def main() -> None:
    from trainer.pretraining.recipe import Recipe

    parser = argparse.ArgumentParser(prog="python -m trainer.pretraining", description="Pretrain the trunk that ships.")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.weights.h5")
    parser.add_argument("--seed", type=int, default=0)
    for field in fields(Recipe):
        if field.type in (int, float):
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=field.type, default=field.default)
    given = vars(parser.parse_args())
    out, seed = given.pop("out"), given.pop("seed")
    if not out.name.endswith(".weights.h5") or not out.absolute().parent.is_dir():
        parser.error(f"--out {out}: give a file that ends in .weights.h5, in a folder that is there")
    if given["batch"] % 2 or not 2 <= given["batch"] <= given["programs"] * given["each"]:
        parser.error("--batch: give an even number, no larger than --programs times --each")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from trainer.pretraining import drawing, training

    recipe = Recipe(**given)
    print(f"seed {seed}, {recipe}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=out.absolute().parent) as folder:  # 49 KB an image; /tmp may be memory
        drawn = drawing.draw_all(recipe.programs, recipe.each, seed, pathlib.Path(folder))
        print(
            f"{time.monotonic() - start:6.0f} s  {len(drawn.labels):,} images of {recipe.programs:,} programs drawn",
            flush=True,
        )
        training.use_two_cores()
        training.save(training.train(recipe, seed, drawn), out)
    print(f"{time.monotonic() - start:6.0f} s in all; {out} has {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
