"""Opening and naming files of unknown origin safely: on disk, or at a URI of any filesystem that Beam knows.

Used by `layouts`, `listing`, `manifest` and `ingest`. Standard library only: Beam, which takes two seconds to import,
is imported where a URI is at hand.
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

# Shared with the client, which classifies a file as it would have been stored.
from graftline.uri import is_uri

if TYPE_CHECKING:
    from apache_beam.io.aws.s3io import S3IO
    from apache_beam.io.filesystem import FileSystem
    from apache_beam.options.pipeline_options import PipelineOptions

REMOTE_THREADS = 10  # a request waits, it does not compute; botocore keeps as many connections
_CHUNK = 1 << 20
_MORE = 1 << 16
_LONGEST_REASON = 200  # characters; a cloud's answer may be a whole page
_STATUS_WORDS = {
    401: "Permission denied: the credentials are missing or not valid",
    403: "Permission denied",
    404: "No such file or bucket",
}


def escape(name: str) -> str:
    """`name` fit for a log, a CSV or JSON: control characters and bytes that are not UTF-8 become backslash escapes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) == "Cc" else c for c in text)


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading, and nothing else: a FIFO would block for ever and a device may do anything.

    Looks before opening, and again at what was opened, since a file can be replaced in between.

    Raises:
        OSError: the file can't be read, or is not a regular file.
    """
    descriptor, _ = _open_regular(path)
    return os.fdopen(descriptor, "rb")


def _open_regular(path: str) -> tuple[int, int]:
    """`open_regular`'s descriptor, and the size of the file."""
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
    """What `st_mode` says a directory entry is, in words."""
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
    """Tell Beam's filesystems the pipeline options that concern them, such as --s3_endpoint_url=URL.

    A pipeline does so itself, here and on its workers; this is for those who read URIs before there is one.
    """
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    FileSystems.set_options(PipelineOptions(list(flags)))


def beam_options() -> "PipelineOptions":
    """The options that Beam's filesystems have been told."""
    from apache_beam.io.filesystems import FileSystems

    # Without any, that of S3 can't be made, and that of GCS takes this program's own command line for them.
    if FileSystems._pipeline_options is None:
        use_beam_options([])
    return FileSystems._pipeline_options


def filesystem(uri: str) -> "FileSystem":
    """Beam's filesystem for `uri`.

    Raises:
        ValueError: no filesystem of this scheme is known, or it lacks an option.
    """
    from apache_beam.io.filesystems import FileSystems

    beam_options()
    return FileSystems.get_filesystem(uri)


_making_client = threading.Lock()


def s3() -> "S3IO":
    """Beam's S3 by a connection that outlives a file. Beam's own filesystem makes a client for each file: 0.3 s."""
    from apache_beam.io.aws.s3io import S3IO
    from apache_beam.options.pipeline_options import S3Options

    options = beam_options().view_as(S3Options).get_all_options()
    with _making_client:
        client = _s3_client(tuple((name, value) for name, value in options.items() if name.startswith("s3_")))
    # boto3's part of it may be shared by threads; Beam's own part keeps the place in the file.
    return S3IO(client=copy.copy(client))


@functools.lru_cache(maxsize=1)
def _s3_client(options: tuple[tuple[str, Any], ...]) -> Any:
    from apache_beam.io.aws.clients.s3.boto3_client import Client

    return Client(dict(options))


def _stores(uri: str) -> "FileSystem | S3IO":
    """What has `size` and `checksum` of the file."""
    return s3() if uri.startswith("s3://") else filesystem(uri)


def _open_remote(uri: str) -> BinaryIO:
    if uri.startswith("s3://"):
        return s3().open(uri, "rb")
    # Said outright, for Beam would go by the name and unpack what ends in .gz.
    return filesystem(uri).open(uri, compression_type="uncompressed")


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file on disk or at a URI, for reading its bytes as they are stored.

    Raises:
        OSError: it can't be opened or read; `strerror` is plain words.
    """
    if not is_uri(path):
        with open_regular(path) as file:
            yield file
        return
    with _plain_errors(), _open_remote(path) as file:
        yield file


def read(path: str, limit: int) -> tuple[bytes, int]:
    """A file's bytes and size; no bytes when there are more than `limit`. Never holds more than `limit` + 1 bytes.

    Args:
        path: of a file on disk, or a URI.
        limit: bytes.

    Raises:
        OSError: it can't be read, or is no regular file; `strerror` is plain words.
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
    """What `descriptor` holds, which should be `size` bytes, and at most `limit`. A file object would cost as much."""
    data = os.read(descriptor, min(size + 1, limit))
    chunks = [data]
    left = limit - len(data)
    # Once more than needed, as a rule: a file that grew, or did not know its size, goes on.
    while data and left and (data := os.read(descriptor, min(left, _MORE))):
        chunks.append(data)
        left -= len(data)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def head(path: str) -> bytes:
    """The first `HEAD_BYTES` bytes of a file. Raises: as `read`."""
    with opened(path) as file:
        return _up_to(file, HEAD_BYTES)


def content_id(path: str) -> str:
    """What changes when a file's content does: its sha256, or the checksum that its filesystem keeps of it.

    Raises: as `read`.
    """
    if is_uri(path):
        with contextlib.suppress(Exception):  # no checksum is kept, or the file is gone: reading it will tell
            checksum = str(_stores(path).checksum(path) or "")
            # Digits alone are the size, which some give in its place, as Beam's local filesystem does.
            if checksum and not checksum.isdigit():
                return f"{path.partition(':')[0]} {checksum}"
    digest = hashlib.sha256()
    with opened(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def why(error: BaseException) -> str:
    """The reason behind an error of a filesystem in one line of plain words, out of Beam's nest of exceptions."""
    while details := getattr(error, "exception_details", None):
        (cause, *_) = details.values()
        if not isinstance(cause, BaseException):
            return str(cause)
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    status = getattr(error, "code", None)  # both of Beam's S3ClientError and of google.api_core's errors
    if status in _STATUS_WORDS:
        return _STATUS_WORDS[status]
    if "Connect" in type(error).__name__:  # those of requests and botocore; their text is a stack of their own
        return "no connection to the server"
    line = str(error).strip().split("\n")[0][:_LONGEST_REASON]
    return line or type(error).__name__


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each filesystem raises what its client library does
        raise OSError(None, why(error)) from error


def _up_to(file: BinaryIO, count: int, step: int = _CHUNK) -> bytes:
    """`count` bytes, fewer only at the end. In steps, for Python allocates what is asked for before it is there."""
    chunks = []
    while count and (chunk := file.read(min(count, step))):
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def cpus() -> int:
    """Processors that this process may use, which in a container are fewer than `os.cpu_count()`."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
