"""The statistics that this run's are compared with: those of the last run that went through, as files of the workspace.

A Resolver would find those of a run that was stopped too, for StatisticsGen had ended well; and an unchanged run would
have another input than the one before it, and so be no run from the cache. On Vertex metadata can't be edited either.

A run of the same images as the last is compared with what that one was compared with: nothing changed since, so the
same is found. Each number of a folder is one run that went through; of all but two the files are removed.
"""

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import tensorflow as tf
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList

_LAST = "last.json"


@dataclass(frozen=True)
class Run:
    """One that went through."""

    number: int  # from 1
    images: str  # fingerprint of its images; "" when nobody knew it
    compared_with: int  # number of another run, 0 for none


def reference(folder: str, images: str) -> int:
    """The number of the run to compare with, 0 when there is none.

    Args:
      folder: path or URI; need not be there.
      images: fingerprint of this run's images, "" when unknown.
    """
    last = _last(folder)
    if last is None:
        return 0
    return last.compared_with if images and last.images == images else last.number


def load(folder: str, number: int) -> dict[str, DatasetFeatureStatisticsList] | None:
    """The statistics of a run by split, None when there is no such run or its file is gone."""
    if not number or not tf.io.gfile.exists(_file(folder, number)):
        return None
    with tf.io.gfile.GFile(_file(folder, number), "rb") as file:
        every = DatasetFeatureStatisticsList.FromString(file.read())
    return {each.name: DatasetFeatureStatisticsList(datasets=[each]) for each in every.datasets}


def accept(
    folder: str, images: str, compared_with: int, statistics: Mapping[str, DatasetFeatureStatisticsList]
) -> None:
    """Makes a run the last that went through. Killed at any moment, it leaves that run or the one before.

    Args:
      folder: path or URI, made when it is not there.
      images: fingerprint of the run's images, "" when unknown.
      compared_with: what `reference` said.
      statistics: by split.
    """
    last = _last(folder)
    run = Run((last.number if last else 0) + 1, images, compared_with)
    every = DatasetFeatureStatisticsList()
    for split, each in statistics.items():
        every.datasets.add().CopyFrom(each.datasets[0])
        every.datasets[-1].name = split
    tf.io.gfile.makedirs(folder)
    _write(_file(folder, run.number), every.SerializeToString())
    _write(os.path.join(folder, _LAST), json.dumps(asdict(run)).encode())
    kept = {os.path.basename(_file(folder, number)) for number in (run.number, run.compared_with)} | {_LAST}
    for name in set(tf.io.gfile.listdir(folder)) - kept:
        tf.io.gfile.remove(os.path.join(folder, name))


def _last(folder: str) -> Run | None:
    path = os.path.join(folder, _LAST)
    if not tf.io.gfile.exists(path):
        return None
    with tf.io.gfile.GFile(path) as file:
        return Run(**json.loads(file.read()))


def _file(folder: str, number: int) -> str:
    return os.path.join(folder, f"{number:06}.pb")


def _write(path: str, data: bytes) -> None:
    """Whole or not at all."""
    aside = f"{path}-{uuid.uuid4().hex}"
    with tf.io.gfile.GFile(aside, "wb") as file:
        file.write(data)
    tf.io.gfile.rename(aside, path, overwrite=True)
