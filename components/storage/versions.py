"""Versions of a model in an object store (gs://, s3://, azfs://), through Beam's file systems.

An object store cannot rename folders. So the files of a version are written first and `saved_model.pb` is written last:
without it, neither Graftline (`serving.versions.locate`) nor TF Serving takes the number for a version. An object store
has no locks either. Only one pusher at a time may write to a base path; a pipeline has one pusher for each model.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from graftline.components.storage import files, listing
from graftline.errors import UserError
from graftline.serving.versions.base_path import (
    BasePath,
    Disk,
    changed_while_pushed,
    copy_and_digest,
    files_under,
    number_after,
)
from graftline.serving.versions.locate import SAVED_MODEL, by_number, is_version_name
from graftline.uri import is_uri
from graftline.withdrawn import tree_digest

if TYPE_CHECKING:
    from apache_beam.io.filesystem import FileSystem


def destination(path: str) -> BasePath:
    """Return the base path at a folder or a URI.

    Raises:
      UserError: no file system is known for the URI, it cannot be reached, or it is not an object store's.
    """
    return ObjectStore(path) if is_uri(path) else Disk(path)


def served_version(base_path: str) -> str:
    """Return the path or URI of the highest complete version, which a model server serves; "" when there is none.

    Raises:
      UserError: as `destination`.
      Exception: what the file system raises when it cannot list the versions. Without it a failed listing would look
        like a base path without versions, and the gate would compare with nothing.
    """
    versions = destination(base_path).versions()
    return versions[max(versions)] if versions else ""


@contextlib.contextmanager
def local_copy(folder: str) -> Iterator[str]:
    """Give a folder on disk with the content of `folder`: a temporary copy of a URI, a path itself."""
    if not is_uri(folder):
        yield folder
        return
    parent, _, name = folder.rstrip("/").rpartition("/")
    with ObjectStore(parent).fetched(name) as path:
        yield path


class _Beam:
    """The operations that ObjectStore needs, through Beam's file system."""

    def __init__(self, path: str) -> None:
        self._system: FileSystem = files.filesystem(path)
        if self._system.has_dirs():
            raise UserError(f"{path}: models are pushed to a mounted folder or an object store, and this is neither")

    def list(self, prefix: str) -> Iterator[str]:
        return (entry.path for entry in self._system.match([f"{prefix}**"])[0].metadata_list)

    def open(self, path: str) -> Any:
        return self._system.open(path, compression_type="uncompressed")

    def create(self, path: str, empty: bool) -> Any:
        return self._system.create(path, compression_type="uncompressed")

    def exists(self, path: str) -> bool:
        return bool(self._system.exists(path))

    def delete(self, paths: Sequence[str]) -> None:
        self._system.delete(paths)


class _S3:
    """The same operations through one connection: Beam's file system makes a new one for each call, in 0.3 s."""

    def list(self, prefix: str) -> Iterator[str]:
        return (path for path, _ in files.s3().list_files(prefix, with_metadata=True))

    def open(self, path: str) -> Any:
        return files.s3().open(path, "r")

    def create(self, path: str, empty: bool) -> Any:
        if empty:  # Beam would make an upload without parts, which S3 refuses.
            bucket, _, key = path.removeprefix("s3://").partition("/")
            files.s3().client.client.put_object(Bucket=bucket, Key=key, Body=b"")
            return contextlib.nullcontext()
        return files.s3().open(path, "w")

    def exists(self, path: str) -> bool:
        return bool(files.s3().exists(path))

    def delete(self, paths: Sequence[str]) -> None:
        failed = {path: error for path, error in files.s3().delete_files(paths) if error is not None}
        if failed:
            path, error = failed.popitem()
            raise OSError(f"{path} cannot be removed: {error}")


class ObjectStore:
    """A `serving.versions.base_path.BasePath` at a URI."""

    def __init__(self, path: str) -> None:
        """Check that the path can be reached; raise what `destination` raises."""
        self.path = path.rstrip("/")
        listing.require_reachable(f"{self.path}/")
        self._unfinished = f"{self.path}/.push"  # holds a file for each version that is being written or removed
        self._system = _S3() if self.path.startswith("s3://") else _Beam(path)

    def _list(self, folder: str) -> list[str]:
        """Return the paths of all files under a folder, relative to it."""
        prefix = f"{folder}/"
        paths = (path[len(prefix) :] for path in self._system.list(prefix))
        return [path for path in paths if path and not path.endswith("/")]

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """As `BasePath.exclusive`: removes what interrupted pushes left, but does not keep other pushers out."""
        complete = self.versions().values()
        for name in filter(str.isdecimal, self.names(self._unfinished)):
            if f"{self.path}/{name}" not in complete:
                self._clear(name)
            self.delete(f"{self._unfinished}/{name}")
        yield

    def versions(self) -> dict[int, str]:
        """As `BasePath.versions`."""
        places = [path.partition("/") for path in self._list(self.path)]
        complete = [name for name, _, file in places if file == SAVED_MODEL and is_version_name(name)]
        return {version: f"{self.path}/{name}" for version, name in by_number(complete).items()}

    def highest_number(self) -> int:
        """As `BasePath.highest_number`."""
        names = {path.partition("/")[0] for path in self._list(self.path)}
        return max((int(name) for name in names if is_version_name(name)), default=0)

    def digest(self, version: int) -> str:
        """As `BasePath.digest`; reads the whole version."""
        folder = self.versions()[version]
        return tree_digest(
            (os.fsencode(path), self._file_digest(f"{folder}/{path}")) for path in sorted(self._list(folder))
        )

    def _file_digest(self, path: str) -> bytes:
        with self._system.open(path) as file:
            return copy_and_digest(file)

    def local(self, version: int) -> AbstractContextManager[str]:
        """As `BasePath.local`."""
        return self.fetched(self.versions()[version].rpartition("/")[2])

    @contextlib.contextmanager
    def fetched(self, name: str) -> Iterator[str]:
        """Give a temporary folder with the content of the folder `name`."""
        with tempfile.TemporaryDirectory(prefix="graftline-") as root:
            for path in self._list(f"{self.path}/{name}"):
                target = os.path.join(root, *path.split("/"))
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with self._system.open(f"{self.path}/{name}/{path}") as reader, open(target, "wb") as writer:
                    shutil.copyfileobj(reader, writer, 1 << 20)
            yield root

    def add(self, saved_model_dir: str, digest: str) -> int:
        """As `BasePath.add`. Readers that look for `saved_model.pb` see a whole version or none."""
        version = number_after(self.highest_number(), self.path)
        graph = os.path.join(saved_model_dir, SAVED_MODEL)
        self.write(f"{self._unfinished}/{version}", digest.encode())
        try:
            digests = {
                path: self._upload(os.path.join(saved_model_dir, path), f"{self.path}/{version}/{path}")
                for path in files_under(saved_model_dir)
                if path != SAVED_MODEL
            }
            with open(graph, "rb") as reader:
                digests[SAVED_MODEL] = copy_and_digest(reader)
            # `saved_model.pb` completes the version, so everything must be right before it is written.
            if tree_digest((os.fsencode(path), digests[path]) for path in sorted(digests)) != digest:
                raise changed_while_pushed(saved_model_dir)
            self._upload(graph, f"{self.path}/{version}/{SAVED_MODEL}")
        except BaseException:
            self._clear(str(version))
            self.delete(f"{self._unfinished}/{version}")
            raise
        self.delete(f"{self._unfinished}/{version}")
        return version

    def _upload(self, source: str, target: str) -> bytes:
        """Copy a file of the disk to the store and return its sha256 digest."""
        empty = not os.path.getsize(source)
        with open(source, "rb") as reader, self._system.create(target, empty) as writer:
            return copy_and_digest(reader, writer)

    def remove(self, version: int) -> None:
        """As `BasePath.remove`: `saved_model.pb` goes first. The next pusher completes an interrupted removal."""
        while folder := self.versions().get(version):  # `8` and `008` are one version
            name = folder.rpartition("/")[2]
            self.write(f"{self._unfinished}/{name}", b"removing")
            self._system.delete([f"{self.path}/{name}/{SAVED_MODEL}"])
            self._clear(name)
            self.delete(f"{self._unfinished}/{name}")

    def _clear(self, name: str) -> None:
        folder = f"{self.path}/{name}"
        if paths := [f"{folder}/{path}" for path in self._list(folder)]:
            self._system.delete(paths)

    def names(self, folder: str) -> list[str]:
        """As `BasePath.names`."""
        return sorted(path for path in self._list(folder) if "/" not in path)

    def read(self, path: str) -> bytes | None:
        """As `BasePath.read`."""
        if not self._system.exists(path):
            return None
        with self._system.open(path) as file:
            content: bytes = file.read()
        return content

    def write(self, path: str, content: bytes) -> None:
        """As `BasePath.write`: an object appears when it is complete."""
        with self._system.create(path, empty=False) as file:
            file.write(content)

    def delete(self, path: str) -> None:
        """As `BasePath.delete`."""
        if self._system.exists(path):
            self._system.delete([path])

    def locked(self, folder: str) -> AbstractContextManager[None]:
        """As `BasePath.locked`, but keeps nobody out."""
        return contextlib.nullcontext()
