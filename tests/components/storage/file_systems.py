"""File systems for Beam that serve the files on disk: `scheme:///tmp/x` is /tmp/x.

In a module of its own, so that Beam's workers find them by import, as they find Beam's.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem


class Plain(LocalFileSystem):
    """Like an object store without checksums: no folders, a listing of all that begins with a prefix."""

    @classmethod
    def scheme(cls) -> str:
        return "plain"

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        prefix = self._on_disk(dir_or_prefix)
        for folder, _, names in os.walk(os.path.dirname(prefix)):
            for name in names:
                path = os.path.join(folder, name)
                if path.startswith(prefix):
                    yield FileMetadata(f"{self.scheme()}://{path}", os.path.getsize(path))

    def open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return super().open(self._on_disk(path), *args, **kwargs)

    def size(self, path: str) -> int:
        return os.path.getsize(self._on_disk(path))

    def checksum(self, path: str) -> str:
        return super().checksum(self._on_disk(path))

    def _on_disk(self, uri: str) -> str:
        return uri.removeprefix(f"{self.scheme()}://")


class Summed(Plain):
    """One that keeps a checksum of each file, and lets nobody read the content."""

    @classmethod
    def scheme(cls) -> str:
        return "summed"

    def checksum(self, path: str) -> str:
        return hashlib.md5(pathlib.Path(self._on_disk(path)).read_bytes()).hexdigest() + "-md5"

    def open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        raise BeamIOError("Open operation failed", {path: PermissionError(13, "Permission denied")})


class Nested(Plain):
    """One with folders that are listed one at a time, as Hadoop's. A folder is an entry of size 0, as an empty file."""

    @classmethod
    def scheme(cls) -> str:
        return "nested"

    def has_dirs(self) -> bool:
        return True

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        folder = self._on_disk(dir_or_prefix)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    size = 0 if entry.is_dir() else entry.stat().st_size
                    yield FileMetadata(f"{self.scheme()}://{os.path.join(folder, entry.name)}", size)
        except OSError as error:
            raise BeamIOError("List operation failed", {dir_or_prefix: error}) from error


class Shut(Plain):
    """One that lets nobody in, and says so as Google's and Amazon's clients do."""

    @classmethod
    def scheme(cls) -> str:
        return "shut"

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        error = RuntimeError("403 GET https://…: a page of text")
        error.code = 403  # type: ignore[attr-defined]
        raise BeamIOError("List operation failed", {dir_or_prefix: error})
