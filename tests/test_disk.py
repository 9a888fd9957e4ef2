"""Writes and locks on file systems that lack a service, at the boundary to the operating system."""

import errno
import fcntl
import os
import pathlib
import stat
from collections.abc import Callable
from typing import Any

import pytest

from graftline import disk
from graftline.errors import UserError
from graftline.pipeline import preflight
from graftline.serving.versions.base_path import Disk
from graftline.serving.versions.publish import push

Refuse = Callable[..., None]


@pytest.fixture
def refuse_fsync(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """A function that makes fsync fail, of folders or of files."""

    def refuse(code: int, *, folders: bool) -> None:
        real = os.fsync

        def fsync(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
                raise OSError(code, os.strerror(code))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)

    return refuse


@pytest.fixture
def refuse_locks(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """A function that makes `flock` or `lockf` fail, of folders alone if `files` is False."""

    def refuse(code: int, *, name: str = "flock", files: bool = True) -> None:
        real = getattr(fcntl, name)

        def locking(file: Any, *arguments: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            if files or stat.S_ISDIR(os.fstat(number).st_mode):
                raise OSError(code, os.strerror(code))
            real(file, *arguments)

        monkeypatch.setattr(fcntl, name, locking)

    return refuse


@pytest.fixture
def model(tmp_path: pathlib.Path) -> str:
    """A folder that a push takes for a SavedModel."""
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables/variables.index").write_bytes(b"weights")
    return str(folder)


FOLDERS = [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EIO, errno.EACCES, errno.EROFS]
LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL]


@pytest.mark.parametrize("code", FOLDERS, ids=errno.errorcode.get)
def test_a_folder_without_fsync_ends_no_push(
    tmp_path: pathlib.Path, model: str, refuse_fsync: Refuse, code: int
) -> None:
    refuse_fsync(code, folders=True)
    base = Disk(str(tmp_path / "models/m"))
    assert push(model, base).version == 1
    assert pathlib.Path(base.path, "1/variables/variables.index").read_bytes() == b"weights"
    preflight.make_workspace(str(tmp_path / "ws"))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def test_files_without_fsync_are_written_without(tmp_path: pathlib.Path, refuse_fsync: Refuse, code: int) -> None:
    refuse_fsync(code, folders=False)
    disk.write(str(tmp_path / "file"), b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_data_that_does_not_reach_the_disk_is_an_error_that_the_preflight_finds(
    tmp_path: pathlib.Path, model: str, refuse_fsync: Refuse, code: int
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    refuse_fsync(code, folders=False)
    with pytest.raises(OSError, match=os.strerror(code)):
        disk.write(str(tmp_path / "file"), b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    with pytest.raises(OSError, match=os.strerror(code)):
        push(model, Disk(str(tmp_path / "models/m")))
    assert os.listdir(tmp_path / "models/m") == []
    with pytest.raises(UserError) as raised:
        preflight.check_push(str(tmp_path / "models/m"))
    reason = {errno.EIO: "Input/output error", errno.ENOSPC: "no space is left", errno.EDQUOT: "the quota is used up"}
    assert f"no file can be written into {tmp_path}/models/m: {reason[code]}" in str(raised.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "model", "models"]


def test_a_tree_is_flushed_with_its_folders_and_no_link_is_followed(
    tmp_path: pathlib.Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(os.path.join(model, "pipe"))  # to open it would wait for ever
    os.symlink("/dev/zero", os.path.join(model, "link"))
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.readlink(f"/proc/self/fd/{number}")))
    disk.sync_tree(model)
    inside = [".", "saved_model.pb", "variables", "variables/variables.index", ".."]
    assert sorted(flushed) == sorted(os.path.normpath(os.path.join(model, path)) for path in inside)


@pytest.mark.parametrize("code", LOCKS, ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_named_before_the_run(
    tmp_path: pathlib.Path, refuse_locks: Refuse, code: int
) -> None:
    refuse_locks(code)
    wanted = f"{tmp_path}: its file system has no locks ({os.strerror(code)}), so two runs could destroy each other's"
    for use in (preflight.make_workspace, preflight.check_push, lambda path: preflight.lock(path).__enter__()):
        with pytest.raises(UserError) as raised:
            use(str(tmp_path))
        assert str(raised.value).startswith(wanted)
    assert [name for name in os.listdir(tmp_path) if name != ".lock"] == []


def test_locks_that_sqlite_needs_are_tried_too(tmp_path: pathlib.Path, refuse_locks: Refuse) -> None:
    refuse_locks(errno.ENOLCK, name="lockf")
    with pytest.raises(UserError, match="its file system has no locks"):
        preflight.make_workspace(str(tmp_path))


def test_where_only_files_can_be_locked_a_file_is(tmp_path: pathlib.Path, model: str, refuse_locks: Refuse) -> None:
    """NFS: exclusive locks need a descriptor that is open for writing, which no folder's is."""
    refuse_locks(errno.EBADF, files=False)
    assert push(model, Disk(str(tmp_path / "models/m"))).version == 1
    folder = tmp_path / "models/m"
    with disk.locked(str(folder)), open(folder / ".lock") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_folder_that_cannot_be_renamed_is_found_before_the_training(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(*_: str) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))  # as overlayfs does

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(UserError, match="Invalid cross-device link, when a folder is renamed"):
        preflight.check_push(str(tmp_path))
    assert os.listdir(tmp_path) == []
