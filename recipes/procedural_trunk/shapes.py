"""Shapes that are drawn in front of a texture.

A shape says how much of each pixel it covers, and where in the shape the pixel lies. The shapes in `OUTLINES` are
functions from angle to radius; those in `PEN` are drawn with lines. Sources of the methods: superposed waves for blobs,
bracketed branching for trees (Prusinkiewicz and Lindenmayer, The Algorithmic Beauty of Plants), iterated function
systems (Barnsley; for pretraining, Kataoka et al., https://arxiv.org/abs/2101.08515).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from recipes.procedural_trunk.textures import SIDE, Field, Generator

Pen = ImageDraw.ImageDraw


@dataclass(frozen=True)
class Figure:
    """The figures that all images of one program have in common."""

    shape: str  # one of `SHAPES`
    points: int  # number of corners, rays, petals or branches
    depth: float  # of the dents between points, 0..1; for shapes of lines, how far they bend or spread
    stretch: float  # how much narrower than long, 0..1
    orientation: float  # in radians
    size: float  # radius as a fraction of the image's side
    count: int  # approximate number
    lattice: bool  # whether the figures stand in rows
    core: float  # radius of a middle with a colour of its own, as a fraction of the radius; 0 for none
    code: int  # seed of the fixed details, such as the waves of a blob or the maps of a fractal


def _circle(figure: Figure, angle: np.ndarray) -> np.ndarray:
    return np.ones_like(angle)


def _polygon(figure: Figure, angle: np.ndarray) -> np.ndarray:
    part = 2 * math.pi / figure.points
    return math.cos(part / 2) / np.cos(angle % part - part / 2)


def _star(figure: Figure, angle: np.ndarray) -> np.ndarray:
    part = 2 * math.pi / figure.points
    return 1 - (0.25 + 0.55 * figure.depth) * (1 - np.abs(angle % part / part - 0.5) * 2)


def _petals(figure: Figure, angle: np.ndarray) -> np.ndarray:
    wave = np.abs(np.cos(angle * figure.points / 2))
    return 1 - (0.2 + 0.7 * figure.depth) * (1 - wave ** (0.4 + figure.core))


def _blob(figure: Figure, angle: np.ndarray) -> np.ndarray:
    waves = np.random.default_rng(figure.code)
    radius = np.ones_like(angle)
    for number in range(2, 7):
        radius += figure.depth * 0.6 / number * np.sin(number * angle + waves.uniform(0, 6.3)) * waves.uniform(0.3, 1)
    return radius


def _arc(figure: Figure, angle: np.ndarray) -> np.ndarray:
    return np.clip((1.2 + figure.depth - np.abs((angle + math.pi) % (2 * math.pi) - math.pi)) * 8, 0, 1)


# The radius at each angle. `Figure.stretch` makes an ellipse of the circle.
OUTLINES: dict[str, Callable[[Figure, np.ndarray], np.ndarray]] = {
    "ellipse": _circle,
    "polygon": _polygon,
    "star": _star,
    "petals": _petals,
    "blob": _blob,
    "ring": _circle,
    "arc": _arc,
}


def _strokes(figure: Figure, random: Generator, pen: Pen, x: float, y: float, r: float, angle: float) -> None:
    """Draw one bent stroke."""
    t = np.linspace(-1, 1, 12)
    bend = (0.2 + 0.8 * figure.depth) * random.choice((-1, 1))
    along, across = t * r, bend * r * (t * t - 0.4) * (t if figure.points % 2 else 1)
    cos, sin = math.cos(angle), math.sin(angle)
    xs, ys = x + along * cos - across * sin, y + along * sin + across * cos
    width = max(1, round(r * (0.06 + 0.25 * figure.stretch)))
    pen.line(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=255, width=width, joint="curve")


def _tree(figure: Figure, random: Generator, pen: Pen, x: float, y: float, r: float, angle: float) -> None:
    """Draw a stem that divides into two or three branches, which divide again."""
    spread = 0.3 + 0.6 * figure.depth
    ways = 2 + figure.points % 2
    tips = [(x - r * math.cos(angle), y - r * math.sin(angle), angle, 0.75 * r)]
    for level in range(5 if ways == 2 else 4):
        grown = []
        for px, py, heading, length in tips:
            qx, qy = px + length * math.cos(heading), py + length * math.sin(heading)
            pen.line((px, py, qx, qy), fill=255, width=max(1, round(r * 0.14 * 0.65**level)))
            for way in range(ways):
                turn = spread * (2 * way / (ways - 1) - 1) + random.uniform(-0.15, 0.15)
                grown.append((qx, qy, heading + turn, length * (0.6 + 0.15 * figure.stretch)))
        tips = grown


def _lines(figure: Figure, random: Generator, pen: Pen, x: float, y: float, r: float, angle: float) -> None:
    """Draw a line across the whole image."""
    dx, dy = 2 * SIDE * math.cos(angle), 2 * SIDE * math.sin(angle)
    width = max(1, round(SIDE * figure.size * (0.05 + 0.2 * figure.stretch)))
    pen.line((x - dx, y - dy, x + dx, y + dy), fill=255, width=width)


PEN: dict[str, Callable[..., None]] = {"strokes": _strokes, "tree": _tree, "lines": _lines}

SHAPES = (*OUTLINES, *PEN, "fractal", "none")


def draw(figure: Figure, random: Generator) -> tuple[Field, Field]:
    """Draw one image's figures, each at a new place, size (by a factor of up to 1.4) and angle.

    Returns:
      How much of each pixel the figures cover, and its distance from its figure's middle in radii; both 0..1.
    """
    cover, depth = np.zeros((SIDE, SIDE), np.float32), np.ones((SIDE, SIDE), np.float32)
    picture = Image.new("L", (SIDE, SIDE)) if figure.shape in PEN else None
    count = max(1, round(figure.count * random.uniform(0.7, 1.3)))
    columns = math.ceil(math.sqrt(count))
    shift = random.uniform(0, 1 / columns, 2)
    for number in range(count):
        if figure.lattice and count > 1:
            x, y = (number % columns / columns + shift[0]) * SIDE, (number // columns / columns + shift[1]) * SIDE
        else:
            x, y = (random.uniform(0.25, 0.75, 2) if count == 1 else random.uniform(0, 1, 2)) * SIDE
        radius = figure.size * SIDE * 2 ** random.uniform(-0.5, 0.5)
        angle = figure.orientation + random.uniform(-0.4, 0.4)
        if figure.shape in OUTLINES:
            _outline(figure, cover, depth, x, y, radius, angle)
        elif picture is not None:
            PEN[figure.shape](figure, random, ImageDraw.Draw(picture), x, y, radius, angle)
        else:
            _fractal(figure, random, cover, x, y, radius, angle)
    if picture is not None:
        cover = np.asarray(picture, np.float32) / 255
    return cover, depth


def _outline(figure: Figure, cover: Field, depth: Field, x: float, y: float, r: float, angle: float) -> None:
    """Draw one figure over the others, in the box that holds it."""
    reach = 1.5 * r
    left, right = max(0, int(x - reach)), min(SIDE, int(x + reach) + 2)
    top, bottom = max(0, int(y - reach)), min(SIDE, int(y + reach) + 2)
    if left >= right or top >= bottom:
        return
    dx = (np.arange(left, right, dtype=np.float32) - x)[None, :]
    dy = (np.arange(top, bottom, dtype=np.float32) - y)[:, None]
    cos, sin = math.cos(angle), math.sin(angle)
    u, v = dx * cos + dy * sin, (dy * cos - dx * sin) / (1 - 0.7 * figure.stretch)
    radius = np.hypot(u, v) / r
    edge = OUTLINES[figure.shape](figure, np.arctan2(v, u))
    inside = np.clip((edge - radius) * r + 0.5, 0, 1)
    if figure.shape in ("ring", "arc"):
        inside = inside * np.clip((radius - 1 + 0.15 + 0.35 * figure.depth) * r + 0.5, 0, 1)
    box = np.s_[top:bottom, left:right]
    cover[box] = np.maximum(cover[box], inside)
    depth[box] = np.where(inside > 0.5, np.minimum(radius / np.maximum(edge, 0.05), 1), depth[box])


def _fractal(figure: Figure, random: Generator, cover: Field, x: float, y: float, r: float, angle: float) -> None:
    """Draw the points of an iterated function system: 24 walkers of 100 steps."""
    fixed = np.random.default_rng(figure.code)
    ways = 2 + figure.points % 3
    maps = fixed.uniform(-1, 1, (ways, 2, 2))
    maps *= fixed.uniform(0.45, 0.8, ways)[:, None, None] / np.linalg.norm(maps, 2, axis=(1, 2))[:, None, None]
    shifts = fixed.uniform(-1, 1, (ways, 2))
    walkers, steps = np.zeros((24, 2)), []
    for choice in random.integers(0, ways, (100, 24)):
        walkers = np.einsum("nij,nj->ni", maps[choice], walkers) + shifts[choice]
        steps.append(walkers)
    points = np.concatenate(steps[8:])
    points = (points - points.mean(axis=0)) / (2 * points.std() + 1e-6) * r
    cos, sin = math.cos(angle), math.sin(angle)
    columns = (points[:, 0] * cos - points[:, 1] * sin + x).astype(np.int32)
    rows = (points[:, 0] * sin + points[:, 1] * cos + y).astype(np.int32)
    inside = (columns >= 0) & (columns < SIDE) & (rows >= 0) & (rows < SIDE)
    cover[rows[inside], columns[inside]] = 1
