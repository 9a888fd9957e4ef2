"""Files that are written whole and reach the disk, and locks. The one place for both.

Network and FUSE file systems lack some services of a local disk: the fsync of a folder, locks, renames of folders. What
can be done without is passed over. `rehearse` tries the rest before a run, which would miss it only after the training.
Standard library only, except for URIs, which TensorFlow's file systems write.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator

from graftline.errors import UserError
from graftline.uri import is_uri

ASIDE = ".push-"  # how the names of folders and files begin that a rehearsal or a push makes, and that a kill may leave
# No fsync, or none of this kind of file: FUSE, SMB and older NFS (python-atomicwrites #27, rocksdb #2929).
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
# A folder's fsync makes a new name last. Without it the name may be lost by a power loss, but no content is.
_NO_FOLDER_SYNC = (*_NO_SYNC, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR)
# No locks: Lustre, SMB and NFS without a lock server (huggingface_hub #2399). NFS locks no folder: EBADF.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL, errno.EIO)
_LOCK_FILE = ".lock"


def sync(descriptor: int) -> None:
    """Flush an open file to disk; raise OSError if its data may be lost."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def sync_folder(path: str) -> None:
    """Flush a folder's names to disk, where its file system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a folder may be writable and not readable
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(root: str) -> None:
    """Flush all files and folders under `root`, and its own name, to disk. No link is followed."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and os.path.isfile(path):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    sync(descriptor)
                finally:
                    os.close(descriptor)
        sync_folder(folder)
    sync_folder(os.path.dirname(os.path.abspath(root)))


def write(path: str, content: bytes) -> None:
    """Replace a small file on disk or at a URI as a whole or not at all, flushed to disk. Makes its folder.

    Only one process at a time may write the same path: the new file has one name, so that a kill leaves one at most.
    """
    if is_uri(path):
        _write_remote(path, content)
        return
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    aside = os.path.join(folder, f".{name.lstrip('.')}.new")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
    sync_folder(folder or ".")


def _write_remote(path: str, content: bytes) -> None:
    from tensorflow.io import gfile

    gfile.makedirs(os.path.dirname(path))
    aside = f"{path}-{uuid.uuid4().hex}"
    with gfile.GFile(aside, "wb") as file:
        file.write(content)
    gfile.rename(aside, path, overwrite=True)


def lock(descriptor: int, path: str, wait: bool = True) -> None:
    """Lock an open file or folder against other processes, until the descriptor is closed or the process ends.

    Raises:
      BlockingIOError: another process holds the lock, and `wait` is False.
      UserError: the file system of `path` has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise _no_locks(path, error) from error


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Lock a folder against other processes. The kernel releases the lock however the process ends.

    Raises UserError if the folder's file system has no locks.
    """
    with contextlib.ExitStack() as closing:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        closing.callback(os.close, descriptor)
        try:
            lock(descriptor, folder)
        except UserError:  # NFS locks files that are open for writing, and no folders
            descriptor = os.open(os.path.join(folder, _LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            closing.callback(os.close, descriptor)
            lock(descriptor, folder)
        yield


def _no_locks(path: str, error: OSError) -> UserError:
    return UserError(
        f"{path}: its file system has no locks ({error.strerror}), so two runs could destroy each other's files there; "
        "use a folder on a local disk"
    )


def rehearse(folder: str) -> None:
    """Do in an existing folder, with small files, all that a run and a push do; leave nothing behind.

    Raises:
      OSError: an operation fails; `strerror` says which one.
      UserError: the file system has no locks.
    """
    place = os.path.join(folder, f"{ASIDE}try-{uuid.uuid4().hex}")
    step = ""
    try:
        os.mkdir(place)
        step = ", when a file is written and replaced"
        for content in (b"old", b"new"):
            write(os.path.join(place, "file"), content)
        step = ", when a folder is renamed"
        os.mkdir(os.path.join(place, "before"))
        os.rename(os.path.join(place, "before"), os.path.join(place, "after"))
        with locked(place), open(os.path.join(place, "database"), "wb") as database:
            try:
                fcntl.lockf(database, fcntl.LOCK_EX)  # as SQLite does for ML Metadata
            except OSError as error:
                raise (_no_locks(folder, error) if error.errno in _NO_LOCKS else error) from error
    except UserError as error:
        raise UserError(str(error).replace(place, folder)) from error
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or error}{step}", os.path.join(folder, "")) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
