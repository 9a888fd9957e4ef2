"""Drawn data sets, their statistics and their findings, for the tests of data validation."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2

from graftline import features
from graftline.components.data_validation import checks, findings, statistics
from graftline.components.data_validation.settings import ValidationSettings

ALL_STOP = ValidationSettings(
    new_label="stop", missing_class="stop", drift="stop", skew="stop", schema_violation="stop"
)


# --- drawn data sets --------------------------------------------------------------------------------------------------


def drawn(count: int, seed: int, classes: tuple[str, ...] = ("a", "b", "c"), **changed: Any) -> pd.DataFrame:
    """What ingest says of so many images: labels by turns, usual sizes and odd ones, quality as of photos."""
    random = np.random.default_rng(seed)
    height = np.where(
        random.random(count) < 0.7, random.choice([213, 240, 333], count), random.integers(90, 500, count)
    )
    values: dict[str, Any] = {
        features.LABEL: [classes[number % len(classes)] for number in range(count)],
        features.FORMAT: "jpeg",
        features.HEIGHT: height,
        features.WIDTH: height * 4 // 3,
        features.BRIGHTNESS: random.beta(6, 8, count).astype(np.float32),
        features.CONTRAST: random.beta(5, 16, count).astype(np.float32),
        features.SHARPNESS: random.lognormal(-1.4, 0.6, count).astype(np.float32),
    }
    return pd.DataFrame({**values, **changed})


def split(images: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Statistics of a random fifth for eval, and of the rest."""
    held_back = np.random.default_rng([seed, 1]).random(len(images)) < 0.2
    return {
        part: tfdv.generate_statistics_from_dataframe(images[rows], statistics.stats_options())
        for part, rows in ((features.TRAIN, ~held_back), (features.EVAL, held_back))
    }


@functools.cache
def usual(seed: int = 0, classes: tuple[str, ...] = ("a", "b", "c")) -> dict[str, Any]:
    """Statistics of 300 images as they usually are; not to be changed."""
    return split(drawn(300, seed, classes), seed)


def found(
    now: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
    settings: ValidationSettings | None = None,
    schema: schema_pb2.Schema | None = None,
) -> list[findings.Finding]:
    """The findings; with a schema that is a curated one."""
    file = "" if schema is None else "photos.pbtxt"
    return checks.validate(
        now, schema or statistics.infer_schema(now), file, before, settings or ValidationSettings()
    ).findings
