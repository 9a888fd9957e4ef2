"""Where versions of a model lie: the operations of a file system that a push, a rollback and retention need.

`Disk` is a folder of a POSIX file system. `components.storage.versions` has the same for the URIs that Beam opens.
Standard library only.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, Protocol

from graftline import disk
from graftline.errors import UserError
from graftline.serving.versions.locate import INT64_MAX, is_version_name, scan_versions
from graftline.uri import is_uri
from graftline.withdrawn import tree_digest

_ASIDE = disk.ASIDE  # a version being written
_DROPPED = ".drop-"  # a version being removed
_CHUNK = 1 << 20  # bytes read at once


class BasePath(Protocol):
    """A TF Serving base path that one pusher at a time writes to. Small files are named by their full path."""

    path: str

    def exclusive(self) -> AbstractContextManager[None]:
        """Create the base path if it is missing, lock it against other pushers, and clean up after crashed ones."""

    def versions(self) -> dict[int, str]:
        """Return version number → folder or URI of every complete version."""

    def highest_number(self) -> int:
        """Return the highest number that a version has, complete or not; 0 when there is none."""

    def digest(self, version: int) -> str:
        """Return the `content_digest` of a version."""

    def local(self, version: int) -> AbstractContextManager[str]:
        """Provide a folder on disk that holds the version."""

    def add(self, saved_model_dir: str, digest: str) -> int:
        """Add a version that readers see complete or not at all. Returns its number. Raises as `publish.push`."""

    def remove(self, version: int) -> None:
        """Remove a version; readers no longer see it from the first moment on."""

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the files in a folder; none for a missing folder."""

    def read(self, path: str) -> bytes | None:
        """Return the content of a small file; None for a missing file."""

    def write(self, path: str, content: bytes) -> None:
        """Write a small file, completely or not at all."""

    def delete(self, path: str) -> None:
        """Remove a small file; do nothing for a missing one."""

    def locked(self, folder: str) -> AbstractContextManager[None]:
        """Lock a folder of small files against other writers."""


def files_under(root: str) -> list[str]:
    """Return the sorted paths of all files under `root`, relative to it, with "/" between parts."""
    paths = []
    for folder, _, names in os.walk(root, followlinks=True):
        paths += [os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/") for name in names]
    return sorted(paths)


def copy_and_digest(reader: IO[bytes], writer: IO[bytes] | None = None) -> bytes:
    """Read a file to its end, write what was read to `writer` if there is one, and return its sha256 digest."""
    digest = hashlib.sha256()
    while chunk := reader.read(_CHUNK):
        digest.update(chunk)
        if writer:
            writer.write(chunk)
    return digest.digest()


def number_after(version: int, path: str) -> int:
    """Return the number of the next version at a base path; raise UserError if there is none."""
    if version >= INT64_MAX:
        raise UserError(f"{path} holds version {version}, and no number is higher: give its folder a lower number")
    return version + 1


def changed_while_pushed(saved_model_dir: str) -> RuntimeError:
    """Return the error for a model whose copy has another digest than the model had before."""
    return RuntimeError(f"{saved_model_dir} changed while it was being pushed: push again when it is complete")


def _file_digest(source: str, copy: str | None = None) -> bytes:
    """Return the sha256 digest of a file; with `copy`, the file is also copied there and flushed to disk."""
    with open(source, "rb") as reader:
        if copy is None:
            return copy_and_digest(reader)
        with open(copy, "xb") as writer:
            digest = copy_and_digest(reader, writer)
            writer.flush()
            disk.sync(writer.fileno())
    return digest


def content_digest(saved_model_dir: str, copy: str | None = None) -> str:
    """Return the hex sha256 over every file's relative path and bytes: equal when a push would change nothing.

    With `copy`, the files are also copied into that folder, whose sub-folders exist, and flushed to disk.
    """

    def file_digest(path: str) -> bytes:
        return _file_digest(os.path.join(saved_model_dir, path), os.path.join(copy, path) if copy else None)

    return tree_digest((os.fsencode(path), file_digest(path)) for path in files_under(saved_model_dir))


def _copy_tree(source: str, target: str) -> str:
    """Copy `source` into the new folder `target`, flush it to disk, and return the copy's content digest."""
    os.mkdir(target)  # not mkdtemp: its mode 0700 would hide the model from a server of another user
    folders = [target]
    for folder, names, _ in os.walk(source, followlinks=True):
        for name in names:
            folders.append(os.path.join(target, os.path.relpath(os.path.join(folder, name), source)))
            os.mkdir(folders[-1])
    digest = content_digest(source, target)
    for folder in reversed(folders):
        disk.sync_folder(folder)
    return digest


class Disk:
    """A base path on a mounted POSIX file system.

    A version is written under a hidden name, which TF Serving ignores because it is no number. Then it is flushed to
    disk and renamed, which is atomic.
    """

    def __init__(self, path: str) -> None:
        """Take a path on disk. Raises UserError for a URI."""
        if is_uri(path):
            raise UserError(f"{path} is a URI, but a push from here goes to a mounted file system: give a path")
        self.path = os.path.abspath(path)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """As `BasePath.exclusive`."""
        os.makedirs(self.path, exist_ok=True)
        with disk.locked(self.path):
            for name in os.listdir(self.path):  # the lock is held, so the owner of these has crashed
                if name.startswith((_ASIDE, _DROPPED)):
                    shutil.rmtree(os.path.join(self.path, name))
            yield

    def versions(self) -> dict[int, str]:
        """As `BasePath.versions`."""
        return scan_versions(self.path)

    def highest_number(self) -> int:
        """As `BasePath.highest_number`."""
        return max((int(name) for name in os.listdir(self.path) if is_version_name(name)), default=0)

    def digest(self, version: int) -> str:
        """As `BasePath.digest`."""
        return content_digest(self.versions()[version])

    def local(self, version: int) -> AbstractContextManager[str]:
        """As `BasePath.local`."""
        return contextlib.nullcontext(self.versions()[version])

    def add(self, saved_model_dir: str, digest: str) -> int:
        """As `BasePath.add`."""
        aside = os.path.join(self.path, f"{_ASIDE}{uuid.uuid4().hex}")
        try:
            if _copy_tree(saved_model_dir, aside) != digest:
                raise changed_while_pushed(saved_model_dir)
            version = self.highest_number()
            while True:
                version = number_after(version, self.path)
                try:
                    os.rename(aside, os.path.join(self.path, str(version)))
                except OSError as error:
                    # A pusher without locks (TFX's own) has just taken the number: try the next one.
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise
                else:
                    break
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        disk.sync_folder(self.path)
        return version

    def remove(self, version: int) -> None:
        """As `BasePath.remove`."""
        while folder := self.versions().get(version):  # `8` and `008` are one version
            aside = os.path.join(self.path, f"{_DROPPED}{version}-{uuid.uuid4().hex}")
            os.rename(folder, aside)
            shutil.rmtree(aside)

    def names(self, folder: str) -> list[str]:
        """As `BasePath.names`."""
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []

    def read(self, path: str) -> bytes | None:
        """As `BasePath.read`."""
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> None:
        """As `BasePath.write`. The caller holds a lock, as `disk.write` requires."""
        disk.write(path, content)

    def delete(self, path: str) -> None:
        """As `BasePath.delete`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def locked(self, folder: str) -> AbstractContextManager[None]:
        """As `BasePath.locked`."""
        return disk.locked(folder)
