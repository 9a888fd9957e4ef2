"""Tests of images at a URI: on the tests' own file systems, and on real S3 and GCS interfaces over loopback."""

import functools
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from graftline.components.image_example_gen.fingerprint import fingerprint
from graftline.components.image_example_gen.layouts import File
from graftline.components.image_example_gen.scan import check_decodable, scan
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.components.storage import files
from graftline.errors import UserError
from tests.components.storage import file_systems
from tests.components.storage.conftest import BUCKET
from tests.folders import write_file, write_stubs

BEAM_PLUGIN = f"{file_systems.Plain.__module__}.{file_systems.Plain.__name__}"  # how a worker learns of a filesystem
FOUR = ("cats/1.jpg", "cats/2.jpg", "dogs/1.jpg", "dogs/deep/er.jpg")


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_stubs(tmp_path / "photos", FOUR)


def refusal(uri: str, settings: IngestSettings | None = None) -> str:
    with pytest.raises(UserError) as caught:
        scan(uri, settings)
    return str(caught.value)


# --- the layouts are the same as on disk ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["plain", "nested"])
def test_a_uri_is_read_as_the_folder_that_it_is(root: pathlib.Path, scheme: str) -> None:
    write_file(root, ".git/1.jpg", b"x")
    write_file(root, "cats/Thumbs.db", b"x")
    write_file(root, "dogs/empty.jpg", b"")
    write_file(root, "stray.jpg", b"x")
    write_file(root, "cats/new\nline.jpg", b"x")
    there, here = scan(f"{scheme}://{root}/"), scan(root)
    assert there.files == here.files and len(there.files) == 5
    assert (there.classes, there.refused, there.stray) == (here.classes, here.refused, here.stray)
    assert there.refused == ((r"cats/new\nline.jpg", "cats", "name is not printable UTF-8 text"),)
    for file in there.files:
        assert files.read(there.roots.locate(file.path), 100) == files.read(here.roots.locate(file.path), 100)
    check_decodable(there)


@pytest.mark.parametrize("scheme", ["plain", "nested"])
def test_names_that_look_like_patterns_are_names(tmp_path: pathlib.Path, scheme: str) -> None:
    for path in FOUR:
        write_file(tmp_path, f"pho[t]os*/{path.replace('dogs', 'do?g[s')}", b"x")
    assert scan(f"{scheme}://{tmp_path}/pho[t]os*").classes == ("cats", "do?g[s")


def test_splits_spans_and_several_roots_are_found_at_uris_too(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for span in ("span-9", "span-10"):
        for path in FOUR:
            write_file(tmp_path, f"spans/{span}/train/{path}", b"x")
            write_file(tmp_path, f"spans/{span}/val/{path}", b"x")
    layout = scan([f"plain://{tmp_path}/spans", root], IngestSettings(spans=None))
    assert File("spans/span-9/val/cats/1.jpg", "cats", "eval") in layout.files
    assert File("photos/cats/1.jpg", "cats") in layout.files
    assert layout.roots.locate("spans/span-9/val/cats/1.jpg") == f"plain://{tmp_path}/spans/span-9/val/cats/1.jpg"
    latest = scan(f"plain://{tmp_path}/spans", IngestSettings(spans=1))
    assert {file.path.split("/")[0] for file in latest.files} == {"span-10"}


def test_a_table_at_a_uri_names_files_at_a_uri(root: pathlib.Path) -> None:
    write_file(root, "labels.csv", b"path,label\ncats/1.jpg,a\ncats/2.jpg,a\ndogs/1.jpg,b\ngone.jpg,b\n")
    layout = scan(f"plain://{root}", IngestSettings(manifest=f"plain://{root}/labels.csv"))
    assert [file.path for file in layout.files] == ["cats/1.jpg", "cats/2.jpg", "dogs/1.jpg", "gone.jpg"]
    with pytest.raises(OSError, match=r"^\[Errno None\] No such file or directory"):
        files.read(layout.roots.locate("gone.jpg"), 100)
    assert len(fingerprint(layout)) == 64


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_file_at_a_uri_is_read_as_it_is_stored(tmp_path: pathlib.Path) -> None:
    write_file(tmp_path, "1.jpg.gz", b"not unpacked")
    uri = f"plain://{tmp_path}/1.jpg.gz"
    assert files.read(uri, 12) == (b"not unpacked", 12)
    assert files.read(uri, 11) == (b"", 12)
    assert files.head(uri) == b"not unpacked"


def test_the_fingerprint_is_of_checksums_where_there_are_any(root: pathlib.Path) -> None:
    # This filesystem lets nobody read, so what tells the change is its checksum.
    before = fingerprint(scan(f"summed://{root}"))
    assert before == fingerprint(scan(f"summed://{root}"))
    changed = (root / "cats/1.jpg").read_bytes()[::-1]
    (root / "cats/1.jpg").write_bytes(changed)
    assert before != fingerprint(scan(f"summed://{root}"))


def test_the_fingerprint_is_of_the_content_where_there_is_no_checksum(root: pathlib.Path) -> None:
    assert fingerprint(scan(f"plain://{root}")) == fingerprint(scan(root))


def test_a_file_that_may_not_be_read_says_so(root: pathlib.Path) -> None:
    with pytest.raises(OSError) as caught:
        files.read(f"summed://{root}/cats/1.jpg", 100)
    assert caught.value.strerror == "Permission denied"
    with pytest.raises(UserError, match=r"none of the 4 files .*first: cats/1.jpg \(unreadable: Permission denied\)"):
        check_decodable(scan(f"summed://{root}"))


@pytest.mark.slow
def test_a_beam_worker_in_a_process_of_its_own_reads_the_same(root: pathlib.Path) -> None:
    uris = [f"plain://{root}/{path}" for path in FOUR]
    options = ["--direct_running_mode=multi_processing", "--direct_num_workers=2", f"--beam_plugins={BEAM_PLUGIN}"]
    with beam.Pipeline(argv=options) as pipeline:
        read = pipeline | beam.Create(uris) | beam.Reshuffle() | beam.Map(functools.partial(files.read, limit=100))
        assert_that(read, equal_to([files.read(uri, 100) for uri in uris]))


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_an_unknown_scheme_is_told_with_the_known_ones() -> None:
    assert refusal("nowhere://bucket/photos").startswith(
        "nowhere://bucket/photos/: no file system is known for nowhere://; give the path of a folder, or a URI of azfs"
    )


def test_a_closed_door_is_told_in_plain_words() -> None:
    assert refusal("shut://bucket/photos") == (
        "shut://bucket/photos/ cannot be read: Permission denied. Check the address, the network and the credentials"
    )


def test_an_empty_place_is_told(tmp_path: pathlib.Path) -> None:
    assert refusal(f"plain://{tmp_path}").startswith(f"plain://{tmp_path} holds no class folders; put the images in")


def test_a_filesystem_that_lacks_a_package_names_it() -> None:
    code = """
import sys
sys.modules["azure"] = None  # as where it is not installed
from graftline.components.image_example_gen.scan import scan
scan("azfs://account/container/photos")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "azfs:// needs a package that is not installed: pip install 'apache-beam[azure]'" in run.stderr


# --- Amazon's interface, spoken by moto's server ----------------------------------------------------------------------


def test_a_bucket_of_s3_is_scanned_read_and_fingerprinted(s3: Any, root: pathlib.Path) -> None:
    for path in FOUR:
        s3.put_object(Bucket=BUCKET, Key=f"set/{path}", Body=(root / path).read_bytes())
    s3.put_object(Bucket=BUCKET, Key="set/birds/", Body=b"")  # as the console makes a folder
    s3.put_object(Bucket=BUCKET, Key="settled/cats/1.jpg", Body=b"x")
    layout = scan("s3://bucket/set")
    assert layout.files == scan(root).files
    assert files.read("s3://bucket/set/cats/1.jpg", 100) == files.read(str(root / "cats/1.jpg"), 100)
    assert files.read("s3://bucket/set/cats/1.jpg", 3) == (b"", 13)
    check_decodable(layout)
    before = fingerprint(layout)
    assert fingerprint(scan("s3://bucket/set")) == before
    s3.put_object(Bucket=BUCKET, Key="set/cats/1.jpg", Body=(root / "cats/1.jpg").read_bytes()[::-1])
    assert fingerprint(scan("s3://bucket/set")) != before


def test_what_s3_refuses_is_told_at_once(s3: Any) -> None:
    assert "s3://nowhere/set/ cannot be read: " in refusal("s3://nowhere/set")
    assert "The specified bucket does not exist" in refusal("s3://nowhere/set")
    with pytest.raises(OSError) as caught:
        files.read("s3://bucket/gone.jpg", 100)
    assert caught.value.strerror == "Not found: s3://bucket/gone.jpg"


def test_missing_credentials_of_s3_are_told_at_once(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    files.use_beam_options(["--s3_region_name=us-east-1"])
    assert refusal("s3://bucket/set") == (
        "s3://bucket/set/ cannot be read: Unable to locate credentials. Check the address, the network and the "
        "credentials; credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws"
    )


# --- Google's interface, spoken by gcp-storage-emulator ---------------------------------------------------------------


@pytest.fixture
def put(gcs: None) -> Callable[[str, bytes], None]:
    """Puts an object into the bucket."""
    from google.cloud import storage

    bucket = storage.Client.create_anonymous_client().bucket(BUCKET)
    return lambda name, data: bucket.blob(name).upload_from_string(data)


@pytest.mark.slow
def test_a_bucket_of_gcs_is_scanned_read_and_fingerprinted(
    put: Callable[[str, bytes], None], root: pathlib.Path
) -> None:
    for path in FOUR:
        put(f"set/{path}", (root / path).read_bytes())
    layout = scan("gs://bucket/set")  # Beam takes half a minute to believe that there are no credentials
    assert layout.files == scan(root).files
    assert files.read("gs://bucket/set/cats/1.jpg", 100) == files.read(str(root / "cats/1.jpg"), 100)
    assert files.read("gs://bucket/set/cats/1.jpg", 3) == (b"", 13)
    before = fingerprint(layout)
    put("set/cats/1.jpg", (root / "cats/1.jpg").read_bytes()[::-1])
    assert fingerprint(scan("gs://bucket/set")) != before
    assert "gs://nowhere/set/ cannot be read: No such file or bucket" in refusal("gs://nowhere/set")
