"""A run that was killed goes on after its last finished epoch, wherever it died; a bad folder costs no training."""

import json
import logging
import os
import pathlib
import subprocess
import sys
import textwrap
import uuid
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from graftline.trainer import checkpoints, run_fn
from graftline.trainer.checkpoints import Checkpoints
from tests.conftest import Transformed

KEY = checkpoints.key("this run")


def _save(root: str, number: int, key: str = KEY, count: int = 1) -> Checkpoints:
    """Saves states that are told apart by `number`, `number` + 1, …"""
    store = Checkpoints(root, key)
    store.load()
    for state in range(number, number + count):
        store.save({"epoch": state}, {"weights.0": np.full([50], state, np.float32)})
    return store


def _epoch(root: str) -> int | None:
    """Of the state that is found, which is whole."""
    found = Checkpoints(root, KEY).load()
    if found is None:
        return None
    np.testing.assert_array_equal(found.arrays["weights.0"], np.full([50], found.meta["epoch"], np.float32))
    return found.meta["epoch"]


def _python(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- the files --------------------------------------------------------------------------------------------------------


def test_all_kinds_of_weights_and_their_story_come_back_bit_by_bit(tmp_path: pathlib.Path) -> None:
    arrays = {
        "weights.0": np.random.default_rng(0).normal(size=[3, 4]).astype(np.float32),
        "optimizer.0": np.array(7, np.int32),
        "seeds.0": np.array([2**32 - 1, 5], np.uint32),
        "weights.1": np.array([np.nan, np.inf, -0.0], np.float32),
        "best.0": np.zeros([0, 2], np.float16),
    }
    meta = {"phase": "fine_tuning", "best_loss": float("inf"), "history": {"loss": [1.5, 0.1]}, "before": {}}
    Checkpoints(str(tmp_path), KEY).save(meta, arrays)
    found = Checkpoints(str(tmp_path), KEY).load()
    assert found is not None
    assert {**found.meta, "number": 0} == {**meta, "number": 0}
    assert set(found.arrays) == set(arrays)
    for name, value in arrays.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (value.dtype, value.shape)
        assert found.arrays[name].tobytes() == value.tobytes()


def test_two_files_take_turns_and_the_newest_is_found_also_by_the_next_process(tmp_path: pathlib.Path) -> None:
    root = str(tmp_path)
    assert _epoch(root) is None
    _save(root, 1, count=3)
    assert _epoch(root) == 3
    _save(root, 4)  # another process goes on where this one stopped
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
        elif round_ % 3 == 1:  # cut off, the first time at its beginning
            del data[int(random.integers(len(data))) if round_ > 1 else 0 :]
        else:  # a page that was never written
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


def test_when_both_are_damaged_training_begins_anew_and_can_be_saved_again(tmp_path: pathlib.Path) -> None:
    root = str(tmp_path)
    _save(root, 1, count=2)
    for name in ("even.npz", "odd.npz"):
        (tmp_path / KEY / name).write_bytes(b"")
    assert _epoch(root) is None
    _save(root, 1, count=2)
    assert _epoch(root) == 2


def test_what_was_not_written_to_its_end_is_never_read_and_does_not_get_in_the_way(tmp_path: pathlib.Path) -> None:
    root = str(tmp_path)
    _save(root, 1)
    (tmp_path / KEY / "even.npz.new").write_bytes(b"half of it")
    assert _epoch(root) == 1
    _save(root, 2)
    assert _epoch(root) == 2
    assert sorted(os.listdir(tmp_path / KEY)) == ["even.npz", "odd.npz"]


def test_a_checkpoint_opens_with_numpy_and_with_unzip(tmp_path: pathlib.Path) -> None:
    """For whoever wants to look what is in it."""
    _save(str(tmp_path), 1)
    path = tmp_path / KEY / "odd.npz"
    assert zipfile.ZipFile(path).testzip() is None
    with np.load(path) as archive:
        assert json.loads(str(archive["meta"])) == {"number": 1, "epoch": 1}


# --- other runs -------------------------------------------------------------------------------------------------------


def test_the_key_is_of_all_parts() -> None:
    parts: list[list[object]] = [[{"a": 1, "b": 2}, "x"], [{"a": 1, "b": 3}, "x"], [{"a": 1, "b": 2}, "y"], [["x"]]]
    assert len({checkpoints.key(*one) for one in parts}) == len(parts)
    assert checkpoints.key({"a": 1, "b": 2}) == checkpoints.key({"b": 2, "a": 1})


def test_a_run_of_another_config_is_left_alone_and_said(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    other = checkpoints.key("another run")
    _save(str(tmp_path), 1, other)
    caplog.clear()
    assert Checkpoints(str(tmp_path), KEY).load() is None
    assert f"{tmp_path} holds checkpoints of another config, other images or other sources (1)" in caplog.text
    found = Checkpoints(str(tmp_path), other).load()
    assert found is not None and found.meta["epoch"] == 1


def test_a_run_that_is_over_leaves_the_newest_three_of_others_and_what_is_no_checkpoint(tmp_path: pathlib.Path) -> None:
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


def test_they_may_lie_on_any_file_system_of_tensorflow() -> None:
    root = f"ram://{uuid.uuid4().hex}/checkpoints"
    _save(root, 1, count=5)
    assert _epoch(root) == 5
    with tf.io.gfile.GFile(f"{root}/{KEY}/even.npz.new", "wb") as file:  # which would be appended to
        file.write(b"half of it")
    store = _save(root, 6)
    assert _epoch(root) == 6
    with tf.io.gfile.GFile(f"{root}/{KEY}/even.npz", "wb") as file:
        file.write(b"damage")  # appended
    assert _epoch(root) == 5
    store.remove()
    assert _epoch(root) is None


def test_without_a_folder_nothing_is_kept(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = _save("", 1, count=2)
    store.remove()
    assert store.load() is None
    assert (list(tmp_path.iterdir()), store.trouble) == ([], "")


def test_a_file_in_the_place_of_the_folder_is_told_once_and_training_goes_on(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "checkpoints"
    root.write_text("")
    store = _save(str(root), 1, count=3)
    assert _epoch(str(root)) is None
    assert store.trouble.startswith(f"no checkpoint could be written to {root}/{KEY}: ")
    assert caplog.text.count("no checkpoint can be written") == 1
    store.remove()
    root.unlink()  # the user puts it right while training goes on
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


def test_a_full_disk_leaves_the_last_whole_checkpoint_and_no_rubbish(tmp_path: pathlib.Path) -> None:
    done = _python(_FULL, tmp_path, KEY)
    assert done.stdout.startswith(f"no checkpoint could be written to {tmp_path}/{KEY}: "), done.stderr
    assert "File too large" in done.stdout
    assert _epoch(str(tmp_path)) == 2
    assert sorted(os.listdir(tmp_path / KEY)) == ["even.npz", "odd.npz"]


# Saves the third state and dies before a call that changes something: each in turn. Then some children that save as
# fast as they can, and are killed at any moment.
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


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: pathlib.Path) -> None:
    calls, moments = 5, np.random.default_rng(0).uniform(0, 0.1, 10).tolist()
    done = _python(_KILLED, tmp_path, KEY, calls + 1, *moments)
    assert done.stdout.split() == ["-9"] * calls + ["0"] + ["-9"] * len(moments), done.stderr
    for at in range(calls + 1):
        assert _epoch(str(tmp_path / str(at))) == (3 if at == calls else 2)
    for number in range(len(moments)):
        found = Checkpoints(str(tmp_path / f"at any moment {number}"), KEY).load()
        assert found is not None and found.meta["epoch"] == found.number >= 2
        np.testing.assert_array_equal(found.arrays["weights.0"], np.full([100000], found.number, np.float32))


# --- a whole run ------------------------------------------------------------------------------------------------------

_SETTINGS = {
    "backbone": {"weights": "none", "input_size": 32, "options": {"alpha": 0.35}},
    "head": {"cut_at": "block_2_add"},
    "training": {"batch_size": 16},
    "feature_extraction": {"epochs": 3, "learning_rate": 0.01},
    "fine_tuning": {"epochs": 4, "learning_rate": 0.001, "schedule": "cosine", "unfreeze_from": "block_2_project"},
    "seed": 1,
}


def _fn_args(transformed: Transformed, out: pathlib.Path, state: pathlib.Path, **changed: object) -> dict[str, object]:
    return {
        "custom_config": {**_SETTINGS, "state": str(state), **changed},
        "transform_output": transformed.directory,
        "train_files": [transformed.train],
        "eval_files": [transformed.eval],
        "serving_model_dir": str(out / "model" / "Format-Serving"),
        "model_run_dir": str(out / "run"),
        "base_model": None,
    }


# Gives the same run again and again. Each says which epochs it finished, and dies at a point that is named to it.
_STORY = """
    import json, os, resource, signal, sys, types
    import tensorflow as tf
    from graftline.errors import UserError
    from graftline.trainer import export, run_fn
    from graftline.trainer.checkpoints import Checkpoints
    def die_in(owner, name, dies=lambda *arguments: True):
        call = getattr(owner, name)
        def patched(*arguments, **options):
            if dies(*arguments):
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        setattr(owner, name, patched)
    def run(point, fn_args):
        where, _, number = point.partition(" ")
        def finished(_, meta, arrays):
            epoch = len(meta["history"]["loss"])
            print(point, meta["phase"], epoch, sep=": ", flush=True)
            return (meta["phase"], epoch) == (where, int(number or 0))
        die_in(Checkpoints, "save", finished)
        if where == "writing":  # the n-th checkpoint, after its file is written and before it has its name
            saves = iter(range(1, 100))
            die_in(tf.io.gfile, "rename", lambda *_: next(saves) == int(number))
        elif where == "export":
            die_in(export, "export")
        elif where == "remove":
            die_in(Checkpoints, "remove")
        elif where == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            run_fn.run_fn(types.SimpleNamespace(**fn_args))
        except UserError as error:
            print(point, error, sep=": ", flush=True)
            os._exit(2)
        os._exit(0)
    for point, fn_args in json.loads(sys.argv[1]):
        child = os.fork()
        if not child:
            run(point, fn_args)
        print(point, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sep=": ", flush=True)
"""


def _trained(out: pathlib.Path) -> tuple[list[np.ndarray], dict]:
    """Weights and story of a model that a run left."""
    model = keras.saving.load_model(out / "model" / run_fn.KERAS_FILE, compile=False)
    return model.get_weights(), json.loads((out / "model" / run_fn.TRAINING_FILE).read_text())


_FIRST = [f"feature_extraction: {epoch}" for epoch in (1, 2, 3)]
_SECOND = [f"fine_tuning: {epoch}" for epoch in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {},
            {
                "writing 2": [*_FIRST[:2], "-9"],
                "fine_tuning 2": [*_FIRST[1:], *_SECOND[:2], "-9"],
                "export": [*_SECOND[1:], "-9"],
                "end": ["0"],
            },
        ),
        pytest.param(
            {"augmentation": {"flip": "horizontal", "views": 2}, "training": {"precision": "mixed_bfloat16"}},
            {
                "feature_extraction 1": [*_FIRST[:1], "-9"],
                "fine_tuning 1": [*_FIRST, *_SECOND[:1], "-9"],
                "writing 4": [*_SECOND, "-9"],
                "remove": [*_SECOND[3:], "-9"],
                "end": ["0"],
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=["", "elsewhere"],
)
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_never_was(
    transformed: Transformed, tmp_path: pathlib.Path, changed: dict[str, object], expected: dict[str, list[str]]
) -> None:
    """First the disk is full. The unbroken run can't write checkpoints, and so has none to go on from."""
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    unbroken.mkdir()
    (unbroken / "checkpoints").write_text("")
    runs = [(point, _fn_args(transformed, tmp_path / point, broken, **changed)) for point in ["full", *expected]]
    runs.append(("unbroken", _fn_args(transformed, unbroken, unbroken, **changed)))
    done = _python(_STORY, json.dumps(runs))
    told = done.stdout.splitlines()
    assert told[:2] == [told[0], "full: 2"], done.stderr
    assert told[0].startswith(f"full: {broken}/cache/boundary/")
    assert told[0].endswith("or set boundary_cache.enabled=false")
    expected = {**expected, "unbroken": [*_FIRST, *_SECOND, "0"]}
    assert told[2:] == [f"{point}: {event}" for point, events in expected.items() for event in events], done.stderr

    weights, story = _trained(tmp_path / "end")
    weights_of_unbroken, story_of_unbroken = _trained(unbroken)
    for ours, theirs in zip(weights, weights_of_unbroken, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert story["phases"] == story_of_unbroken["phases"]
    assert story["notes"][-1] == "fine_tuning resumed after epoch 4, from a checkpoint"
    note = story_of_unbroken["notes"][-1]
    assert note.startswith(f"no checkpoint could be written to {unbroken}/checkpoints/")
    assert story["activations"]["computed"] == 0
    assert os.listdir(broken / "checkpoints") == []
