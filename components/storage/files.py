"""Safe reading of a user's files, on disk or at a URI of any file system that Beam knows.

The scan, the fingerprint, the manifest and the ingest read through this module. Standard library only: Beam takes two
seconds to import, so it is imported only for a URI.
"""

import contextlib
import copy
import functools
import hashlib
import os
import stat
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from graftline.serving.images.formats import DECODABLE as DECODABLE
from graftline.serving.images.formats import HEAD_BYTES as HEAD_BYTES
from graftline.serving.images.formats import READABLE as READABLE
from graftline.serving.images.formats import is_left_out as is_left_out
from graftline.serving.images.formats import sniff as sniff
from graftline.uri import is_uri

if TYPE_CHECKING:
    from apache_beam.io.aws.s3io import S3IO
    from apache_beam.io.filesystem import FileSystem
    from apache_beam.options.pipeline_options import PipelineOptions

REMOTE_THREADS = 10  # a request waits and does not compute; botocore keeps 10 connections
_CHUNK = 1 << 20
_MORE = 1 << 16
_LONGEST_REASON = 200  # characters; a cloud's answer may be a whole page
_STATUS_WORDS = {
    401: "Permission denied: the credentials are missing or not valid",
    403: "Permission denied",
    404: "No such file or bucket",
}


def escape(name: str) -> str:
    """Return `name` with control characters and bytes that are not UTF-8 as backslash escapes, for a log or a file."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) == "Cc" else c for c in text)


def open_regular(path: str) -> BinaryIO:
    """Open a file for reading; raise OSError if it cannot be read, or is not a regular file."""
    descriptor, _ = _open_regular(path)
    return os.fdopen(descriptor, "rb")


def _open_regular(path: str) -> tuple[int, int]:
    """Return the descriptor of a regular file, and its size. A FIFO would block for ever, and a device may do anything.

    The type is checked before opening and again afterwards, because the file can be replaced in between.
    """
    _require_regular(os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        opened = os.fstat(descriptor)
        _require_regular(opened.st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor, opened.st_size


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(None, f"is {kind_of(mode)}, not a file")


def kind_of(mode: int) -> str:
    """Return the type of a directory entry in words, from its `st_mode`."""
    kinds = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((words for test, words in kinds if test(mode)), "not a regular file")


def use_beam_options(flags: Sequence[str]) -> None:
    """Give Beam's file systems the pipeline options that concern them, such as --s3_endpoint_url=URL.

    A pipeline does so itself, here and on its workers. This function is for reading URIs before there is a pipeline.
    """
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    FileSystems.set_options(PipelineOptions(list(flags)))


def beam_options() -> "PipelineOptions":
    """Return the options that Beam's file systems have."""
    from apache_beam.io.filesystems import FileSystems

    # Without options the file system of S3 cannot be made, and that of GCS parses this program's own command line.
    if FileSystems._pipeline_options is None:
        use_beam_options([])
    return FileSystems._pipeline_options


def filesystem(uri: str) -> "FileSystem":
    """Return Beam's file system for `uri`; raise ValueError if none has this scheme, or it lacks an option."""
    from apache_beam.io.filesystems import FileSystems

    beam_options()
    return FileSystems.get_filesystem(uri)


_making_client = threading.Lock()


def s3() -> "S3IO":
    """Return Beam's S3 with a connection for many files. Beam's own file system makes a client for each file: 0.3 s."""
    from apache_beam.io.aws.s3io import S3IO
    from apache_beam.options.pipeline_options import S3Options

    options = beam_options().view_as(S3Options).get_all_options()
    with _making_client:
        client = _s3_client(tuple((name, value) for name, value in options.items() if name.startswith("s3_")))
    # Threads may share boto3's client, but not Beam's wrapper, which keeps the position in the file.
    return S3IO(client=copy.copy(client))


@functools.lru_cache(maxsize=1)
def _s3_client(options: tuple[tuple[str, Any], ...]) -> Any:
    from apache_beam.io.aws.clients.s3.boto3_client import Client

    return Client(dict(options))


def _stores(uri: str) -> "FileSystem | S3IO":
    """Return an object with the methods `size` and `checksum` for the file."""
    return s3() if uri.startswith("s3://") else filesystem(uri)


def match(pattern: str, limit: int | None = None) -> list[str]:
    """Return the paths or URIs that match one of Beam's patterns, in which "**" goes through folders."""
    from apache_beam.io.filesystems import FileSystems

    return [found.path for found in FileSystems.match([pattern], limits=[limit])[0].metadata_list]


def _open_remote(uri: str) -> BinaryIO:
    if uri.startswith("s3://"):
        return s3().open(uri, "rb")
    # By default Beam unpacks files with names that end in .gz.
    return filesystem(uri).open(uri, compression_type="uncompressed")


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Open a file on disk or at a URI, to read its bytes as they are stored.

    Raises:
        OSError: the file cannot be opened or read; `strerror` is plain words.
    """
    if not is_uri(path):
        with open_regular(path) as file:
            yield file
        return
    with _plain_errors(), _open_remote(path) as file:
        yield file


def read(path: str, limit: int) -> tuple[bytes, int]:
    """Return bytes and size of the file at a path or URI. Memory: at most `limit` + 1 bytes.

    A file of more than `limit` bytes gives no bytes.

    Raises:
        OSError: the file cannot be read, or is not a regular file; `strerror` is plain words.
    """
    if is_uri(path):
        with opened(path) as file:
            data = _up_to(file, limit + 1)
        if len(data) <= limit:
            return data, len(data)
        with _plain_errors():
            return b"", _stores(path).size(path)
    descriptor, size = _open_regular(path)
    try:
        if size > limit:
            return b"", size
        data = _whole(descriptor, size, limit + 1)
    finally:
        os.close(descriptor)
    return (data if len(data) <= limit else b""), len(data)


def _whole(descriptor: int, size: int, limit: int) -> bytes:
    """Return the bytes of a file that had `size` bytes when it was opened; at most `limit` bytes."""
    data = os.read(descriptor, min(size + 1, limit))
    chunks = [data]
    left = limit - len(data)
    # One read more than usually needed: the file may have grown, or may not know its size.
    while data and left and (data := os.read(descriptor, min(left, _MORE))):
        chunks.append(data)
        left -= len(data)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def head(path: str) -> bytes:
    """Return the first `HEAD_BYTES` bytes of a file; raise OSError as `read` does."""
    with opened(path) as file:
        return _up_to(file, HEAD_BYTES)


def content_id(path: str) -> str:
    """Return a text that changes with the file's content: its sha256, or the checksum that its file system keeps.

    Raises OSError as `read` does.
    """
    if is_uri(path):
        with contextlib.suppress(Exception):  # there is no checksum or no file: reading shows which
            checksum = str(_stores(path).checksum(path) or "")
            # Digits alone are the size: Beam's local file system, for example, has no checksum and returns the size.
            if checksum and not checksum.isdigit():
                return f"{path.partition(':')[0]} {checksum}"
    digest = hashlib.sha256()
    with opened(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def why(error: BaseException) -> str:
    """Return the cause of a file system's error in one line of plain words. Beam nests the exceptions."""
    while details := getattr(error, "exception_details", None):
        (cause, *_) = details.values()
        if not isinstance(cause, BaseException):
            return str(cause)
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    status = getattr(error, "code", None)  # of Beam's S3ClientError and of google.api_core's errors
    if status in _STATUS_WORDS:
        return _STATUS_WORDS[status]
    if "Connect" in type(error).__name__:  # of requests and botocore; their text is a stack of causes
        return "no connection to the server"
    line = str(error).strip().split("\n")[0][:_LONGEST_REASON]
    return line or type(error).__name__


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each file system raises its client library's own exceptions
        raise OSError(None, why(error)) from error


def _up_to(file: BinaryIO, count: int, step: int = _CHUNK) -> bytes:
    """Return `count` bytes, or fewer at the end of the file. In steps: Python allocates each read's full size first."""
    chunks = []
    while count and (chunk := file.read(min(count, step))):
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def cpus() -> int:
    """Return the number of processors that this process may use: in a container fewer than `os.cpu_count()`."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
