"""Checkpoints survive damage, full disks and kills, and a bad folder does not stop training."""

import json
import logging
import os
import pathlib
import uuid
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from graftline.trainer import checkpoints
from graftline.trainer.checkpoints import Checkpoints
from tests.trainer.processes import run_python

KEY = checkpoints.key("this run")


def _save(root: str, number: int, key: str = KEY, count: int = 1) -> Checkpoints:
    """Save `count` states, numbered from `number`."""
    store = Checkpoints(root, key)
    store.load()
    for state in range(number, number + count):
        store.save({"epoch": state}, {"weights.0": np.full([50], state, np.float32)})
    return store


def _epoch(root: str) -> int | None:
    """Return the epoch of the newest state, and assert that the state is complete."""
    checkpoint = Checkpoints(root, KEY).load()
    if checkpoint is None:
        return None
    np.testing.assert_array_equal(checkpoint.arrays["weights.0"], np.full([50], checkpoint.meta["epoch"], np.float32))
    return checkpoint.meta["epoch"]


# --- the files --------------------------------------------------------------------------------------------------------


def test_all_kinds_of_weights_and_their_metadata_are_restored_bit_by_bit(tmp_path: pathlib.Path) -> None:
    arrays = {
        "weights.0": np.random.default_rng(0).normal(size=[3, 4]).astype(np.float32),
        "optimizer.0": np.array(7, np.int32),
        "seeds.0": np.array([2**32 - 1, 5], np.uint32),
        "weights.1": np.array([np.nan, np.inf, -0.0], np.float32),
        "best.0": np.zeros([0, 2], np.float16),
    }
    meta = {"phase": "fine_tuning", "best_loss": float("inf"), "history": {"loss": [1.5, 0.1]}, "before": {}}
    Checkpoints(str(tmp_path), KEY).save(meta, arrays)
    checkpoint = Checkpoints(str(tmp_path), KEY).load()
    assert checkpoint is not None
    assert {**checkpoint.meta, "number": 0} == {**meta, "number": 0}
    assert set(checkpoint.arrays) == set(arrays)
    for name, value in arrays.items():
        assert (checkpoint.arrays[name].dtype, checkpoint.arrays[name].shape) == (value.dtype, value.shape)
        assert checkpoint.arrays[name].tobytes() == value.tobytes()


def test_two_files_take_turns_and_the_next_process_also_finds_the_newest(tmp_path: pathlib.Path) -> None:
    root = str(tmp_path)
    assert _epoch(root) is None
    _save(root, 1, count=3)
    assert _epoch(root) == 3
    _save(root, 4)  # another process continues
    assert _epoch(root) == 4
    assert sorted(os.listdir(tmp_path / KEY)) == ["even.npz", "odd.npz"]
    (tmp_path / KEY / "even.npz").unlink()  # the fourth
    assert _epoch(root) == 3


def test_any_damage_to_a_checkpoint_leaves_the_one_before(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, newest = str(tmp_path), tmp_path / KEY / "even.npz"
    _save(root, 1, count=2)
    whole, random = newest.read_bytes(), np.random.default_rng(0)
    for round_ in range(300):
        data = bytearray(whole)
        if round_ % 3 == 0:  # a flipped bit, or some
            for place in random.integers(len(data) * 8, size=random.integers(1, 4)).tolist():
                data[place // 8] ^= 1 << place % 8
        elif round_ % 3 == 1:  # truncated, the first time to nothing
            del data[int(random.integers(len(data))) if round_ > 1 else 0 :]
        else:  # a page of zeros
            start = int(random.integers(len(data) - 1))
            data[start : start + 512] = bytes(len(data[start : start + 512]))
        if data == whole:  # a bit flipped twice
            continue
        newest.write_bytes(data)
        caplog.clear()
        assert _epoch(root) == 1, f"round {round_}"
        assert f"{newest} is damaged" in caplog.text
    newest.write_bytes(whole)
    assert _epoch(root) == 2


def test_when_both_are_damaged_training_starts_from_the_beginning_and_can_be_saved_again(
    tmp_path: pathlib.Path,
) -> None:
    root = str(tmp_path)
    _save(root, 1, count=2)
    for name in ("even.npz", "odd.npz"):
        (tmp_path / KEY / name).write_bytes(b"")
    assert _epoch(root) is None
    _save(root, 1, count=2)
    assert _epoch(root) == 2


def test_a_file_that_was_not_finished_is_never_read_and_does_no_harm(tmp_path: pathlib.Path) -> None:
    root = str(tmp_path)
    _save(root, 1)
    (tmp_path / KEY / "even.npz.new").write_bytes(b"half of it")
    assert _epoch(root) == 1
    _save(root, 2)
    assert _epoch(root) == 2
    assert sorted(os.listdir(tmp_path / KEY)) == ["even.npz", "odd.npz"]


def test_a_checkpoint_opens_with_numpy_and_with_unzip(tmp_path: pathlib.Path) -> None:
    """A user can look into it."""
    _save(str(tmp_path), 1)
    path = tmp_path / KEY / "odd.npz"
    assert zipfile.ZipFile(path).testzip() is None
    with np.load(path) as archive:
        assert json.loads(str(archive["meta"])) == {"number": 1, "epoch": 1}


# --- other runs -------------------------------------------------------------------------------------------------------


def test_the_key_depends_on_all_parts() -> None:
    parts: list[list[object]] = [[{"a": 1, "b": 2}, "x"], [{"a": 1, "b": 3}, "x"], [{"a": 1, "b": 2}, "y"], [["x"]]]
    assert len({checkpoints.key(*one) for one in parts}) == len(parts)
    assert checkpoints.key({"a": 1, "b": 2}) == checkpoints.key({"b": 2, "a": 1})


def test_a_run_of_another_config_stays_and_is_logged(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    other = checkpoints.key("another run")
    _save(str(tmp_path), 1, other)
    caplog.clear()
    assert Checkpoints(str(tmp_path), KEY).load() is None
    assert f"{tmp_path} holds checkpoints of another config, other images or other sources (1)" in caplog.text
    checkpoint = Checkpoints(str(tmp_path), other).load()
    assert checkpoint is not None and checkpoint.meta["epoch"] == 1


def test_a_finished_run_keeps_the_newest_three_others_and_files_that_are_no_checkpoints(tmp_path: pathlib.Path) -> None:
    others = [checkpoints.key(number) for number in range(5)]
    for age, other in enumerate(others):
        _save(str(tmp_path), 1, other)
        os.utime(tmp_path / other, (1e9 - age, 1e9 - age))
    (tmp_path / "notes").mkdir()
    (tmp_path / "README").write_text("mine")
    store = _save(str(tmp_path), 1)
    store.remove()
    assert set(os.listdir(tmp_path)) == {*others[:3], "notes", "README"}
    assert _epoch(str(tmp_path)) is None
    store.remove()  # nothing to do


# --- where they lie ---------------------------------------------------------------------------------------------------


def test_checkpoints_work_on_any_file_system_of_tensorflow() -> None:
    root = f"ram://{uuid.uuid4().hex}/checkpoints"
    _save(root, 1, count=5)
    assert _epoch(root) == 5
    with tf.io.gfile.GFile(f"{root}/{KEY}/even.npz.new", "wb") as file:  # ram:// appends to existing files
        file.write(b"half of it")
    store = _save(root, 6)
    assert _epoch(root) == 6
    with tf.io.gfile.GFile(f"{root}/{KEY}/even.npz", "wb") as file:
        file.write(b"damage")  # appended
    assert _epoch(root) == 5
    store.remove()
    assert _epoch(root) is None


def test_without_a_folder_nothing_is_saved(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = _save("", 1, count=2)
    store.remove()
    assert store.load() is None
    assert (list(tmp_path.iterdir()), store.trouble) == ([], "")


def test_a_file_in_place_of_the_folder_is_logged_once_and_training_continues(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "checkpoints"
    root.write_text("")
    store = _save(str(root), 1, count=3)
    assert _epoch(str(root)) is None
    assert store.trouble.startswith(f"no checkpoint could be written to {root}/{KEY}: ")
    assert caplog.text.count("no checkpoint can be written") == 1
    store.remove()
    root.unlink()  # the user repairs it during training
    store.save({"epoch": 4}, {"weights.0": np.full([50], 4, np.float32)})
    assert (_epoch(str(root)), store.trouble) == (4, "")


_FULL = """
    import resource, signal, sys
    import numpy as np
    from graftline.trainer.checkpoints import Checkpoints
    store = Checkpoints(sys.argv[1], sys.argv[2])
    store.save({"epoch": 1}, {"weights.0": np.full([50], 1, np.float32)})
    store.save({"epoch": 2}, {"weights.0": np.full([50], 2, np.float32)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    store.save({"epoch": 3}, {"weights.0": np.zeros([5000], np.float32)})
    print(store.trouble)
"""


def test_a_full_disk_leaves_the_last_complete_checkpoint_and_no_other_files(tmp_path: pathlib.Path) -> None:
    done = run_python(_FULL, tmp_path, KEY)
    assert done.stdout.startswith(f"no checkpoint could be written to {tmp_path}/{KEY}: "), done.stderr
    assert "File too large" in done.stdout
    assert _epoch(str(tmp_path)) == 2
    assert sorted(os.listdir(tmp_path / KEY)) == ["even.npz", "odd.npz"]


# Each child saves the third state and dies before another call that changes something. Then some children save as fast
# as they can and are killed at any moment.
_KILLED = """
    import os, signal, sys, time
    import numpy as np
    from tensorflow.io import gfile
    from graftline.trainer.checkpoints import Checkpoints
    root, key, last, delays = sys.argv[1], sys.argv[2], int(sys.argv[3]), map(float, sys.argv[4:])
    def dying(owner, name, calls=[]):
        call = getattr(owner, name)
        def counting(*arguments, **options):
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            calls.append(name)
            return call(*arguments, **options)
        setattr(owner, name, counting)
    def save(store, state, size=50):
        store.save({"epoch": state}, {"weights.0": np.full([size], state, np.float32)})
    def ended(child):
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    for at in range(last):
        child = os.fork()
        if not child:
            store = Checkpoints(f"{root}/{at}", key)
            save(store, 1), save(store, 2)
            for owner, name in ((gfile, "makedirs"), (gfile, "remove"), (gfile.GFile, "write"), (gfile, "rename")):
                dying(owner, name)
            save(store, 3)
            os._exit(0)
        ended(child)
    for number, delay in enumerate(delays):
        child = os.fork()
        if not child:
            store = Checkpoints(f"{root}/at any moment {number}", key)
            for state in range(1, 100000):
                save(store, state, 100000)
        while not os.path.exists(f"{root}/at any moment {number}/{key}/even.npz"):
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        ended(child)
"""


def test_a_kill_at_any_moment_leaves_a_complete_checkpoint(tmp_path: pathlib.Path) -> None:
    calls, moments = 5, np.random.default_rng(0).uniform(0, 0.1, 10).tolist()
    done = run_python(_KILLED, tmp_path, KEY, calls + 1, *moments)
    assert done.stdout.split() == ["-9"] * calls + ["0"] + ["-9"] * len(moments), done.stderr
    for at in range(calls + 1):
        assert _epoch(str(tmp_path / str(at))) == (3 if at == calls else 2)
    for number in range(len(moments)):
        checkpoint = Checkpoints(str(tmp_path / f"at any moment {number}"), KEY).load()
        assert checkpoint is not None and checkpoint.meta["epoch"] == checkpoint.number >= 2
        np.testing.assert_array_equal(checkpoint.arrays["weights.0"], np.full([100000], checkpoint.number, np.float32))
