"""Lists of what is under a folder: `Disk` for a folder on disk and `Objects` for a URI, with one interface.

No file is opened, and no link to a folder is followed. Paths are relative to the root, with "/" between their parts;
"" is the root itself.
"""

import bisect
import contextlib
import errno
import importlib
import itertools
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from graftline import lookalikes, uri
from graftline.components.storage import files
from graftline.errors import UserError
from graftline.serving.images.formats import is_image_name

if TYPE_CHECKING:
    from apache_beam.io.filesystem import FileMetadata, FileSystem


class _Cloud(NamedTuple):
    """The requirements of one of Beam's file systems."""

    module: str  # without it the file system is missing, or fails when it is used
    extra: str  # the extra of apache-beam that installs the module
    access: str  # where the file system looks for credentials or its address


_CLOUDS = {
    "gs": _Cloud(
        "google.cloud.storage",
        "gcp",
        "credentials come from `gcloud auth application-default login` or GOOGLE_APPLICATION_CREDENTIALS",
    ),
    "s3": _Cloud("boto3", "aws", "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws"),
    "azfs": _Cloud("azure.storage.blob", "azure", "credentials come from azure.identity's DefaultAzureCredential"),
    "hdfs": _Cloud("hdfs", "hadoop", "beam.options name its server: --hdfs_host, --hdfs_port and --hdfs_user"),
}


_SKIPPED = 100  # folders that were left out by their names, and
_LOOKED_AT = 1_000  # files in each, are looked at for images


class Entry(NamedTuple):
    """A directory entry that is not a folder."""

    path: str
    reason: str = ""  # why it must not be opened; "" if it may be opened


class Tree(Protocol):
    """A folder or a URI. Its methods skip the names that `files.is_left_out` excludes, without opening them."""

    root: str

    def left_out(self) -> list[str]:
        """Return the folders that were skipped by their names and hold images; sorted.

        Not all of a large folder is looked at, and none that cannot be read.
        """

    def look(self, folder: str) -> tuple[list[str], list[Entry]]:
        """Return the names of the folders directly in `folder`, and its other entries; both sorted.

        Raises UserError if the folder cannot be read.
        """

    def walk(self, folder: str) -> Iterator[Entry]:
        """Yield everything under `folder` that is not a folder, at any depth; raise UserError as `look` does."""


class Disk:
    """A `Tree` on disk."""

    def __init__(self, root: str) -> None:
        """Make a tree of `root`, an absolute path without links in it."""
        self.root = root
        self._real: dict[str, str] = {}  # real paths of the folders of the files that `check` saw
        self._skipped: set[str] = set()

    def look(self, folder: str) -> tuple[list[str], list[Entry]]:
        """See `Tree.look`. A link to a folder is an entry with a reason."""
        names, others = [], []
        for entry in self._entries(folder):
            path = _child(folder, entry.name)
            if entry.is_dir(follow_symlinks=False):
                names.append(entry.name)
            elif entry.is_symlink() and entry.is_dir():
                others.append(Entry(path, "link to a folder: not followed; move or copy the folder"))
            else:
                others.append(Entry(path, self._check_entry(entry, path)))
        return names, others

    def walk(self, folder: str) -> Iterator[Entry]:
        """See `Tree.walk`."""
        folders = [folder]
        while folders:
            here = folders.pop()
            for entry in self._entries(here):
                path = _child(here, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                else:
                    yield Entry(path, self._check_entry(entry, path))

    def left_out(self) -> list[str]:
        """See `Tree.left_out`."""
        folders = sorted(self._skipped)[:_SKIPPED]
        return [folder for folder in folders if _holds_image(os.path.join(self.root, folder))]

    def near(self, path: str) -> str:
        """Return the path of an entry whose name looks like that of `path`, which does not exist; "" if there is none.

        Names look alike that differ by case, by Unicode's forms or by spaces.
        """
        found = ""
        for part in path.split("/"):
            try:
                names = sorted(os.listdir(os.path.join(self.root, found)))
            except OSError:
                return ""
            alike = [part] if part in names else [name for one, name in lookalikes.match([part], names)]
            if not alike:
                return ""
            found = _child(found, alike[0])
        return found if found != path else ""

    def check(self, path: str) -> str:
        """Return why the file at a path that a user gave must not be opened; "" if it may be opened."""
        if reason := check_name(path):
            return reason
        whole = uri.join(self.root, path)
        try:
            mode = os.stat(whole).st_mode
        except OSError as error:
            return _describe_stat_error(error, os.path.islink(whole))
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
                kept: list[os.DirEntry[str]] = []
                skipped: list[os.DirEntry[str]] = []
                for entry in entries:
                    (skipped if files.is_left_out(entry.name) else kept).append(entry)
                # Kubernetes mounts a volume's files as links into a folder such as ..2026_11_30_21_14_39.
                names = [e.name for e in skipped if e.is_dir(follow_symlinks=False) and not e.name.startswith("..")]
                self._skipped.update(_child(folder, name) for name in names)
                return sorted(kept, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"{files.escape(place)}: the folder cannot be read ({error.strerror}); make it readable or remove it"
            ) from error

    def _check_entry(self, entry: os.DirEntry[str], path: str) -> str:
        """Do as `check` does, for an entry of a listing, which saves most of the system calls."""
        if reason := check_name(path):
            return reason
        try:
            mode = entry.stat().st_mode
        except OSError as error:
            return _describe_stat_error(error, entry.is_symlink())
        if entry.is_symlink():
            if not self._holds(os.path.realpath(entry.path)):
                return "link out of the folder of images: not followed"
            if stat.S_ISDIR(mode):
                return "link to a folder: not followed"
        return "" if stat.S_ISREG(mode) else f"not a file: {files.kind_of(mode)}"

    def _holds(self, real: str) -> bool:
        return os.path.commonpath([self.root, real]) == self.root


class Objects:
    """A `Tree` at a URI. One listing of the whole tree is made at construction."""

    def __init__(self, uri: str) -> None:
        """List everything under `uri`; raise UserError if the file system is unknown, or does not allow a listing."""
        self.root = uri
        prefix = f"{uri.rstrip('/')}/"
        # Paths that end in "/" are placeholders for folders that a cloud's console made.
        paths = (entry.path[len(prefix) :] for entry in _listed(prefix) if not entry.path.endswith("/"))
        self._paths: list[str] = []
        self._left_out: set[str] = set()
        for path in paths:
            parts = path.split("/")
            skipped = next((number for number, part in enumerate(parts) if files.is_left_out(part)), None)
            if skipped is None:
                self._paths.append(path)
            elif skipped < len(parts) - 1 and is_image_name(path):
                self._left_out.add("/".join(parts[: skipped + 1]))
        self._paths.sort()

    def left_out(self) -> list[str]:
        """See `Tree.left_out`."""
        return sorted(self._left_out)

    def look(self, folder: str) -> tuple[list[str], list[Entry]]:
        """See `Tree.look`."""
        names, others = set(), []
        skip = len(folder) + 1 if folder else 0
        for path in self._under(folder):
            name, slash, _ = path[skip:].partition("/")
            if slash and name:  # an object's name may have an empty part, which is not a folder
                names.add(name)
            else:
                others.append(Entry(path, check_name(path)))
        return sorted(names), others

    def walk(self, folder: str) -> Iterator[Entry]:
        """See `Tree.walk`."""
        return (Entry(path, check_name(path)) for path in self._under(folder))

    def _under(self, folder: str) -> list[str]:
        if not folder:
            return self._paths
        # Every path that begins with "folder/" sorts before "folder0", because "0" is the character after "/".
        first, last = (bisect.bisect_left(self._paths, folder + end) for end in "/0")
        return self._paths[first:last]


def _holds_image(folder: str) -> bool:
    """Return whether one of the first files under a folder has the name of an image."""
    names = (name for _, _, names in os.walk(folder) for name in names)
    return any(map(is_image_name, itertools.islice(names, _LOOKED_AT)))


def check_name(path: str) -> str:
    """Return why the characters of a path are not allowed; "" if they are."""
    return "name is not printable UTF-8 text" if files.escape(path) != path else ""


def _child(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _describe_stat_error(error: OSError, is_link: bool) -> str:
    if not is_link:
        return "no such file" if error.errno in (errno.ENOENT, errno.ENOTDIR) else f"unreadable: {error.strerror}"
    return "broken link: it leads back to itself" if error.errno == errno.ELOOP else "broken link"


def require_reachable(uri: str) -> None:
    """Raise UserError unless one request shows that Beam has a file system for the URI and that it grants access."""
    with _as_user_error(uri) as scheme:
        _request_once(uri, scheme)


def _listed(prefix: str) -> "list[FileMetadata]":
    require_reachable(prefix)
    with _as_user_error(prefix):
        return list(_descend(files.filesystem(prefix), prefix))


@contextlib.contextmanager
def _as_user_error(uri: str) -> Iterator[str]:
    """Yield the scheme of `uri`, and turn an error of its file system into a UserError."""
    scheme = uri.partition(":")[0]
    cloud = _CLOUDS.get(scheme)
    try:
        if cloud:
            importlib.import_module(cloud.module)
        elif scheme not in _schemes():
            raise UserError(
                f"{uri}: no file system is known for {scheme}://; give the path of a folder, or a URI of "
                f"{', '.join(sorted({*_schemes(), *_CLOUDS}))}"
            )
        yield scheme
    except UserError:
        raise
    except ImportError as error:
        remedy = f"pip install 'apache-beam[{cloud.extra}]'" if cloud else str(error)
        raise UserError(f"{uri}: {scheme}:// needs a package that is not installed: {remedy}") from error
    except Exception as error:  # each file system raises its client library's own exceptions
        hint = f"; {cloud.access}" if cloud else ""
        raise UserError(
            f"{uri} cannot be read: {files.why(error)}. Check the address, the network and the credentials{hint}"
        ) from error


def _schemes() -> set[str]:
    from apache_beam.io.filesystem import FileSystem
    from apache_beam.io.filesystems import FileSystems  # noqa: F401 - registers Beam's own file systems

    return {system.scheme() for system in FileSystem.get_all_subclasses() if system.scheme()}


def _descend(system: "FileSystem", folder: str) -> "Iterator[FileMetadata]":
    """Yield every file under `folder`.

    `FileSystem.match` cannot do this: its patterns cannot hold names with "*", "?" or "[" in them. Object stores list
    all names with a prefix. HDFS lists one folder; an entry of size 0 is a folder or an empty file.
    """
    from apache_beam.io.filesystem import BeamIOError

    for entry in system._list(folder):
        inner: list[FileMetadata] = []
        if system.has_dirs() and not entry.size_in_bytes and entry.path.rstrip("/") != folder.rstrip("/"):
            with contextlib.suppress(BeamIOError):  # an empty file, which has no listing
                inner = list(_descend(system, entry.path))
        yield from inner or [entry]


def _request_once(prefix: str, scheme: str) -> None:
    """Make one request, which fails at once if something is wrong.

    Beam waits minutes for missing credentials or an unreachable server, and treats a missing S3 bucket as an empty one.
    """
    bucket, _, start = prefix.partition("://")[2].partition("/")
    if scheme == "s3":
        files.s3().client.client.list_objects_v2(Bucket=bucket, Prefix=start, MaxKeys=1)
    if scheme == "gs":
        import google.auth
        from google.cloud import storage

        try:
            client = storage.Client(project="none", credentials=google.auth.default()[0])
        except google.auth.exceptions.DefaultCredentialsError:
            client = storage.Client.create_anonymous_client()  # enough for a public bucket
        next(iter(client.list_blobs(bucket, prefix=start, max_results=1, retry=None, timeout=10)), None)
