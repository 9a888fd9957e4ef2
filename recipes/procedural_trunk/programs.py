"""Drawing programs: a class of images is a texture, perhaps a second one behind a border, and figures in front.

A program fixes patterns, figures and colours. Its images differ in seed, place, rotation, size, number, light, noise
and blur. So a label is correct by construction, and no photo is needed. The idea is that of FractalDB (Kataoka et al.,
https://arxiv.org/abs/2101.08515), "Learning to see by looking at noise" (Baradad et al.,
https://arxiv.org/abs/2106.05963) and Shaders-21k (Baradad et al., https://arxiv.org/abs/2211.16412).
"""

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from recipes.procedural_trunk import shapes, textures
from recipes.procedural_trunk.shapes import SHAPES, Figure
from recipes.procedural_trunk.textures import SIDE, TEXTURES, Field, Generator, Pattern

_TEXTURES, _BORDERS, _FILLS = list(TEXTURES), ("none", "straight", "winding", "band"), ("plain", "radial", "texture")
_HUES = 12  # parts of the colour circle; gray is one more

# The attributes that the trunk learns in addition to the program's number: name, and number of values.
ATTRIBUTES = {
    "texture": len(_TEXTURES),
    "frequency": 6,
    "orientation": 9,
    "border": len(_BORDERS),
    "second texture": len(_TEXTURES) + 1,
    "shape": len(SHAPES),
    "count": 5,
    "size": 5,
    "fill": len(_FILLS) + 1,
    "colour": _HUES + 1,
    "figure's colour": _HUES + 2,
    "lightness": 4,
}
_UNTURNED = ("flat", "fractal_noise", "rings", "voronoi", "cracks", "labyrinth", "spots", "dead_leaves")


@dataclass(frozen=True)
class Program:
    """One class of images. Palettes are float32 (n, 3), RGB in 0..1."""

    ground: Pattern
    ground_colours: np.ndarray
    border: str
    beyond: Pattern
    beyond_colours: np.ndarray
    figure: Figure
    figure_colours: np.ndarray
    fill: str
    filling: Pattern
    shaded: float
    blur: float


def invent(random: Generator) -> Program:
    """Return a new program."""
    shape = SHAPES[random.choice(len(SHAPES), p=_SHAPE_ODDS)]
    count = round(2 ** random.uniform(0, 4.3)) if random.random() < 0.65 else 1
    size = min(0.45, random.uniform(0.12, 0.42) / math.sqrt(count) ** 0.8)
    return Program(
        ground=_pattern(random),
        ground_colours=_palette(random),
        border=str(random.choice(_BORDERS, p=(0.6, 0.14, 0.14, 0.12))),
        beyond=_pattern(random),
        beyond_colours=_palette(random),
        figure=Figure(
            shape=shape,
            points=int(random.integers(3, 13)),
            depth=random.uniform(0, 1),
            stretch=random.choice((0.0, random.uniform(0, 0.9))),
            orientation=random.uniform(0, 2 * math.pi),
            size=size,
            count=min(count, 5) if shape == "fractal" else count,
            lattice=bool(random.random() < 0.2),
            core=random.choice((0.0, random.uniform(0.15, 0.6))),
            code=int(random.integers(1 << 30)),
        ),
        figure_colours=_palette(random),
        fill=str(random.choice(_FILLS)),
        filling=_pattern(random),
        shaded=random.choice((0.0, random.uniform(0, 0.8))),
        blur=random.choice((0.0, random.uniform(0.5, 2.5))),
    )


_SHAPE_ODDS = np.array([1.5 if shape in ("petals", "none") else 1.0 for shape in SHAPES])
_SHAPE_ODDS /= _SHAPE_ODDS.sum()


def _pattern(random: Generator) -> Pattern:
    return Pattern(
        texture=str(random.choice(_TEXTURES)),
        frequency=2 ** random.uniform(1, 4.6),
        orientation=random.uniform(0, math.pi),
        sharpness=random.uniform(0, 1),
        disorder=random.uniform(0, 1),
        ratio=random.uniform(0, 1),
        warp=random.choice((0.0, random.uniform(0, 0.5))),
    )


def _palette(random: Generator) -> np.ndarray:
    """Return two to four colours, usually of similar hue, from dark to light or shuffled."""
    hue, saturation = random.uniform(), random.beta(1.6, 1.6)
    spread = random.choice((0.03, 0.1, 0.5), p=(0.5, 0.35, 0.15))
    darkest, lightest = np.sort(random.uniform(0.05, 1, 2))
    values = np.linspace(darkest, lightest, int(random.integers(2, 5)))
    if random.random() < 0.4:
        random.shuffle(values)
    colours = []
    for value in values:
        near_hue = (hue + random.uniform(-spread, spread)) % 1
        colours.append(colorsys.hsv_to_rgb(near_hue, np.clip(saturation + random.normal(0, 0.1), 0, 1), value))
    return np.array(colours, np.float32)


def attributes(program: Program) -> list[int]:
    """Return the program's values of `ATTRIBUTES`."""
    none = program.figure.shape == "none"
    orientation = 8 if program.ground.texture in _UNTURNED else int(program.ground.orientation / math.pi * 8) % 8
    colour, lightness = _colour(program.ground_colours)
    return [
        _TEXTURES.index(program.ground.texture),
        min(5, int((math.log2(program.ground.frequency) - 1) / 3.6 * 6)),
        orientation,
        _BORDERS.index(program.border),
        len(_TEXTURES) if program.border == "none" else _TEXTURES.index(program.beyond.texture),
        SHAPES.index(program.figure.shape),
        0 if none else min(4, 1 + int(math.log2(program.figure.count))),
        0 if none else min(4, 1 + int(program.figure.size / 0.1)),
        len(_FILLS) if none else _FILLS.index(program.fill),
        colour,
        _HUES + 1 if none else _colour(program.figure_colours)[0],
        lightness,
    ]


def _colour(palette: np.ndarray) -> tuple[int, int]:
    """Return the hue of the palette's mean (or gray) and its lightness in four steps."""
    hue, saturation, value = colorsys.rgb_to_hsv(*palette.mean(axis=0).tolist())
    return (_HUES if saturation < 0.15 else int(hue * _HUES) % _HUES), min(3, int(value * 4))


def draw(program: Program, random: Generator) -> np.ndarray:
    """Draw one image of the program, uint8 (SIDE, SIDE, 3)."""
    tint = random.normal(0, 0.025, 3).astype(np.float32)
    image = _coloured(textures.draw(program.ground, random), program.ground_colours + tint)
    if program.border != "none":
        weight = _side(program.border, program.ground.orientation, random)[..., None]
        image += weight * (_coloured(textures.draw(program.beyond, random), program.beyond_colours + tint) - image)
    if program.blur and random.random() < 0.8:  # only the background is out of focus
        image = _blurred(image, program.blur)
    if program.figure.shape != "none":
        cover, depth = shapes.draw(program.figure, random)
        image += cover[..., None] * (_filled(program, depth, random) + tint - image)
    return _photographed(image, random)


def _coloured(field: Field, palette: np.ndarray) -> np.ndarray:
    """Colour the field by interpolation in the palette; float32 (SIDE, SIDE, 3)."""
    steps, stops = np.linspace(0, 1, 256), np.linspace(0, 1, len(palette))
    table = np.stack([np.interp(steps, stops, channel) for channel in palette.T], axis=1).astype(np.float32)
    return table[(np.clip(field, 0, 1) * 255).astype(np.uint8)]


def _side(border: str, orientation: float, random: Generator) -> Field:
    """Return how much each pixel belongs to the area behind the border, 0..1."""
    if border == "winding":
        return np.clip(textures.clouds(random, 4) * 8 + 0.5, 0, 1)
    angle = orientation + random.uniform(-0.3, 0.3)
    row, column = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE - 0.5
    across = column * math.cos(angle) + row * math.sin(angle) + random.uniform(-0.25, 0.25)
    if border == "band":
        across = across + random.uniform(0, 0.08) * textures.clouds(random, 4)
        return np.clip((random.uniform(0.04, 0.14) - np.abs(across)) * SIDE + 0.5, 0, 1)
    return np.clip(across * SIDE + 0.5, 0, 1)


def _filled(program: Program, depth: Field, random: Generator) -> np.ndarray:
    """Return the figures' inside, float32 (SIDE, SIDE, 3)."""
    palette = program.figure_colours
    if program.fill == "radial":
        inside = _coloured(depth, palette)
    elif program.fill == "texture":
        inside = _coloured(textures.draw(program.filling, random), palette)
    else:
        inside = np.broadcast_to(palette[0], (SIDE, SIDE, 3)).copy()
    if program.figure.core:
        inside = np.where((depth < program.figure.core)[..., None], palette[-1], inside)
    if program.shaded:
        inside *= (1 - program.shaded * depth * depth)[..., None]
    return inside


def _photographed(image: np.ndarray, random: Generator) -> np.ndarray:
    """Add light from one side, contrast, blur and noise, as a camera does; return uint8."""
    angle, strength = random.uniform(0, 2 * math.pi), random.uniform(0, 0.5)
    ramp = np.linspace(-strength, strength, SIDE, dtype=np.float32)
    light = 1 + ramp[None, :] * math.cos(angle) + ramp[:, None] * math.sin(angle)
    image = image * light[..., None] * random.uniform(0.8, 1.2)
    if random.random() < 0.3:
        image = _blurred(image, random.uniform(0.4, 1.4))
    if random.random() < 0.5:
        image += random.standard_normal((SIDE, SIDE, 1), dtype=np.float32) * random.uniform(0.01, 0.06)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _blurred(image: np.ndarray, radius: float) -> np.ndarray:
    picture = Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(float(radius)))
    return np.asarray(picture, np.float32) / 255
