"""The statistics of earlier runs, kept as files of the workspace for the next run to be compared with.

Only runs that passed validation are kept. A Resolver would also find the statistics of a run that was stopped, because
its StatisticsGen had succeeded. An unchanged run would then have another input than the run before it and would not
come from the cache.

A run with the images of the last run is compared with the same run as that one, so its findings are the same. Each
number in the folder is one run that passed; all files but two are removed.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList

from graftline import disk

_LAST = "last.json"


@dataclass(frozen=True)
class PassedRun:
    """A run that passed validation."""

    number: int  # from 1
    images: str  # fingerprint of its images; "" if unknown
    compared_with: int  # number of another run; 0 for none


def reference(folder: str, images: str) -> int:
    """Return the number of the run to compare with; 0 if there is none. The folder need not exist.

    `images` is the fingerprint of this run's images; "" if unknown.
    """
    last = _last(folder)
    if last is None:
        return 0
    return last.compared_with if images and last.images == images else last.number


def load(folder: str, number: int) -> dict[str, DatasetFeatureStatisticsList] | None:
    """Return the statistics of a run by split; None if there is no such run or its file is missing or damaged."""
    if not number or not tf.io.gfile.exists(_file(folder, number)):
        return None
    with tf.io.gfile.GFile(_file(folder, number), "rb") as file:
        content = file.read()
    try:
        every = DatasetFeatureStatisticsList.FromString(content)
    except DecodeError:
        every = DatasetFeatureStatisticsList()
    if not every.datasets:
        logging.warning("%s is damaged: these images are compared with no earlier run", _file(folder, number))
        return None
    return {each.name: DatasetFeatureStatisticsList(datasets=[each]) for each in every.datasets}


def accept(
    folder: str, images: str, compared_with: int, statistics: Mapping[str, DatasetFeatureStatisticsList]
) -> None:
    """Keep this run as the last that passed; `compared_with` is the result of `reference`.

    If the process is killed, this run or the one before is the last.
    """
    last = _last(folder)
    run = PassedRun((last.number if last else 0) + 1, images, compared_with)
    every = DatasetFeatureStatisticsList()
    for split, each in statistics.items():
        every.datasets.add().CopyFrom(each.datasets[0])
        every.datasets[-1].name = split
    disk.write(_file(folder, run.number), every.SerializeToString())
    disk.write(os.path.join(folder, _LAST), json.dumps(asdict(run)).encode())
    kept = {os.path.basename(_file(folder, number)) for number in (run.number, run.compared_with)} | {_LAST}
    for name in set(tf.io.gfile.listdir(folder)) - kept:
        tf.io.gfile.remove(os.path.join(folder, name))


def _last(folder: str) -> PassedRun | None:
    path = os.path.join(folder, _LAST)
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        fields = json.loads(content)
        return PassedRun(int(fields["number"]), str(fields["images"]), int(fields["compared_with"]))
    except (ValueError, TypeError, KeyError) as error:  # what a power loss or another hand left
        logging.warning("%s is damaged (%s): these images are compared with no earlier run", path, error)
        return None


def _file(folder: str, number: int) -> str:
    return os.path.join(folder, f"{number:06}.pb")
