"""The statistics that StatisticsGen computes, and the preparation of two distributions for their comparison."""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList, FeatureNameStatistics, Histogram

from graftline import features

# The features that are compared between runs and splits.
WORDS: Final = (features.LABEL, features.FORMAT)
NUMBERS: Final = (features.HEIGHT, features.WIDTH, features.BRIGHTNESS, features.CONTRAST, features.SHARPNESS)
TYPES: Final[Mapping[str, int]] = {
    **dict.fromkeys(WORDS, schema_pb2.BYTES),
    **dict.fromkeys((features.HEIGHT, features.WIDTH), schema_pb2.INT),
    **dict.fromkeys((features.BRIGHTNESS, features.CONTRAST, features.SHARPNESS), schema_pb2.FLOAT),
}

# These features are different in each example: a table of their values is as long as the data set, and useless.
_COUNTED_ONLY = (features.IMAGE, features.FILENAME, features.SHA256)
_MOST_CLASSES = 100_000
_QUANTILES = 100
_TENTHS = range(10, _QUANTILES, 10)
_TAIL = 9.2  # the probability of exceeding `chance` is exp(-9.2), 1 in 10,000


def stats_options() -> tfdv.StatsOptions:
    """Return the options of StatisticsGen: of images, names and hashes only the bytes are counted."""
    schema = schema_pb2.Schema()
    for name in _COUNTED_ONLY:
        # With this domain TFDV counts only the length of the bytes. The inferred schema then has the feature, without a
        # domain; with a feature_allowlist it would lack the feature.
        schema.feature.add(name=name, type=schema_pb2.BYTES).image_domain.SetInParent()
    return tfdv.StatsOptions(
        schema=schema,
        num_rank_histogram_buckets=_MOST_CLASSES,  # with the default of 1,000 further classes would seem to be missing
        num_quantiles_histogram_buckets=_QUANTILES,
        desired_batch_size=1,  # otherwise up to 128 batches wait until each has 1,000 images
    )


def infer_schema(statistics: Mapping[str, DatasetFeatureStatisticsList]) -> schema_pb2.Schema:
    """Infer the schema from the statistics by split, with all classes as the domain of the label.

    TFDV alone makes a bool_domain of the labels 0 and 1, an int_domain without bounds of the labels 1, 2 and 3, and no
    domain of more than 100 labels.
    """
    first, *others = statistics.values()
    schema = tfdv.infer_schema(first)
    for other in others:
        schema = tfdv.update_schema(schema, other)
    tfdv.get_feature(schema, features.LABEL).domain = features.LABEL
    domain = next((each for each in schema.string_domain if each.name == features.LABEL), None)
    if domain is None:
        domain = schema.string_domain.add(name=features.LABEL)
    domain.value[:] = labels(statistics)
    return schema


def labels(statistics: Mapping[str, DatasetFeatureStatisticsList]) -> list[str]:
    """Return the classes of all splits, sorted."""
    return sorted({label for each in statistics.values() for label in counts(each, features.LABEL)})


def feature_of(statistics: DatasetFeatureStatisticsList, name: str) -> FeatureNameStatistics | None:
    """Return a feature's statistics; None if there are none."""
    return next((each for each in statistics.datasets[0].features if list(each.path.step) == [name]), None)


def counts(statistics: DatasetFeatureStatisticsList, name: str) -> dict[str, int]:
    """Return the number of images with each value of a feature in `WORDS`."""
    feature = feature_of(statistics, name)
    buckets = feature.string_stats.rank_histogram.buckets if feature is not None else []
    return {bucket.label: int(bucket.sample_count) for bucket in buckets}


def examples(statistics: DatasetFeatureStatisticsList) -> int:
    """Return the number of images."""
    return int(statistics.datasets[0].num_examples)


def chance(first: int, second: int, cells: int) -> float:
    """Return the Jensen-Shannon divergence that two samples of one distribution exceed once in 10,000 times.

    8 ln 2 times the divergence, divided by 1/first + 1/second, approaches chi-squared with cells - 1 degrees of
    freedom. Its tail is bounded as in Laurent and Massart (2000), lemma 1.
    `first` and `second` are the numbers of examples, `cells` is the number of values, or of ranges of values.
    """
    if not first or not second:
        return math.inf
    free = cells - 1
    bound = free + 2 * math.sqrt(free * _TAIL) + 2 * _TAIL
    return bound * (1 / first + 1 / second) / (8 * math.log(2))


def edges(feature: FeatureNameStatistics) -> np.ndarray:
    """Return the distinct deciles of a number with its smallest and largest value, float [1..11], ascending."""
    buckets = _quantiles(feature)
    inner = [buckets[tenth].low_value for tenth in _TENTHS if tenth < len(buckets)]
    return np.unique([buckets[0].low_value, *inner, buckets[-1].high_value])


def regroup(feature: FeatureNameStatistics, at: np.ndarray) -> None:
    """Replace a number's histograms in place by histograms of the ranges below, between and above `at`.

    TFDV compares two histograms as if values were spread evenly in each range. In a histogram of even widths one large
    image widens all ranges. In a histogram of quantiles a size that many images share is a range without width, whose
    share changes by chance. Both make equal distributions look different, so they are first counted in the same ranges.
    """
    below, upto = _distribution(feature, at)
    shares = np.diff([0, below[0], *(upto[1:] if len(at) > 1 else upto), 1])
    total = feature.num_stats.common_stats.num_non_missing
    del feature.num_stats.histograms[:]
    for kind in (Histogram.STANDARD, Histogram.QUANTILES):
        histogram = feature.num_stats.histograms.add(type=kind)
        for place, share in enumerate(shares):
            histogram.buckets.add(low_value=place, high_value=place + 1, sample_count=max(share, 0) * total)


def _distribution(feature: FeatureNameStatistics, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of values below each of `at`, and below or equal to it: floats of the shape of `at`."""
    buckets = _quantiles(feature)
    low, high, count = np.array([(each.low_value, each.high_value, each.sample_count) for each in buckets]).T
    width = high - low
    part = np.clip((at[:, None] - low) / np.where(width > 0, width, 1), 0, 1)
    points = width == 0
    below = np.where(points, low < at[:, None], part) @ count
    upto = np.where(points, low <= at[:, None], part) @ count
    return below / count.sum(), upto / count.sum()


def _quantiles(feature: FeatureNameStatistics) -> list[Histogram.Bucket]:
    (histogram,) = (each for each in feature.num_stats.histograms if each.type == Histogram.QUANTILES)
    return list(histogram.buckets)
