"""Pushes and rollbacks at a URI."""

import pathlib
from typing import Any

import pytest

from graftline.components.storage import versions
from graftline.errors import UserError
from graftline.serving.versions import publish, rollback, withdrawals
from graftline.serving.versions.base_path import Disk, content_digest
from tests.components.storage.conftest import BUCKET
from tests.serving.versions.saved_models import export

BASE = "s3://bucket/ws/models/roses"


class Bucket:
    """The models in the bucket, as the store's own client sees them."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def names(self) -> list[str]:
        found = self._client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return sorted(entry["Key"].removeprefix("ws/models/") for entry in found)

    def put(self, name: str, content: bytes = b"x") -> None:
        self._client.put_object(Bucket=BUCKET, Key=f"ws/models/{name}", Body=content)

    def get(self, name: str) -> bytes:
        return self._client.get_object(Bucket=BUCKET, Key=f"ws/models/{name}")["Body"].read()


@pytest.fixture
def bucket(s3: Any) -> Bucket:
    return Bucket(s3)


def push(folder: pathlib.Path, keep: int | None = None) -> publish.Published:
    return publish.push(str(folder), versions.destination(BASE), keep)


def test_a_version_is_written_with_its_graph_last_and_holds_every_file(
    bucket: Bucket, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    create = versions._S3.create

    def noted(self: versions._S3, path: str, empty: bool) -> Any:
        written.append(path)
        return create(self, path, empty)

    monkeypatch.setattr(versions._S3, "create", noted)
    source = export(tmp_path / "export", files=2)
    (source / "assets" / "empty.txt").touch()
    assert push(source) == publish.Published(1, f"{BASE}/1", new=True)
    in_version = [path for path in written if path.startswith(f"{BASE}/1/")]
    assert in_version[-1] == f"{BASE}/1/saved_model.pb"
    assert bucket.names() == [
        "models.config",
        "roses/1/assets/empty.txt",
        "roses/1/saved_model.pb",
        "roses/1/variables/0",
        "roses/1/variables/1",
    ]
    store = versions.destination(BASE)
    assert store.digest(1) == content_digest(str(source))
    with store.local(1) as folder:
        assert content_digest(folder) == content_digest(str(source))


def test_the_same_model_again_adds_none_and_another_the_next(bucket: Bucket, tmp_path: pathlib.Path) -> None:
    one, other = export(tmp_path / "one"), export(tmp_path / "other", b"other")
    push(one)
    assert push(one) == publish.Published(1, f"{BASE}/1", new=False)
    assert push(other) == publish.Published(2, f"{BASE}/2", new=True)
    assert b'key: "canary"\n      value: 2' in bucket.get("models.config")


def test_a_push_that_was_broken_off_is_no_version_and_is_cleaned_up(
    bucket: Bucket, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(export(tmp_path / "one"))
    # What a pusher leaves that is killed before it wrote the graph, and a folder that is none of ours.
    bucket.put("roses/.push/2")
    bucket.put("roses/2/variables/0")
    bucket.put("roses/7/notes.txt")
    store = versions.destination(BASE)
    assert sorted(store.versions()) == [1]
    assert push(export(tmp_path / "other", b"other")).version == 8, "no number is used twice"
    assert [name for name in bucket.names() if name.startswith(("roses/.push", "roses/2/"))] == []
    assert "roses/7/notes.txt" in bucket.names()


def test_a_push_that_fails_leaves_nothing(
    bucket: Bucket, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = versions._S3.create

    def failing(self: versions._S3, path: str, empty: bool) -> Any:
        if path.endswith("variables/1"):
            raise OSError("the network is gone")
        return create(self, path, empty)

    monkeypatch.setattr(versions._S3, "create", failing)
    with pytest.raises(OSError, match="the network is gone"):
        push(export(tmp_path / "export"))
    assert bucket.names() == []


def test_a_model_that_changes_while_it_is_pushed_becomes_no_version(bucket: Bucket, tmp_path: pathlib.Path) -> None:
    source = export(tmp_path / "export")
    with pytest.raises(RuntimeError, match="changed while it was being pushed"):
        versions.ObjectStore(BASE).add(str(source), "another digest")
    assert bucket.names() == []


def test_retention_rollback_and_withdrawal_are_those_of_a_disk(bucket: Bucket, tmp_path: pathlib.Path) -> None:
    contents = ("a", "b", "c", "d")
    for content in contents:
        push(export(tmp_path / content, content.encode(), files=1), keep=3)
    store = versions.destination(BASE)
    assert sorted(store.versions()) == [2, 3, 4]
    done = rollback.roll_back(store)
    assert (done.before, done.of, done.version, done.path) == (4, 3, 5, f"{BASE}/5")
    assert bucket.get("roses/5/variables/0") == b"c"
    assert withdrawals.withdrawn(store) == {content_digest(str(tmp_path / "d"))}
    with pytest.raises(withdrawals.WithdrawnError, match="this very model was version 4"):
        push(tmp_path / "d")


def test_a_removal_that_was_broken_off_is_ended_by_the_next_push(
    bucket: Bucket, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in ("a", "b", "c"):
        push(export(tmp_path / content, content.encode()))
    store = versions.ObjectStore(BASE)
    with monkeypatch.context() as broken:
        broken.setattr(versions.ObjectStore, "_clear", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.remove(1)
    bucket.put("roses/.push/notes.txt")  # none of ours
    assert sorted(store.versions()) == [2, 3]
    assert [name for name in bucket.names() if name.startswith("roses/1/")] != []
    push(tmp_path / "c")
    left = [name for name in bucket.names() if name.startswith(("roses/1/", "roses/.push/"))]
    assert left == ["roses/.push/notes.txt"]


def test_the_gate_finds_and_reads_the_served_model_where_tensorflow_has_no_file_system(
    bucket: Bucket, tmp_path: pathlib.Path
) -> None:
    from graftline import features
    from graftline.components.evaluator import executor as evaluator

    assert versions.served_version(BASE) == "", "no version yet"
    for content in ("a", "b"):
        source = export(tmp_path / content, content.encode())
        (source / "assets").mkdir(exist_ok=True)
        (source / "assets" / features.LABELS_FILE).write_text(f"cat\n{content}\n")
        push(source)
    served, notes = evaluator._baseline({}, {"served_base_path": BASE})
    assert (served, notes) == (f"{BASE}/2", [])
    with evaluator._readable(served) as directory:
        assert evaluator._served_labels(directory, served) == ["cat", "b"]
    assert not pathlib.Path(directory).exists()
    with evaluator._readable(str(tmp_path)) as directory:
        assert directory == str(tmp_path), "no copy of what can be read"


def test_the_served_version_is_the_complete_one_with_the_highest_number(tmp_path: pathlib.Path) -> None:
    for version in (2, 10):
        export(tmp_path / "served" / str(version))
    (tmp_path / "served" / "11").mkdir()  # a push to an object store that has just begun
    assert versions.served_version(str(tmp_path / "served")) == str(tmp_path / "served" / "10")
    assert versions.served_version(str(tmp_path / "nothing")) == ""
    assert versions.served_version(str(tmp_path)) == ""


def test_a_path_is_a_disk_and_an_unknown_uri_is_told(tmp_path: pathlib.Path) -> None:
    assert isinstance(versions.destination(str(tmp_path)), Disk)
    with pytest.raises(UserError, match=r"^ftp://host/models/: no file system is known for ftp://"):
        versions.destination("ftp://host/models")


@pytest.mark.slow
def test_google_cloud_storage_takes_a_push_and_a_rollback(gcs: None, tmp_path: pathlib.Path) -> None:
    base = versions.destination(f"gs://{BUCKET}/roses")
    publish.push(str(export(tmp_path / "a", b"a")), base)
    publish.push(str(export(tmp_path / "b", b"b")), base)
    assert rollback.roll_back(base).version == 3
    assert base.digest(3) == content_digest(str(tmp_path / "a"))
    assert withdrawals.withdrawn(base) == {content_digest(str(tmp_path / "b"))}
