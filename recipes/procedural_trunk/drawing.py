"""Draws all images of a pretraining into a file, with two processes."""

import multiprocessing
import pathlib
from dataclasses import dataclass

import numpy as np

from recipes.procedural_trunk import programs
from recipes.procedural_trunk.textures import SIDE


@dataclass(frozen=True)
class Drawn:
    """All images and their labels."""

    images: np.ndarray  # uint8 (n, SIDE, SIDE, 3), on disk
    labels: np.ndarray  # int32 (n, 1 + attributes); the first is the program's number


def draw_all(count: int, each: int, seed: int, folder: pathlib.Path) -> Drawn:
    """Draw `each` images of `count` programs into `folder`, 49 KB each. The same seed gives the same images."""
    path = folder / "images"
    images = np.memmap(path, np.uint8, "w+", shape=(count * each, SIDE, SIDE, 3))
    work = [(seed, number, each, count, path) for number in range(count)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        attributes = pool.starmap(_draw, work, chunksize=8)
    labels = [[number, *attributes[number]] for number in range(count) for _ in range(each)]
    return Drawn(images, np.array(labels, np.int32))


def _draw(seed: int, number: int, each: int, count: int, path: pathlib.Path) -> list[int]:
    """Draw one program's images into their place in the file and return its attributes."""
    random = np.random.default_rng((seed, number))
    program = programs.invent(random)
    images = np.memmap(path, np.uint8, "r+", shape=(count * each, SIDE, SIDE, 3))
    for row in range(number * each, (number + 1) * each):
        images[row] = programs.draw(program, random)
    return programs.attributes(program)
