"""Textures: functions that fill a square with numbers in 0..1, which a palette then colours.

A texture takes a frame, which holds the pattern's fixed parameters and each pixel's place in the rotated, shifted and
warped pattern, and a generator for what varies between images. `TEXTURES` names the functions. Sources of the methods:
noise of a given spectrum, dead leaves (Lee, Mumford and Huang, https://doi.org/10.1023/A:1011109015675; for
pretraining, Baradad et al., https://arxiv.org/abs/2106.05963), cellular noise (Worley,
https://doi.org/10.1145/237170.237267).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
from PIL import Image, ImageDraw

SIDE = 128  # pixels, of each image drawn

Field = np.ndarray  # float32, (SIDE, SIDE), 0..1
Generator = np.random.Generator


@dataclass(frozen=True)
class Pattern:
    """The parameters that all images of one program have in common. A texture reads those that it needs."""

    texture: str  # a key of `TEXTURES`
    frequency: float  # number of periods (or cells) along the image's side
    orientation: float  # of the pattern's frame, in radians
    sharpness: float  # from 0, soft waves, to 1, hard edges
    disorder: float  # from 0, a strict lattice, to 1, random places
    ratio: float  # of the pattern's two directions
    warp: float  # how far pixels are moved at random, in periods


@dataclass(frozen=True)
class Frame:
    """Each pixel's place in the pattern: `x` and `y`, float32 (SIDE, SIDE), in periods."""

    pattern: Pattern
    angle: float
    frequency: float
    x: Field
    y: Field


_ROW, _COLUMN = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE - 0.5
_FY = scipy.fft.fftfreq(SIDE, 1 / SIDE).astype(np.float32)[:, None]
_FX = scipy.fft.rfftfreq(SIDE, 1 / SIDE).astype(np.float32)[None, :]
_RADIUS = np.hypot(_FX, _FY)
_RADIUS[0, 0] = 1.0


def draw(pattern: Pattern, random: Generator) -> Field:
    """Draw the pattern for one image, with a new rotation (up to 15 degrees), scale (up to 1.3), shift and warp."""
    angle = pattern.orientation + random.uniform(-0.26, 0.26)
    frequency = pattern.frequency * 2 ** random.uniform(-0.4, 0.4)
    cos, sin = math.cos(angle) * frequency, math.sin(angle) * frequency
    x = _COLUMN * cos + _ROW * sin + random.uniform(0, 64)
    y = _ROW * cos - _COLUMN * sin + random.uniform(0, 64)
    if pattern.warp:
        x = x + pattern.warp * clouds(random, 5)
        y = y + pattern.warp * clouds(random, 5)
    return TEXTURES[pattern.texture](Frame(pattern, angle, frequency, x, y), random)


def clouds(random: Generator, cells: int) -> Field:
    """Return slow waves of mean 0 and about unit deviation: interpolated random numbers on a coarse lattice."""
    coarse = Image.fromarray(random.standard_normal((cells, cells), dtype=np.float32))
    return np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _spectral(random: Generator, amplitude: np.ndarray) -> Field:
    """Return Gaussian noise with an amplitude for each frequency; its mean is 0.5 and its deviation 0.25."""
    shape = amplitude.shape
    noise = random.standard_normal(shape, dtype=np.float32) + 1j * random.standard_normal(shape, dtype=np.float32)
    field = scipy.fft.irfft2(noise * amplitude, (SIDE, SIDE))
    field -= field.mean()
    return field * (0.25 / (field.std() + 1e-9)) + 0.5


def _harden(field: Field, sharpness: float) -> Field:
    """Push the middle values of 0..1 apart, to two levels at sharpness 1."""
    return np.clip((field - 0.5) / (1.02 - sharpness) + 0.5, 0, 1)


def _stripes(frame: Frame, phase: Field) -> Field:
    return _harden(0.5 + 0.5 * np.sin(phase), frame.pattern.sharpness)


def flat(frame: Frame, random: Generator) -> Field:
    """Return one value with a slow change across the image."""
    return 0.5 + 0.25 * (frame.x - frame.x.mean()) / frame.frequency


def fractal_noise(frame: Frame, random: Generator) -> Field:
    """Return noise with the spectrum 1/f^a, where a goes from 0.7 (rough) to 2.2 (smooth)."""
    return _spectral(random, (_RADIUS + frame.frequency / 8) ** (-0.7 - 1.5 * frame.pattern.disorder))


def oriented_noise(frame: Frame, random: Generator) -> Field:
    """Return noise that is stretched in one direction, like fur, wood or water."""
    cos, sin = math.cos(frame.angle), math.sin(frame.angle)
    along, across = _FX * cos + _FY * sin, _FY * cos - _FX * sin
    ratio = 3 + 5 * frame.pattern.ratio
    return _spectral(random, np.exp(-((across * ratio / 2) ** 2 + (along / 2) ** 2) / frame.frequency**2))


def grating(frame: Frame, random: Generator) -> Field:
    """Return parallel stripes."""
    return _stripes(frame, 2 * np.pi * frame.x)


def plaid(frame: Frame, random: Generator) -> Field:
    """Return stripes of two directions, one over the other."""
    second = _stripes(frame, 2 * np.pi * frame.y * (0.5 + frame.pattern.ratio))
    return 0.5 * (_stripes(frame, 2 * np.pi * frame.x) + second)


def rings(frame: Frame, random: Generator) -> Field:
    """Return circles around one point, in the image or near it."""
    centre = random.uniform(-0.5, 0.5, 2) * frame.frequency
    x, y = frame.x - frame.x.mean() - centre[0], frame.y - frame.y.mean() - centre[1]
    return _stripes(frame, 2 * np.pi * np.hypot(x, y * (0.6 + 0.4 * frame.pattern.ratio)))


def _hashed(i: np.ndarray, j: np.ndarray, salt: int) -> Field:
    """Return a number in 0..1 for each lattice cell."""
    mixed = (i * 73856093) ^ (j * 19349663) ^ (salt * 83492791)
    mixed = (mixed ^ (mixed >> 13)) * 1274126177
    return ((mixed ^ (mixed >> 16)) & 0xFFFF).astype(np.float32) / 0xFFFF


def _cells(frame: Frame, random: Generator) -> tuple[Field, Field, Field]:
    """Scatter one point in each lattice cell; return the distances to the nearest two and the nearest's number."""
    salt = int(random.integers(1, 1 << 20))
    i, j = np.floor(frame.x).astype(np.int32), np.floor(frame.y).astype(np.int32)
    nearest = np.full(i.shape, 9, np.float32)
    second, number = nearest.copy(), nearest
    spread = frame.pattern.disorder
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            ci, cj = i + di, j + dj
            own = _hashed(ci, cj, salt)
            x = ci + 0.5 + spread * (own - 0.5) - frame.x
            y = cj + 0.5 + spread * (own * 37 % 1 - 0.5) - frame.y
            distance = x * x + y * y
            second = np.minimum(second, np.maximum(nearest, distance))
            number = np.where(distance < nearest, own, number)
            nearest = np.minimum(nearest, distance)
    return np.sqrt(nearest), np.sqrt(second), number * 53 % 1


def voronoi(frame: Frame, random: Generator) -> Field:
    """Return cells of one value each."""
    return _cells(frame, random)[2]


def cracks(frame: Frame, random: Generator) -> Field:
    """Return the borders between such cells."""
    nearest, second, _ = _cells(frame, random)
    return np.clip((second - nearest) * (1 + 4 * frame.pattern.sharpness), 0, 1)


def dots(frame: Frame, random: Generator) -> Field:
    """Return round dots, on a lattice or scattered, of one shade or many."""
    nearest, _, number = _cells(frame, random)
    inside = np.clip((0.2 + 0.2 * frame.pattern.ratio - nearest) * (3 + 12 * frame.pattern.sharpness) + 0.5, 0, 1)
    return inside * (1 - 0.6 * frame.pattern.disorder * number)


def bricks(frame: Frame, random: Generator) -> Field:
    """Return blocks in rows with gaps between them, each of its own shade."""
    row = np.floor(frame.y)
    x = frame.x * (0.4 + 0.6 * frame.pattern.ratio) + (row % 2) * 0.5 * (frame.pattern.disorder > 0.4)
    column = np.floor(x)
    gap = 0.04 + 0.12 * frame.pattern.sharpness
    inside = (np.abs(frame.y - row - 0.5) < 0.5 - gap) & (np.abs(x - column - 0.5) < 0.5 - gap)
    shade = _hashed(column.astype(np.int32), row.astype(np.int32), int(random.integers(1, 1 << 20)))
    return inside * (1 - 0.6 * frame.pattern.disorder * shade)


def warped_stripes(frame: Frame, random: Generator) -> Field:
    """Return stripes that bend, like agate or sand."""
    return _stripes(frame, 2 * np.pi * (frame.x + (0.6 + frame.pattern.ratio) * clouds(random, 6)))


def _band(frame: Frame, random: Generator) -> Field:
    width = 0.15 + 0.3 * frame.pattern.disorder
    return _spectral(random, np.exp(-(((_RADIUS / frame.frequency - 1) / width) ** 2)))


def labyrinth(frame: Frame, random: Generator) -> Field:
    """Return winding ridges: noise of one wavelength."""
    return _harden(np.abs(_band(frame, random) - 0.5) * 2, 0.8 * frame.pattern.sharpness)


def spots(frame: Frame, random: Generator) -> Field:
    """Return blotches: the same noise, cut at one height."""
    return _harden(_band(frame, random) + 0.3 * (frame.pattern.ratio - 0.5), 0.5 + 0.5 * frame.pattern.sharpness)


def dead_leaves(frame: Frame, random: Generator) -> Field:
    """Return discs or boxes that cover each other, few large and many small."""
    count = int(40 + 4 * frame.frequency)
    picture = Image.new("L", (SIDE, SIDE), 128)
    pen = ImageDraw.Draw(picture)
    radii = 1.0 / (2 + frame.frequency) * (1 - random.random(count) * 0.97) ** -0.5 * SIDE / 2
    x, y = random.uniform(0, SIDE, (2, count))
    shades = random.integers(0, 256, count)
    shape = pen.ellipse if frame.pattern.disorder < 0.6 else pen.rectangle
    high = radii * (0.4 + 0.6 * frame.pattern.ratio)
    for a, b, r, h, shade in zip(x.tolist(), y.tolist(), radii.tolist(), high.tolist(), shades.tolist(), strict=True):
        shape((a - r, b - h, a + r, b + h), fill=shade)
    return np.asarray(picture, np.float32) / 255


def patchwork(frame: Frame, random: Generator) -> Field:
    """Return fields or blocks of houses: straight cuts through the plane, and a shade for each part."""
    x, y = frame.x - frame.x.mean(), frame.y - frame.y.mean()
    number = np.zeros(x.shape, np.int32)
    border = np.full(x.shape, 9, np.float32)
    half = frame.frequency / 2
    for cut in range(int(4 + min(frame.frequency, 12))):
        axis, other = (x, y) if random.random() < 0.5 else (y, x)
        place, start, end = random.uniform(-half, half, 3)
        reach = (other > min(start, end)) & (other < max(start, end)) if cut > 2 else other > -99
        number ^= (reach & (axis > place)) * (0x9E3779 * (cut + 1) & 0xFFFFFF)
        border = np.where(reach, np.minimum(border, np.abs(axis - place)), border)
    shade = _hashed(number, number >> 7, 7)
    line = 0.06 * frame.pattern.sharpness * frame.frequency / 4
    return np.where(border < line, 0.0, 0.25 + 0.75 * shade) if frame.pattern.sharpness > 0.4 else shade


TEXTURES: dict[str, Callable[[Frame, Generator], Field]] = {
    function.__name__: function
    for function in (
        *(flat, fractal_noise, oriented_noise, grating, plaid, rings, voronoi, cracks),
        *(dots, bricks, warped_stripes, labyrinth, spots, dead_leaves, patchwork),
    )
}
