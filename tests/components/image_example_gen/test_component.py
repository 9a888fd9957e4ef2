"""Tests of ImageExampleGen as a node: TFX reads its records, caches it and compiles it."""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that
from tfx import v1 as tfx
from tfx.components.util import tfxio_utils
from tfx_bsl.tfxio import dataset_options

from graftline import features
from graftline.components.image_example_gen.component import ImageExampleGen
from graftline.components.image_example_gen.fingerprint import fingerprint
from graftline.components.image_example_gen.scan import scan
from graftline.errors import UserError
from tests.components.image_example_gen.ingested import SETTINGS, execute, text
from tests.folders import write_file
from tests.images import encode_noise, write_noise_folder


def test_tfx_reads_the_records_by_beam_and_by_tf_data(tmp_path: pathlib.Path) -> None:
    result = execute(write_noise_folder(tmp_path / "photos", cats=4, dogs=4), tmp_path)
    expected = sorted(text(e, features.LABEL) for e in result.records("train"))

    def as_written(batches: list[Any]) -> None:
        assert labels_of(batches) == expected

    with beam.Pipeline() as pipeline:
        assert_that(
            pipeline | tfxio_utils.get_split_tfxio([result.examples], "train", ["test"]).BeamSource(), as_written
        )
    files = [f"{result.examples.uri}/Split-train/*"]
    read = tfxio_utils.get_record_batch_factory_from_artifact([result.examples], ["test"])
    assert labels_of(read(files, dataset_options.RecordBatchesOptions(batch_size=3, num_epochs=1), None)) == expected


def labels_of(batches: Iterable[Any]) -> list[bytes]:
    return sorted(label for batch in batches for (label,) in batch.to_pydict()[features.LABEL])


def pipeline_of(images: pathlib.Path, workspace: pathlib.Path) -> tfx.dsl.Pipeline:
    gen = ImageExampleGen(
        images=[str(images)],
        fingerprint=fingerprint(scan(images)),
        settings=SETTINGS,
        report_dir=str(workspace / "reports"),
        code="1",
    )
    database = tfx.orchestration.metadata.sqlite_metadata_connection_config(str(workspace / "metadata.db"))
    return tfx.dsl.Pipeline(
        pipeline_name="ingest",
        pipeline_root=str(workspace / "artifacts"),
        components=[gen],
        enable_cache=True,
        metadata_connection_config=database,
    )


def test_as_a_node_it_is_cached_until_the_content_of_a_file_changes(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=4, dogs=4)
    picture = write_file(images, "cats/picture.bmp", encode_noise(1000, "BMP"))
    executions = tmp_path / "artifacts/ImageExampleGen/examples"

    def run() -> list[str]:
        tfx.orchestration.LocalDagRunner().run(pipeline_of(images, tmp_path))
        return sorted(os.listdir(executions), key=int)

    first = run()
    assert len(first) == 1
    assert (executions / first[0] / "Split-train/data_tfrecord-00000-of-00001").is_file()
    assert run() == first
    stat = picture.stat()
    picture.write_bytes(encode_noise(1001, "BMP"))
    os.utime(picture, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert picture.stat().st_size == stat.st_size
    second = run()
    assert len(second) == 2

    picture.write_bytes(b"<html>")  # one bad file of nine is more than the default allows
    with pytest.raises(UserError, match=r"1 of 9 files \(11.1%\) cannot be used"):
        run()
    assert "cats/picture.bmp" in (tmp_path / "reports/quarantine.csv").read_text()
    assert sorted(os.listdir(executions), key=int) == second


def test_as_a_node_it_compiles_for_vertex(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=2, dogs=2)
    experimental = tfx.orchestration.experimental
    runner = experimental.KubeflowV2DagRunner(
        experimental.KubeflowV2DagRunnerConfig(default_image="graftline"), output_filename=str(tmp_path / "job.json")
    )
    runner.run(pipeline_of(images, tmp_path))
    spec = json.loads((tmp_path / "job.json").read_text())["pipelineSpec"]
    assert list(spec["components"]) == ["ImageExampleGen"]
    parameters = spec["root"]["dag"]["tasks"]["ImageExampleGen"]["inputs"]["parameters"]
    assert {"images", "fingerprint", "settings"} <= set(parameters)
