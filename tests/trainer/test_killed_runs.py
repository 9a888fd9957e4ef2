"""A run that was killed resumes after its last finished epoch, wherever it died."""

import json
import os
import pathlib

import keras
import numpy as np
import pytest

from graftline.trainer import run_fn
from tests.conftest import Transformed
from tests.trainer.processes import run_python

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


# Starts the same run again and again. Each prints the epochs that it finished and dies at the point that it is given.
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
    """Return the weights of the model that a run left, and its training.json."""
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
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(
    transformed: Transformed, tmp_path: pathlib.Path, changed: dict[str, object], expected: dict[str, list[str]]
) -> None:
    """The first run meets a full disk. The unbroken run cannot write checkpoints, so it resumes from none."""
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    unbroken.mkdir()
    (unbroken / "checkpoints").write_text("")
    runs = [(point, _fn_args(transformed, tmp_path / point, broken, **changed)) for point in ["full", *expected]]
    runs.append(("unbroken", _fn_args(transformed, unbroken, unbroken, **changed)))
    done = run_python(_STORY, json.dumps(runs))
    lines = done.stdout.splitlines()
    assert lines[:2] == [lines[0], "full: 2"], done.stderr
    assert lines[0].startswith(f"full: {broken}/cache/boundary/")
    assert lines[0].endswith("or set boundary_cache.enabled=false")
    expected = {**expected, "unbroken": [*_FIRST, *_SECOND, "0"]}
    assert lines[2:] == [f"{point}: {event}" for point, events in expected.items() for event in events], done.stderr

    weights, summary = _trained(tmp_path / "end")
    weights_of_unbroken, summary_of_unbroken = _trained(unbroken)
    for ours, theirs in zip(weights, weights_of_unbroken, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert summary["phases"] == summary_of_unbroken["phases"]
    assert summary["notes"][-1] == "fine_tuning resumed after epoch 4, from a checkpoint"
    note = summary_of_unbroken["notes"][-1]
    assert note.startswith(f"no checkpoint could be written to {unbroken}/checkpoints/")
    assert summary["activations"]["computed"] == 0
    assert os.listdir(broken / "checkpoints") == []
