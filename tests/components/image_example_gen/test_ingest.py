"""ImageExampleGen run for real: its executor on Beam's direct runner, and the component through a TFX runner."""

import csv
import hashlib
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that
from PIL import Image
from tfx import v1 as tfx
from tfx.components.util import tfxio_utils
from tfx.types import artifact_utils, standard_artifacts
from tfx_bsl.tfxio import dataset_options

from graftline import features
from graftline.components.image_example_gen import ingest
from graftline.components.image_example_gen.artifacts import Quarantine
from graftline.components.image_example_gen.component import ImageExampleGen
from graftline.components.image_example_gen.decoding import Quarantined
from graftline.components.image_example_gen.executor import Executor
from graftline.components.image_example_gen.fingerprint import fingerprint
from graftline.components.image_example_gen.layouts import File, Roots
from graftline.components.image_example_gen.scan import scan
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.errors import UserError
from tests.assets import ASSETS, FLOWERS, needs_assets
from tests.folders import write_file
from tests.images import encode_noise, write_noise_folder

SETTINGS = IngestSettings(eval_fraction=0.3)
ALL_FEATURES = {
    features.IMAGE,
    features.FORMAT,
    features.FILENAME,
    features.SHA256,
    features.HEIGHT,
    features.WIDTH,
    features.LABEL,
    features.BRIGHTNESS,
    features.CONTRAST,
    features.SHARPNESS,
}


class Result:
    """What one execution left."""

    def __init__(self, place: pathlib.Path) -> None:
        self.examples = standard_artifacts.Examples()
        self.examples.uri = str(place / "examples")
        self.quarantine = Quarantine()
        self.quarantine.uri = str(place / "quarantine")

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(pathlib.Path(self.quarantine.uri, "summary.json").read_text())

    @property
    def refused(self) -> dict[str, str]:
        with pathlib.Path(self.quarantine.uri, "quarantine.csv").open(newline="") as file:
            return {row["path"]: row["reason"] for row in csv.DictReader(file)}

    def shards(self) -> dict[str, bytes]:
        root = pathlib.Path(self.examples.uri)
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    def records(self, split: str) -> list[tf.train.Example]:
        files = sorted(str(p) for p in pathlib.Path(self.examples.uri, f"Split-{split}").iterdir())
        return [tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(files)]

    def paths(self) -> dict[str, str]:
        """path: split"""
        return {text(e, features.FILENAME).decode(): s for s in features.SPLITS for e in self.records(s)}


def text(example: tf.train.Example, name: str) -> bytes:
    return example.features.feature[name].bytes_list.value[0]


def execute(
    images: pathlib.Path | list[str],
    place: pathlib.Path,
    report_dir: pathlib.Path | None = None,
    state: pathlib.Path | None = None,
    **changed: Any,
) -> Result:
    result = Result(place)
    properties = {
        "images": json.dumps(images if isinstance(images, list) else [str(images)]),
        "fingerprint": "",
        "settings": IngestSettings(**{"eval_fraction": 0.3, **changed}).model_dump_json(),
        "report_dir": report_dir and str(report_dir),
        "state": state and str(state),
    }
    context = Executor.Context(beam_pipeline_args=[], tmp_dir=str(place), unique_id="1")
    outputs = {"examples": [result.examples], "quarantine": [result.quarantine]}
    Executor(context).Do({}, outputs, properties)
    return result


def test_every_image_comes_back_with_all_its_features(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=12, dogs=9)
    write_file(images, "dogs/sub folder/Größe 1.PNG", encode_noise(99, "PNG", size=(20, 30)))
    result = execute(images, tmp_path)
    seen = set()
    for split in features.SPLITS:
        for example in result.records(split):
            assert set(example.features.feature) == ALL_FEATURES
            path, data = text(example, features.FILENAME).decode(), text(example, features.IMAGE)
            assert data == (images / path).read_bytes()
            assert text(example, features.SHA256).decode() == hashlib.sha256(data).hexdigest()
            assert text(example, features.LABEL).decode() == path.split("/")[0]
            seen.add(path)
            if path.endswith(".PNG"):
                numbers = [example.features.feature[n].int64_list.value[0] for n in (features.HEIGHT, features.WIDTH)]
                assert numbers == [30, 20]
                assert text(example, features.FORMAT) == b"png"
    assert seen == {file.path for file in scan(images).files}
    assert set(result.shards()) == {f"Split-{s}/data_tfrecord-00000-of-00001" for s in features.SPLITS}
    assert result.summary["found"] == result.summary["examples"] == 22
    assert result.quarantine.get_int_custom_property("examples") == 22
    assert artifact_utils.decode_split_names(result.examples.split_names) == ["train", "eval"]


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


def test_bad_files_duplicates_and_conflicts_are_all_accounted_for(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=10, dogs=10)
    write_file(images, "cats/copy of 3.jpg", (images / "cats/3.jpg").read_bytes())
    write_file(images, "dogs/really a cat.jpg", (images / "cats/4.jpg").read_bytes())
    os.link(images / "dogs/1.jpg", images / "dogs/zz hard link.jpg")
    (images / "dogs/zzz link.jpg").symlink_to("2.jpg")
    write_file(images, "cats/empty.jpg", b"")
    write_file(images, "cats/empty again.jpg", b"")
    write_file(images, "cats/page.jpg", b"<html>404</html>")
    write_file(images, "dogs/cut.jpg", encode_noise(50)[:-300])
    write_file(images, "dogs/new\nline.jpg", encode_noise(51))
    write_file(images, "dogs/notes.txt", b"not a picture")
    os.mkfifo(images / "dogs/pipe.jpg")
    (images / "dogs/gone.jpg").symlink_to("nowhere")
    result = execute(images, tmp_path, max_bad_fraction=0.5)
    assert result.refused == {
        "cats/empty.jpg": "empty file",
        "cats/empty again.jpg": "empty file",
        "cats/page.jpg": "not an image: starts with '<html>40'",
        "dogs/cut.jpg": "truncated JPEG",
        r"dogs/new\nline.jpg": "name is not printable UTF-8 text",
        "dogs/notes.txt": "not an image: starts with 'not a pi'",
        "dogs/pipe.jpg": "not a file: a named pipe",
        "dogs/gone.jpg": "broken link",
    }
    summary = result.summary
    assert (summary["examples"], summary["quarantined"], summary["duplicates"], summary["found"]) == (21, 8, 3, 32)
    assert summary["conflict_paths"] == [["cats/4.jpg", "dogs/really a cat.jpg"]]
    assert "dogs/zz hard link.jpg" not in result.paths()
    assert result.paths()["cats/4.jpg"] == result.paths()["dogs/really a cat.jpg"]
    assert list(summary["by_reason"])[:2] == ["empty file", "not an image"]


def ingested(images: pathlib.Path, place: pathlib.Path, *beam_args: str) -> dict[str, bytes]:
    """The shards, of 50 images each."""
    result = Result(place)
    with beam.Pipeline(argv=list(beam_args)) as pipeline:
        ingest.ingest(pipeline, scan(images), result.examples.uri, result.quarantine.uri, SETTINGS, images_per_shard=50)
    ingest.clean_up(result.examples.uri)
    return result.shards()


def test_the_shards_are_the_same_bytes_whatever_the_workers(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=90, dogs=90)
    once = ingested(images, tmp_path / "1")
    assert len(once) == 5
    workers = ("--direct_running_mode=multi_threading", "--direct_num_workers=3")
    assert ingested(images, tmp_path / "2", *workers) == once


@pytest.mark.slow
def test_the_shards_are_the_same_bytes_from_several_processes(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=90, dogs=90)
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert ingested(images, tmp_path / "2", *workers) == ingested(images, tmp_path / "1")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_bytes_of_the_images(tmp_path: pathlib.Path) -> None:
    """Peak memory over 1.2 GB of images is near that over a tenth of them."""
    images = tmp_path / "photos"
    one = encode_noise(0, "BMP", size=(1000, 1000))  # 3 MB
    for i in range(400):
        write_file(images, f"{'ab'[i % 2]}/{i}.bmp", one[:-8] + i.to_bytes(8, "big"))
    few = tmp_path / "few"
    for i in range(40):
        write_file(few, f"{'ab'[i % 2]}/{i}.bmp", one[:-8] + i.to_bytes(8, "big"))
    assert peak_megabytes(images, tmp_path / "1") < peak_megabytes(few, tmp_path / "2") + 200


def peak_megabytes(images: pathlib.Path, place: pathlib.Path) -> float:
    code = """
import resource, sys
import apache_beam as beam
from graftline.components.image_example_gen import ingest
from graftline.components.image_example_gen.scan import scan
from graftline.components.image_example_gen.settings import IngestSettings
with beam.Pipeline() as pipeline:
    uris = sys.argv[2] + "/examples", sys.argv[2] + "/quarantine"
    ingest.ingest(pipeline, scan(sys.argv[1]), *uris, IngestSettings())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    command = [sys.executable, "-c", code, str(images), str(place)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def test_added_images_move_no_old_one(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=20, dogs=20)
    before = execute(images, tmp_path / "1").paths()
    for i in range(20):
        write_file(images, f"cats/more/{i}.jpg", encode_noise(1000 + i))
        write_file(images, f"birds/{i}.jpg", encode_noise(2000 + i))
    after = execute(images, tmp_path / "2").paths()
    assert {path: after[path] for path in before} == before
    assert len(after) == 80


def test_tiny_classes_have_an_image_on_both_sides(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", **{f"c{i}": 2 for i in range(20)})
    result = execute(images, tmp_path)
    assert all((counts["train"], counts["eval"]) == (1, 1) for counts in result.summary["by_class"].values())


def test_a_bad_file_never_costs_a_class_its_side(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", **{f"c{i}": 2 for i in range(10)})
    for i in range(10):
        write_file(images, f"c{i}/bad.jpg", encode_noise(500 + i)[:-100])
    counts = execute(images, tmp_path, max_bad_fraction=0.5).summary["by_class"].values()
    assert all((c["train"], c["eval"], c["quarantined"]) == (1, 1, 1) for c in counts)


def test_a_refused_run_leaves_the_list_where_the_message_says(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=4, dogs=4)
    write_file(images, "cats/page.jpg", b"<html>404</html>")
    with pytest.raises(UserError, match=r"1 of 9 files \(11.1%\) cannot be used") as error:
        execute(images, tmp_path / "run", report_dir=tmp_path / "reports")
    kept = tmp_path / "reports/quarantine.csv"
    assert f"The full list is in {kept}." in str(error.value)
    assert "cats/page.jpg" in kept.read_text()


def test_an_image_stays_in_its_split_and_what_is_nearly_it_follows(tmp_path: pathlib.Path) -> None:
    images, state = write_noise_folder(tmp_path / "photos", cats=10, dogs=10), tmp_path / "state"
    before = execute(images, tmp_path / "1", state=state).paths()
    assert len(list((state / "splits").iterdir())) == 1
    for path in before:  # the same pictures, compressed anew
        with Image.open(images / path) as image:
            image.save(images / f"{path.removesuffix('.jpg')} again.jpg", quality=80)
    result = execute(images, tmp_path / "2", state=state)
    after = result.paths()
    assert {path: after[path] for path in before} == before
    assert all(after[f"{path.removesuffix('.jpg')} again.jpg"] == split for path, split in before.items())
    assert result.summary["near_copies"] == 40
    page = pathlib.Path(result.quarantine.uri, "duplicates.html").read_text()
    assert page.count("data:image/jpeg") == 40 and "cats/0 again.jpg" in page

    assert result.summary["near_conflicts"] == 0
    (images / "cats/0 again.jpg").rename(images / "dogs/really a cat.jpg")
    mislabelled = execute(images, tmp_path / "4", state=state)
    assert mislabelled.summary["near_conflicts"] == 1
    page = pathlib.Path(mislabelled.quarantine.uri, "duplicates.html").read_text()
    first_group = page.partition("<article>")[2].partition("</article>")[0]
    assert "in several classes" in first_group and "dogs/really a cat.jpg" in first_group
    (images / "dogs/really a cat.jpg").rename(images / "cats/0 again.jpg")

    alone = execute(images, tmp_path / "3", near_duplicates=None).paths()
    assert any(alone[path] != split for path, split in after.items()), "without, hashing parts some of them"


def test_splits_that_the_folders_give_are_kept_and_test_is_one_of_them(tmp_path: pathlib.Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        for i in range(4):
            write_file(tmp_path, f"photos/{split}/{'ab'[i % 2]}/{i}.png", encode_noise(10 * number + i, "PNG"))
    result = execute(tmp_path / "photos", tmp_path)
    assert result.summary["by_split"] == {"train": 4, "eval": 4, "test": 4}
    assert artifact_utils.decode_split_names(result.examples.split_names) == ["train", "eval", "test"]
    assert len(list(pathlib.Path(result.examples.uri, "Split-test").iterdir())) == 1


def test_a_webp_and_a_large_photo_are_stored_as_what_the_serving_graph_reads(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=3, dogs=3)
    write_file(images, "cats/picture.webp", encode_noise(50, "WEBP", size=(90, 60)))
    write_file(images, "dogs/large.jpg", encode_noise(51, size=(400, 300)))
    result = execute(images, tmp_path, max_side=200)
    stored = {text(e, features.FILENAME).decode(): e for s in features.SPLITS for e in result.records(s)}
    for path, size in (("cats/picture.webp", (60, 90)), ("dogs/large.jpg", (150, 200))):
        data = text(stored[path], features.IMAGE)
        assert tf.io.decode_image(data, channels=3).shape[:2] == size
        assert text(stored[path], features.SHA256).decode() == hashlib.sha256(data).hexdigest()
        numbers = [stored[path].features.feature[n].int64_list.value[0] for n in (features.HEIGHT, features.WIDTH)]
        assert tuple(numbers) == size


def test_a_folder_of_broken_images_is_a_users_error(tmp_path: pathlib.Path) -> None:
    for i in range(4):
        write_file(tmp_path, f"photos/{'ab'[i % 2]}/{i}.jpg", encode_noise(i)[:-100])
    with pytest.raises(UserError, match=r"none of 4 files is an image that can be decoded\. Reasons: truncated JPEG"):
        execute(tmp_path / "photos", tmp_path, max_bad_fraction=1.0)


def test_a_file_that_changes_or_vanishes_during_the_run_is_quarantined(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=2, dogs=2)
    roots = Roots((str(images),))
    changed, gone = ingest.check(roots, [File(f"cats/{i}.jpg", "cats") for i in (0, 1)], SETTINGS)
    write_file(images, "cats/0.jpg", encode_noise(77))
    (images / "cats/1.jpg").unlink()
    assert ingest.record_of(roots, changed, SETTINGS) == Quarantined("changed during the run")
    assert ingest.record_of(roots, gone, SETTINGS) == Quarantined("vanished during the run: No such file or directory")


def test_an_unreadable_file_is_quarantined(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=2, dogs=2)

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)  # the tests may run as root, whom no permission stops

    monkeypatch.setattr(os, "open", refuse)
    (row,) = ingest.check(Roots((str(images),)), [File("cats/0.jpg", "cats")], SETTINGS)
    assert row.verdict == Quarantined("unreadable: Permission denied")


def test_a_shard_appears_whole_or_not_at_all(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=4, dogs=4)
    really, calls = ingest.record_of, []

    def fail_at_the_third(roots: Roots, row: Any, settings: IngestSettings) -> bytes | Quarantined:
        calls.append(row)
        if len(calls) == 3:
            raise MemoryError
        return really(roots, row, settings)

    monkeypatch.setattr(ingest, "record_of", fail_at_the_third)
    with pytest.raises((MemoryError, RuntimeError)):
        execute(images, tmp_path)
    left = [p for p in (tmp_path / "examples").rglob("*") if p.is_file()]
    assert left and all(p.parent.name == "aside" for p in left)
    monkeypatch.setattr(ingest, "record_of", really)
    assert all(path.startswith("Split-") for path in execute(images, tmp_path).shards())


def test_what_crosses_a_shuffle_is_small_whatever_the_image(tmp_path: pathlib.Path) -> None:
    write_file(tmp_path, "cats/large.jpg", encode_noise(1, size=(2000, 1500)))
    (row,) = ingest.check(Roots((str(tmp_path),)), [File("cats/large.jpg", "cats")], SETTINGS)
    assert row.size > 1 << 20
    assert len(pickle.dumps(row)) < 1000


def test_beams_workers_import_no_tfx() -> None:
    code = "import sys, graftline.components.image_example_gen.ingest; print('tfx' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


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


@needs_assets
def test_real_flowers_are_all_ingested(tmp_path: pathlib.Path) -> None:
    result = execute(FLOWERS, tmp_path, eval_fraction=0.2)
    assert result.summary["examples"] == 600
    assert 0.15 < result.summary["by_split"]["eval"] / 600 < 0.25
    for split in features.SPLITS:
        for example in result.records(split):
            shape = tf.io.decode_image(text(example, features.IMAGE), channels=3).shape
            numbers = [example.features.feature[n].int64_list.value[0] for n in (features.HEIGHT, features.WIDTH)]
            assert numbers == shape[:2]


@needs_assets
def test_other_projects_awkward_images_are_ingested_or_named(tmp_path: pathlib.Path) -> None:
    result = execute(ASSETS / "awkward", tmp_path, max_bad_fraction=0.5)
    summary = result.summary
    assert summary["examples"] + summary["quarantined"] + summary["duplicates"] == summary["found"] > 200
    for split in features.SPLITS:
        for example in result.records(split):
            tf.io.decode_image(text(example, features.IMAGE), channels=3, expand_animations=False)
    assert len(result.refused) == summary["quarantined"] >= 14


def test_a_class_folder_that_holds_no_image_is_left_out_and_the_run_goes_on(tmp_path: pathlib.Path) -> None:
    images = write_noise_folder(tmp_path / "photos", cats=4, dogs=4)
    write_file(images, "notes/readme.txt", b"About these photos.")
    result = execute(images, tmp_path, max_bad_fraction=0.2)
    assert result.summary["examples"] == 8
    assert list(result.refused) == ["notes/readme.txt"]


def test_without_a_test_folder_no_image_is_left_in_a_test_split(tmp_path: pathlib.Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        for i in range(4):
            write_file(tmp_path, f"split/{split}/{'ab'[i % 2]}/{i}.png", encode_noise(10 * number + i, "PNG"))
    state = tmp_path / "state"
    assert "test" in execute(tmp_path / "split", tmp_path / "1", state=state).summary["by_split"]
    images = write_noise_folder(tmp_path / "photos", a=6, b=6)
    shutil.copy(tmp_path / "split/test/a/0.png", images / "a/known.png")
    result = execute(images, tmp_path / "2", state=state)
    assert set(result.summary["by_split"]) == {"train", "eval"}
    assert result.paths()["a/known.png"] == "eval", "it was never trained on, and is not now"
