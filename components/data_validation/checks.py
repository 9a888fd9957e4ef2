"""The checks, by TFDV: statistics against a schema and against the last run, and the train against the eval split."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import path_pb2, schema_pb2
from tensorflow_metadata.proto.v0.anomalies_pb2 import Anomalies, AnomalyInfo, DriftSkewInfo
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList, FeatureNameStatistics

from graftline import features, lookalikes
from graftline.components.data_validation import statistics
from graftline.components.data_validation.findings import Finding
from graftline.components.data_validation.settings import ValidationSettings

# Anomalies of features that a curated schema does not name, and those that `_distribution_findings` reports.
_NOT_VIOLATIONS = (
    AnomalyInfo.SCHEMA_NEW_COLUMN,
    AnomalyInfo.COMPARATOR_L_INFTY_HIGH,
    AnomalyInfo.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH,
    AnomalyInfo.COMPARATOR_CONTROL_DATA_MISSING,
    AnomalyInfo.COMPARATOR_TREATMENT_DATA_MISSING,
)
_SHOWN = 10
_BEFORE = "the last run of other images"

Splits = Mapping[str, DatasetFeatureStatisticsList]


class Result(NamedTuple):
    """The result of the checks."""

    findings: list[Finding]
    anomalies: dict[str, Anomalies]  # TFDV's anomalies by split


def validate(
    now: Splits, schema: schema_pb2.Schema, schema_file: str, before: Splits | None, settings: ValidationSettings
) -> Result:
    """Run all checks on a run's statistics.

    Args:
        now: this run's statistics by split, made with `statistics.stats_options`; they include "train" and "eval".
        schema: inferred from this run's images, or curated.
        schema_file: path of the curated schema, for messages; "" for an inferred schema.
        before: the statistics of the last run of other images; None if there was none.
        settings: thresholds and actions.
    """
    domain = tfdv.get_domain(schema, features.LABEL) if schema_file and _has_domain(schema) else None
    expected = list(domain.value) if domain is not None else statistics.labels(before) if before else None
    source = f"data.schema_file {schema_file}" if domain is not None else _BEFORE
    asked = copy.deepcopy(schema)
    if expected is not None and domain is None:
        _of(asked, features.LABEL).string_domain.CopyFrom(schema_pb2.StringDomain(value=expected))
    train, drifted, skewed = _comparable(now, before)
    _set_thresholds(asked, train, drifted, skewed, settings)
    anomalies = {split: tfdv.validate_statistics(each, asked) for split, each in now.items() if split != features.TRAIN}
    anomalies[features.TRAIN] = tfdv.validate_statistics(
        train, asked, previous_statistics=drifted, serving_statistics=skewed
    )
    findings: list[Finding] = []
    if expected is not None:
        findings += _label_findings(now, anomalies, expected, source, domain is not None, settings)
    findings += _distribution_findings(anomalies[features.TRAIN], now, before, settings)
    if schema_file:
        findings += _violations(anomalies, schema_file, settings)
    return Result(findings, anomalies)


def _has_domain(schema: schema_pb2.Schema) -> bool:
    return _of(schema, features.LABEL).WhichOneof("domain_info") in ("domain", "string_domain")


def _label_findings(
    now: Splits,
    anomalies: Mapping[str, Anomalies],
    expected: list[str],
    source: str,
    curated: bool,
    settings: ValidationSettings,
) -> Iterator[Finding]:
    """Yield the findings of new labels, which TFDV checks, and of missing labels, which TFDV does not check."""
    present = statistics.labels(now)
    new = tuple(label for label in present if label not in set(expected))
    if new and any(_is_new_label(path, reason) for each in anomalies.values() for path, reason in _reasons(each)):
        images = sum(statistics.counts(each, features.LABEL).get(label, 0) for each in now.values() for label in new)
        yield Finding(
            check="new_label",
            # Without a curated schema there is no list of allowed classes.
            action=settings.new_label if curated else "warn",
            feature=features.LABEL,
            message=f"{_classes(new)} ({images:,} image{'' if images == 1 else 's'}): not in {source}"
            f"{_describe_lookalikes(new, expected)}",
            advice="Rename wrong classes, and add correct ones to the domain of image/class/text in the schema file",
            classes=new,
        )
    missing = tuple(label for label in expected if label not in set(present))
    if missing:
        yield Finding(
            check="missing_class",
            action=settings.missing_class,
            feature=features.LABEL,
            message=f"{_classes(missing)}: in {source}, but without images in this run",
            advice="Put the images back" + (", or remove the class from the schema file" if curated else ""),
            classes=missing,
        )


def _describe_lookalikes(new: Sequence[str], expected: Sequence[str]) -> str:
    """Return a clause on new labels that look like expected ones; "" for none."""
    pairs = [
        f"{lookalikes.show(one)} looks like {lookalikes.show(other)}" for one, other in lookalikes.match(new, expected)
    ]
    return f"; {', '.join(pairs[:_SHOWN])}" if pairs else ""


def _is_new_label(path: path_pb2.Path, reason: AnomalyInfo.Reason) -> bool:
    unexpected = AnomalyInfo.ENUM_TYPE_UNEXPECTED_STRING_VALUES
    return list(path.step) == [features.LABEL] and reason.type == unexpected


def _classes(labels: tuple[str, ...]) -> str:
    shown = ", ".join(f"'{label}'" for label in labels[:_SHOWN])
    more = f" and {len(labels) - _SHOWN:,} more" if len(labels) > _SHOWN else ""
    return f"{'class' if len(labels) == 1 else 'classes'} {shown}{more}"


def _comparable(
    now: Splits, before: Splits | None
) -> tuple[DatasetFeatureStatisticsList, DatasetFeatureStatisticsList | None, DatasetFeatureStatisticsList]:
    """Return copies of the statistics of train, of the earlier train and of eval, with numbers in the same ranges."""
    train, skewed = copy.deepcopy(now[features.TRAIN]), copy.deepcopy(now[features.EVAL])
    drifted = copy.deepcopy(before[features.TRAIN]) if before else None
    for name in statistics.NUMBERS:
        ours = statistics.feature_of(train, name)
        if ours is None:
            continue
        at = statistics.edges(ours)
        for each in (ours, statistics.feature_of(skewed, name), drifted and statistics.feature_of(drifted, name)):
            if each is not None:
                statistics.regroup(each, at)
    return train, drifted, skewed


def _set_thresholds(
    schema: schema_pb2.Schema,
    train: DatasetFeatureStatisticsList,
    drifted: DatasetFeatureStatisticsList | None,
    skewed: DatasetFeatureStatisticsList,
    settings: ValidationSettings,
) -> None:
    """Add thresholds to the schema in place, except for features that already have a comparator."""
    for name, kind in statistics.TYPES.items():
        ours = statistics.feature_of(train, name)
        for other, threshold, comparator in (
            (drifted, settings.drift_threshold, "drift_comparator"),
            (skewed, settings.skew_threshold, "skew_comparator"),
        ):
            theirs = statistics.feature_of(other, name) if other is not None else None
            if ours is None or theirs is None:
                continue
            cells = len(_shares(ours).keys() | _shares(theirs).keys())
            least = statistics.chance(statistics.examples(train), statistics.examples(other), cells)
            feature = next((each for each in schema.feature if each.name == name), None)
            if feature is None:
                feature = schema.feature.add(name=name, type=kind)
            # With few images the threshold is higher; with too few for any conclusion there is no comparator.
            if least < 1 and not feature.HasField(comparator):
                getattr(feature, comparator).jensen_shannon_divergence.threshold = max(threshold, least)


def _distribution_findings(
    anomalies: Anomalies, now: Splits, before: Splits | None, settings: ValidationSettings
) -> Iterator[Finding]:
    """Yield the distributions that TFDV measured beyond a threshold: drift first."""
    changed = "Check the images that were added and removed since then"
    for check, action, other, between, advice in (
        ("drift", settings.drift, before and before[features.TRAIN], _BEFORE, changed),
        ("skew", settings.skew, now[features.EVAL], "the eval split", "Check how the images were split"),
    ):
        for info in anomalies.drift_skew_info:
            name = ".".join(info.path.step)
            for measured in getattr(info, f"{check}_measurements"):
                if measured.value > measured.threshold:
                    message = _difference(name, measured, now[features.TRAIN], other, between)
                    yield Finding(
                        check, action, name, message, advice, value=measured.value, threshold=measured.threshold
                    )


def _difference(
    name: str,
    measured: DriftSkewInfo.Measurement,
    train: DatasetFeatureStatisticsList,
    other: DatasetFeatureStatisticsList,
    between: str,
) -> str:
    ours, theirs = statistics.feature_of(train, name), statistics.feature_of(other, name)
    values = f": {_in_words(ours, theirs)}" if ours is not None and theirs is not None else ""
    distance = "Jensen-Shannon divergence" if measured.type == measured.JENSEN_SHANNON_DIVERGENCE else "distance"
    return (
        f"{name} of the train split differs from {between}{values}; {distance} {measured.value:.2f}, the "
        f"threshold is {measured.threshold:.2f}"
    )


def _shares(feature: FeatureNameStatistics) -> dict[str, float]:
    """Return the share of each value or, after `statistics.regroup`, of each range."""
    if feature.HasField("num_stats"):
        sizes = {str(each.low_value): each.sample_count for each in feature.num_stats.histograms[0].buckets}
    else:
        sizes = {each.label: each.sample_count for each in feature.string_stats.rank_histogram.buckets}
    total = sum(sizes.values())
    return {value: count / total for value, count in sizes.items()}


def _in_words(ours: FeatureNameStatistics, theirs: FeatureNameStatistics) -> str:
    if ours.HasField("num_stats") and theirs.HasField("num_stats"):
        return f"median {ours.num_stats.median:.4g} against {theirs.num_stats.median:.4g}"
    here, there = _shares(ours), _shares(theirs)
    most = sorted(here.keys() | there.keys(), key=lambda value: -abs(here.get(value, 0) - there.get(value, 0)))[:2]
    return ", ".join(f"'{value}' {here.get(value, 0):.0%} against {there.get(value, 0):.0%}" for value in most)


def _violations(anomalies: Mapping[str, Anomalies], schema_file: str, settings: ValidationSettings) -> list[Finding]:
    """Return all other anomalies against a curated schema, each once for all splits."""
    anomalous: dict[tuple[str, int], tuple[str, list[str]]] = {}
    for split, each in sorted(anomalies.items()):
        for path, reason in _reasons(each):
            if reason.type not in _NOT_VIOLATIONS and not _is_new_label(path, reason):
                _, splits = anomalous.setdefault((".".join(path.step), reason.type), (reason.description, []))
                splits.append(split)
    return [
        Finding(
            check="schema_violation",
            action=settings.schema_violation,
            feature=name,
            message=f"data.schema_file {schema_file}: {name or 'the data set'} in {' and '.join(splits)}: "
            + what.rstrip(". "),
            advice="Correct the images, or change the schema file",
        )
        for (name, _), (what, splits) in anomalous.items()
    ]


def _reasons(anomalies: Anomalies) -> Iterator[tuple[path_pb2.Path, AnomalyInfo.Reason]]:
    infos = [*anomalies.anomaly_info.values(), anomalies.dataset_anomaly_info]
    return ((info.path, reason) for info in infos for reason in info.reason)


def _of(schema: schema_pb2.Schema, name: str) -> schema_pb2.Feature:
    return next(feature for feature in schema.feature if feature.name == name)
