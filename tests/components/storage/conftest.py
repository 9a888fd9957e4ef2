"""Object stores over loopback: Amazon's interface, spoken by moto's server, and Google's, by gcp-storage-emulator."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from apache_beam.io.filesystems import FileSystems

from graftline.components.storage import files

BUCKET = "bucket"


@pytest.fixture(scope="package")
def s3_url() -> Iterator[str]:
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_url: str) -> Iterator[Any]:
    """A client of an S3 server with the empty bucket BUCKET, which Beam's file systems use, too."""
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    earlier = FileSystems._pipeline_options
    options = {"endpoint_url": s3_url, "access_key_id": "a", "secret_access_key": "b", "region_name": "us-east-1"}
    files.use_beam_options([f"--s3_{name}={value}" for name, value in options.items()])
    access = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=s3_url, **access)
    client.create_bucket(Bucket=BUCKET)
    yield client
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.delete_bucket(Bucket=BUCKET)
    FileSystems.set_options(earlier)


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GCS server with the empty bucket BUCKET, which Beam's and Google's clients use."""
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    yield
    server.stop()
