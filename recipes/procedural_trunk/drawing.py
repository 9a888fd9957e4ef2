"""All images of a pretraining, drawn by two processes into a file."""

import multiprocessing
import pathlib
from dataclasses import dataclass

import numpy as np

from recipes.procedural_trunk import programs
from recipes.procedural_trunk.textures import SIDE


@dataclass(frozen=True)
class Drawn:
    """`images` uint8 (n, SIDE, SIDE, 3), on disk; `labels` int32 (n, 1 + attributes), the program's number first."""

    images: np.ndarray
    labels: np.ndarray


def draw_all(count: int, each: int, seed: int, folder: pathlib.Path) -> Drawn:
    """`each` images of `count` programs; of one seed always the same. 49 KB an image, in `folder`."""
    path = folder / "images"
    images = np.memmap(path, np.uint8, "w+", shape=(count * each, SIDE, SIDE, 3))
    work = [(seed, number, each, count, path) for number in range(count)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(_draw, work, chunksize=8)
    labels = [[number, *found[number]] for number in range(count) for _ in range(each)]
    return Drawn(images, np.array(labels, np.int32))


def _draw(seed: int, number: int, each: int, count: int, path: pathlib.Path) -> list[int]:
    """Draws one program's images into their place in the file, and gives its attributes."""
    random = np.random.default_rng((seed, number))
    program = programs.invent(random)
    images = np.memmap(path, np.uint8, "r+", shape=(count * each, SIDE, SIDE, 3))
    for row in range(number * each, (number + 1) * each):
        images[row] = programs.draw(program, random)
    return programs.attributes(program)
