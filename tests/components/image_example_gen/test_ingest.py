"""Tests of the Beam stages of ingest: records, shards, memory and files that change during a run."""

import hashlib
import os
import pathlib
import pickle
import subprocess
import sys
from typing import Any

import apache_beam as beam
import pytest
from tfx.types import artifact_utils

from graftline import features
from graftline.components.image_example_gen import ingest
from graftline.components.image_example_gen.decoding import Quarantined
from graftline.components.image_example_gen.layouts import File, Roots
from graftline.components.image_example_gen.scan import scan
from graftline.components.image_example_gen.settings import IngestSettings
from tests.components.image_example_gen.ingested import ALL_FEATURES, SETTINGS, Result, execute, text
from tests.folders import write_file
from tests.images import encode_noise, write_noise_folder


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
