"""What lies under a folder on disk or a URI: one way to look, two places.

Opens no file and follows no link to a folder. Paths are relative to the root, with "/" between their parts; "" is the
root itself.
"""

import bisect
import contextlib
import errno
import importlib
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from graftline import uri
from graftline.components.storage import files
from graftline.errors import UserError

if TYPE_CHECKING:
    from apache_beam.io.filesystem import FileMetadata, FileSystem


class _Cloud(NamedTuple):
    """What one of Beam's filesystems asks for."""

    module: str  # without it the filesystem is not there, or breaks when it is used
    extra: str  # of apache-beam, which brings the module
    access: str  # where it looks for credentials or its address


_CLOUDS = {
    "gs": _Cloud(
        "google.cloud.storage",
        "gcp",
        "credentials come from `gcloud auth application-default login` or GOOGLE_APPLICATION_CREDENTIALS",
    ),
    "s3": _Cloud("boto3", "aws", "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws"),
    "azfs": _Cloud("azure.storage.blob", "azure", "credentials come from azure.identity's default ones"),
    "hdfs": _Cloud("hdfs", "hadoop", "beam.options name its server: --hdfs_host, --hdfs_port and --hdfs_user"),
}


class Found(NamedTuple):
    """Something that is no folder."""

    path: str
    reason: str = ""  # why it must not be opened; "" when it may


class Tree(Protocol):
    """A folder or URI to look into. Left-out names (`files.is_left_out`) are in none of the answers."""

    root: str

    def look(self, folder: str) -> tuple[list[str], list[Found]]:
        """The names of the folders that lie directly in `folder`, and what else does; both sorted.

        Raises:
            UserError: the folder can't be read.
        """

    def walk(self, folder: str) -> Iterator[Found]:
        """Everything under `folder`, at any depth. Raises: as `look`."""


class Disk:
    """A `Tree` on disk."""

    def __init__(self, root: str) -> None:
        """`root` is an absolute path without links in it."""
        self.root = root
        self._real: dict[str, str] = {}  # what the folders of the files that were judged are

    def look(self, folder: str) -> tuple[list[str], list[Found]]:
        """As `Tree.look`. A link to a folder is no folder."""
        names, others = [], []
        for entry in self._entries(folder):
            path = _child(folder, entry.name)
            if entry.is_dir(follow_symlinks=False):
                names.append(entry.name)
            elif entry.is_symlink() and entry.is_dir():
                others.append(Found(path, "link to a folder: not followed, move or copy the folder"))
            else:
                others.append(Found(path, self._why_not(entry, path)))
        return names, others

    def walk(self, folder: str) -> Iterator[Found]:
        """As `Tree.walk`."""
        folders = [folder]
        while folders:
            here = folders.pop()
            for entry in self._entries(here):
                path = _child(here, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                else:
                    yield Found(path, self._why_not(entry, path))

    def judge(self, path: str) -> str:
        """Why the file `path`, which somebody named, must not be opened; "" when it may."""
        if wrong := wrong_name(path):
            return wrong
        whole = uri.join(self.root, path)
        try:
            mode = os.stat(whole).st_mode
        except OSError as error:
            return _why_no_stat(error, os.path.islink(whole))
        folder = os.path.dirname(whole)
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        real = os.path.realpath(whole) if os.path.islink(whole) else self._real[folder]
        if not self._holds(real):
            return "link out of the folder of images: not followed"
        return "" if stat.S_ISREG(mode) else f"not a file: {files.kind_of(mode)}"

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        place = os.path.join(self.root, folder) if folder else self.root
        try:
            with os.scandir(place) as entries:
                return sorted((e for e in entries if not files.is_left_out(e.name)), key=lambda e: e.name)
        except OSError as error:
            raise UserError(
                f"{files.escape(place)}: the folder can't be read ({error.strerror}); make it readable or remove it"
            ) from error

    def _why_not(self, entry: os.DirEntry[str], path: str) -> str:
        """`judge` for what a folder listed, which saves most of its system calls."""
        if wrong := wrong_name(path):
            return wrong
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            return _why_no_stat(error, entry.is_symlink())
        if entry.is_symlink():
            if not self._holds(os.path.realpath(entry.path)):
                return "link out of the folder of images: not followed"
            if stat.S_ISDIR(mode):
                return "link to a folder: not followed"
        return "" if stat.S_ISREG(mode) else f"not a file: {files.kind_of(mode)}"

    def _holds(self, real: str) -> bool:
        return os.path.commonpath([self.root, real]) == self.root


class Objects:
    """A `Tree` at a URI: one listing of all that begins with it, taken when this is made."""

    def __init__(self, uri: str) -> None:
        """List everything under `uri`.

        Raises:
            UserError: its filesystem is unknown, or does not let us list it.
        """
        self.root = uri
        prefix = f"{uri.rstrip('/')}/"
        # Placeholders, which end in "/", stand for folders that a console made.
        paths = (entry.path[len(prefix) :] for entry in _listed(prefix) if not entry.path.endswith("/"))
        self._paths = sorted(path for path in paths if not any(map(files.is_left_out, path.split("/"))))

    def look(self, folder: str) -> tuple[list[str], list[Found]]:
        """As `Tree.look`."""
        names, others = set(), []
        skip = len(folder) + 1 if folder else 0
        for path in self._under(folder):
            name, slash, _ = path[skip:].partition("/")
            if slash and name:  # the name of an object may have an empty part, which names no folder
                names.add(name)
            else:
                others.append(Found(path, wrong_name(path)))
        return sorted(names), others

    def walk(self, folder: str) -> Iterator[Found]:
        """As `Tree.walk`."""
        return (Found(path, wrong_name(path)) for path in self._under(folder))

    def _under(self, folder: str) -> list[str]:
        if not folder:
            return self._paths
        # Every path that begins with "folder/" sorts before "folder0", for "0" is the character after "/".
        first, last = (bisect.bisect_left(self._paths, folder + end) for end in "/0")
        return self._paths[first:last]


def wrong_name(path: str) -> str:
    """The reason to refuse a path for its characters; "" where there is none."""
    return "name is not printable UTF-8 text" if files.escape(path) != path else ""


def _child(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _why_no_stat(error: OSError, is_link: bool) -> str:
    if not is_link:
        return "no such file" if error.errno in (errno.ENOENT, errno.ENOTDIR) else f"unreadable: {error.strerror}"
    return "broken link: it runs in a circle" if error.errno == errno.ELOOP else "broken link"


def require_reachable(uri: str) -> None:
    """Raises UserError unless Beam has a filesystem for the URI that lets us in. One request."""
    with _told(uri) as scheme:
        _try_at_once(uri, scheme)


def _listed(prefix: str) -> "list[FileMetadata]":
    require_reachable(prefix)
    with _told(prefix):
        return list(_descend(files.filesystem(prefix), prefix))


@contextlib.contextmanager
def _told(uri: str) -> Iterator[str]:
    """Gives the scheme of `uri`; an error of its filesystem becomes a UserError."""
    scheme = uri.partition(":")[0]
    cloud = _CLOUDS.get(scheme)
    try:
        if cloud:
            importlib.import_module(cloud.module)
        elif scheme not in _schemes():
            raise UserError(
                f"{uri}: no filesystem is known for {scheme}://; give the path of a folder, or a URI of "
                f"{', '.join(sorted({*_schemes(), *_CLOUDS}))}"
            )
        yield scheme
    except UserError:
        raise
    except ImportError as error:
        how = f"pip install 'apache-beam[{cloud.extra}]'" if cloud else str(error)
        raise UserError(f"{uri}: {scheme}:// needs a package that is not installed: {how}") from error
    except Exception as error:  # each filesystem raises what its client library does
        hint = f"; {cloud.access}" if cloud else ""
        raise UserError(
            f"{uri} can't be read: {files.why(error)}. Check the address, the network and the credentials{hint}"
        ) from error


def _schemes() -> set[str]:
    from apache_beam.io.filesystem import FileSystem
    from apache_beam.io.filesystems import FileSystems  # noqa: F401 - brings the ones that Beam has

    return {system.scheme() for system in FileSystem.get_all_subclasses() if system.scheme()}


def _descend(system: "FileSystem", folder: str) -> "Iterator[FileMetadata]":
    """Every file. `FileSystem.match` would do, if a pattern could hold a name with "*", "?" or "[" in it.

    Object stores list all that begins with a prefix. Of those that have folders, HDFS lists one folder, and does not
    say which of its entries are folders themselves but by a size of 0.
    """
    from apache_beam.io.filesystem import BeamIOError

    for entry in system._list(folder):
        inner: list[FileMetadata] = []
        if system.has_dirs() and not entry.size_in_bytes and entry.path.rstrip("/") != folder.rstrip("/"):
            try:
                inner = list(_descend(system, entry.path))
            except BeamIOError:  # an empty file, which has no listing
                inner = []
        yield from inner or [entry]


def _try_at_once(prefix: str, scheme: str) -> None:
    """One request, whose error is told at once. Beam tries for minutes to get credentials that are not there or to
    reach a server that is not, and takes a missing bucket of S3 for an empty one."""
    bucket, _, start = prefix.partition("://")[2].partition("/")
    if scheme == "s3":
        files.s3().client.client.list_objects_v2(Bucket=bucket, Prefix=start, MaxKeys=1)
    if scheme == "gs":
        import google.auth
        from google.cloud import storage

        try:
            client = storage.Client(project="none", credentials=google.auth.default()[0])
        except google.auth.exceptions.DefaultCredentialsError:
            client = storage.Client.create_anonymous_client()  # which a public bucket is content with
        next(iter(client.list_blobs(bucket, prefix=start, max_results=1, retry=None, timeout=10)), None)
