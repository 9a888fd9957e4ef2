"""The push format: a new numbered version under a TF Serving base path, seen whole or not at all.

Called by the Pusher and by rollback. Standard library only. A version is written aside under a hidden name, which
TF Serving ignores because it is no number, brought to disk, and renamed; rename is atomic on a POSIX file system.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from graftline.errors import UserError
from serving.locate import SAVED_MODEL, scan_versions

_ASIDE = ".push-"  # a version being written
_DROPPED = ".drop-"  # a version being removed
_CHUNK = 1 << 20  # bytes read at once


@dataclass(frozen=True)
class Published:
    """What a push came to: the version that now holds the model, its directory, and whether this push added it."""

    version: int
    path: str
    new: bool


def _files(root: str) -> Iterator[str]:
    """Paths of all files under `root`, relative to it, with "/" between parts, sorted."""
    found = []
    for folder, _, names in os.walk(root, followlinks=True):
        found += [os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/") for name in names]
    return iter(sorted(found))


def _add_file(digest: "hashlib._Hash", relative: str, source: str, copy: str | None = None) -> None:
    """Feed one file into `digest`; with `copy`, write it there as well and bring it to disk."""
    of_file = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(open(source, "rb"))
        writer = stack.enter_context(open(copy, "xb")) if copy else None
        while chunk := reader.read(_CHUNK):
            of_file.update(chunk)
            if writer:
                writer.write(chunk)
        if writer:
            writer.flush()
            os.fsync(writer.fileno())
    # The digest of each file rather than its bytes: then no two trees can read alike by moving bytes between files.
    digest.update(os.fsencode(relative) + b"\0" + of_file.digest())


def content_digest(saved_model_dir: str) -> str:
    """Hex sha256 over the relative path and the bytes of every file: equal when a push would change nothing."""
    digest = hashlib.sha256()
    for relative in _files(saved_model_dir):
        _add_file(digest, relative, os.path.join(saved_model_dir, relative))
    return digest.hexdigest()


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy_tree(source: str, target: str) -> str:
    """Copy `source` into the new folder `target`, brought to disk; returns the copy's content digest."""
    os.mkdir(target)  # not mkdtemp: its mode 0700 would hide the model from a server of another user
    folders = [target]
    for folder, names, _ in os.walk(source, followlinks=True):
        for name in names:
            folders.append(os.path.join(target, os.path.relpath(os.path.join(folder, name), source)))
            os.mkdir(folders[-1])
    digest = hashlib.sha256()
    for relative in _files(source):
        _add_file(digest, relative, os.path.join(source, relative), os.path.join(target, relative))
    for folder in reversed(folders):
        _sync_folder(folder)
    return digest.hexdigest()


@contextlib.contextmanager
def _sole_pusher(base_path: str) -> Iterator[None]:
    """Hold the base path against other pushers. The kernel drops the lock when the process dies, however it dies."""
    descriptor = os.open(base_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sweep(base_path: str) -> None:
    """Remove what crashed pushes left. Only under the lock: whatever is there then has no living owner."""
    for name in os.listdir(base_path):
        if name.startswith((_ASIDE, _DROPPED)):
            shutil.rmtree(os.path.join(base_path, name))


def _taken(base_path: str) -> int:
    """The highest number in use under the base path by anything, complete version or not; 0 when there is none."""
    return max((int(name) for name in os.listdir(base_path) if name.isascii() and name.isdecimal()), default=0)


def _retain(base_path: str, keep: int) -> None:
    """Remove all but the `keep` highest versions, each vanishing at once."""
    versions = scan_versions(base_path)
    for version in sorted(versions)[:-keep]:
        aside = os.path.join(base_path, f"{_DROPPED}{version}-{uuid.uuid4().hex}")
        os.rename(versions[version], aside)
        shutil.rmtree(aside)


def publish(saved_model_dir: str, base_path: str, keep: int | None = None) -> Published:
    """Push a SavedModel as the next version under `base_path`, which is made if need be.

    When the highest version there has the same bytes under the same names, nothing is written and `new` is False.
    A reader of `base_path` sees the new version whole or not at all, also if this process is killed. Several pushers
    may call at once: they take turns. `keep` versions, the newest, are kept (None: all); at least 1.

    Raises UserError when `saved_model_dir` holds no SavedModel or `base_path` is a URI, RuntimeError when the model
    changes while it is being copied, OSError (disk full, permission) with nothing pushed.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep={keep}: at least the newest version is kept")
    if not os.path.isfile(os.path.join(saved_model_dir, SAVED_MODEL)):
        raise UserError(f"nothing to push: {saved_model_dir} holds no {SAVED_MODEL}; name the folder of a SavedModel")
    if "://" in base_path:
        raise UserError(f"{base_path} is a URI, but a push goes to a mounted file system: give a path")
    base_path = os.path.abspath(base_path)
    os.makedirs(base_path, exist_ok=True)
    with _sole_pusher(base_path):
        _sweep(base_path)
        published = _publish_alone(saved_model_dir, base_path)
        if keep is not None:
            _retain(base_path, keep)
    return published


def _publish_alone(saved_model_dir: str, base_path: str) -> Published:
    highest = _taken(base_path)
    digest = content_digest(saved_model_dir)
    served = scan_versions(base_path)
    if highest in served and content_digest(served[highest]) == digest:
        return Published(highest, served[highest], new=False)

    aside = os.path.join(base_path, f"{_ASIDE}{uuid.uuid4().hex}")
    try:
        if _copy_tree(saved_model_dir, aside) != digest:
            raise RuntimeError(f"{saved_model_dir} changed while it was being pushed: push again when it is complete")
        while True:
            highest += 1
            path = os.path.join(base_path, str(highest))
            try:
                os.rename(aside, path)
            except OSError as error:
                # A pusher that knows no lock (TFX's own) took the number in this moment: take the one after it.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            else:
                break
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    _sync_folder(base_path)
    return Published(highest, path, new=True)
