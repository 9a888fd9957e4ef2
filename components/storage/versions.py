"""Versions of a model in an object store (gs://, s3://, azfs://), by Beam's file systems.

An object store has no folders to rename. So a version's files are written first and `saved_model.pb` last: without it
nobody takes the number for a version (`serving.versions.locate`), and TF Serving refuses to load it. It has no locks
either: one pusher at a time writes to a base path, which a pipeline of one model is.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from graftline.components.storage import files, listing
from graftline.errors import UserError
from graftline.serving.versions.base_path import BasePath, Disk, files_under
from graftline.serving.versions.locate import SAVED_MODEL
from graftline.uri import is_uri
from graftline.withdrawn import tree_digest

if TYPE_CHECKING:
    from apache_beam.io.filesystem import FileSystem

_BEGUN = ".push"  # holds a file for each version that is being written
_CHUNK = 1 << 20


def destination(path: str) -> BasePath:
    """The base path at a folder or a URI.

    Raises UserError for a URI that no file system is known for, that cannot be reached, or that is no object store's.
    """
    return ObjectStore(path) if is_uri(path) else Disk(path)


def served_version(base_path: str) -> str:
    """Path or URI of the version that a model server takes up: the highest complete one; "" when there is none.

    Raises: as `destination`, and what a listing that fails raises: a model must not pass for the first one by it.
    """
    versions = destination(base_path).versions()
    return versions[max(versions)] if versions else ""


@contextlib.contextmanager
def local_copy(folder: str) -> Iterator[str]:
    """A folder on disk with the content of `folder`, which is a path (then it is that itself) or a URI."""
    if not is_uri(folder):
        yield folder
        return
    parent, _, name = folder.rstrip("/").rpartition("/")
    with ObjectStore(parent).fetched(name) as path:
        yield path


class _Beam:
    """What is asked of a store, by Beam's file system for it."""

    def __init__(self, path: str) -> None:
        self._system: FileSystem = files.filesystem(path)
        if self._system.has_dirs():
            raise UserError(f"{path}: models are pushed to a mounted folder or an object store, and this is neither")

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return ((entry.path, entry.size_in_bytes) for entry in self._system.match([f"{prefix}**"])[0].metadata_list)

    def open(self, path: str) -> Any:
        return self._system.open(path, compression_type="uncompressed")

    def create(self, path: str, empty: bool) -> Any:
        return self._system.create(path, compression_type="uncompressed")

    def exists(self, path: str) -> bool:
        return bool(self._system.exists(path))

    def delete(self, paths: Sequence[str]) -> None:
        self._system.delete(paths)


class _S3:
    """The same by one connection: Beam's file system makes a new one for each call, in a third of a second."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return ((path, size) for path, (size, _) in files.s3().list_files(prefix, with_metadata=True))

    def open(self, path: str) -> Any:
        return files.s3().open(path, "r")

    def create(self, path: str, empty: bool) -> Any:
        if empty:  # of which Beam would make an upload without parts, and S3 refuses that
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
        """Raises: as `destination`."""
        self.path = path.rstrip("/")
        listing.require_reachable(f"{self.path}/")
        self._system = _S3() if self.path.startswith("s3://") else _Beam(path)

    def _list(self, folder: str) -> dict[str, int]:
        """Path relative to `folder` → bytes, of all that lies under it."""
        prefix = f"{folder}/"
        found = {path[len(prefix) :]: size for path, size in self._system.list(prefix)}
        return {path: size for path, size in found.items() if path and not path.endswith("/")}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """As `BasePath.alone`: takes away what pushes left that ended early, but holds off nobody."""
        complete = self.versions()
        for name in filter(str.isdecimal, self.names(f"{self.path}/{_BEGUN}")):
            if int(name) not in complete:
                self._clear(name)
            self.delete(f"{self.path}/{_BEGUN}/{name}")
        yield

    def versions(self) -> dict[int, str]:
        """As `BasePath.versions`."""
        places = [path.partition("/") for path in self._list(self.path)]
        complete = [name for name, _, rest in places if rest == SAVED_MODEL and name.isascii() and name.isdecimal()]
        return {int(name): f"{self.path}/{name}" for name in complete}

    def taken(self) -> int:
        """As `BasePath.taken`."""
        names = {path.partition("/")[0] for path in self._list(self.path)}
        return max((int(name) for name in names if name.isascii() and name.isdecimal()), default=0)

    def digest(self, version: int) -> str:
        """As `BasePath.digest`; reads the whole version."""
        folder = self.versions()[version]
        return tree_digest(
            (path.encode(), self._file_digest(f"{folder}/{path}")) for path in sorted(self._list(folder))
        )

    def _file_digest(self, path: str) -> bytes:
        digest = hashlib.sha256()
        with self._system.open(path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.digest()

    def local(self, version: int) -> AbstractContextManager[str]:
        """As `BasePath.local`."""
        return self.fetched(str(version))

    @contextlib.contextmanager
    def fetched(self, name: str) -> Iterator[str]:
        """A temporary folder with the content of the folder `name`."""
        with tempfile.TemporaryDirectory(prefix="graftline-") as root:
            for path in self._list(f"{self.path}/{name}"):
                target = os.path.join(root, *path.split("/"))
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with self._system.open(f"{self.path}/{name}/{path}") as reader, open(target, "wb") as writer:
                    while chunk := reader.read(_CHUNK):
                        writer.write(chunk)
            yield root

    def add(self, saved_model_dir: str, digest: str) -> int:
        """As `BasePath.add`. Readers that look for `saved_model.pb` see it whole or not at all."""
        version = self.taken() + 1
        self.write(f"{self.path}/{_BEGUN}/{version}", digest.encode())
        try:
            # The file that makes a version of the rest comes last, and only when the rest is what was meant.
            contents = {path: hashlib.sha256() for path in files_under(saved_model_dir)}
            for path in sorted(contents, key=lambda path: path == SAVED_MODEL):
                last = path == SAVED_MODEL
                if last and self._read_through(os.path.join(saved_model_dir, path), contents, path) != digest:
                    raise RuntimeError(
                        f"{saved_model_dir} changed while it was being pushed: push again when it is complete"
                    )
                source = os.path.join(saved_model_dir, path)
                to = self._system.create(f"{self.path}/{version}/{path}", empty=not os.path.getsize(source))
                with open(source, "rb") as reader, to as writer:
                    while chunk := reader.read(_CHUNK):
                        if not last:
                            contents[path].update(chunk)
                        writer.write(chunk)
        except BaseException:
            self._clear(str(version))
            self.delete(f"{self.path}/{_BEGUN}/{version}")
            raise
        self.delete(f"{self.path}/{_BEGUN}/{version}")
        return version

    def _read_through(self, source: str, contents: dict[str, Any], path: str) -> str:
        """The digest of all `contents`, of which that of `path` is read now."""
        with open(source, "rb") as reader:
            while chunk := reader.read(_CHUNK):
                contents[path].update(chunk)
        return tree_digest((os.fsencode(each), contents[each].digest()) for each in sorted(contents))

    def remove(self, version: int) -> None:
        """As `BasePath.remove`: `saved_model.pb` goes first. The next pusher ends what was broken off."""
        name = self.versions()[version].rpartition("/")[2]
        self.write(f"{self.path}/{_BEGUN}/{name}", b"removing")
        self._system.delete([f"{self.path}/{name}/{SAVED_MODEL}"])
        self._clear(name)
        self.delete(f"{self.path}/{_BEGUN}/{name}")

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
        """As `BasePath.write`: an object is there when it is whole."""
        with self._system.create(path, empty=False) as file:
            file.write(content)

    def delete(self, path: str) -> None:
        """As `BasePath.delete`."""
        if self._system.exists(path):
            self._system.delete([path])

    def holding(self, folder: str) -> AbstractContextManager[None]:
        """As `BasePath.holding`, but holds off nobody."""
        return contextlib.nullcontext()
