"""Kill a push, a rollback or a retention at each of its steps, while a reader looks. `test_publish_killed` runs it.

It is a process of its own, without TensorFlow, so that hundreds of forks take seconds. A step is a call, in `serving/`
or in Python's library, that changes the disk or a lock on it. Between two steps nothing changes that a reader or the
next pusher could see.

    python -m tests.serving.versions.push_every_step WHAT FOLDER
"""

import json
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from graftline.serving.versions import labels, rollback, withdrawals
from graftline.serving.versions.base_path import Disk, content_digest
from tests.serving.versions.saved_models import export, publish

KEPT = 2  # versions that the retention keeps
STEPS = {"open", "write", "flush", "close", "fsync", "flock", "mkdir", "rename", "unlink", "rmdir"}


def act(what: str, root: pathlib.Path) -> None:
    """Do what is to be killed. There are three versions; the retention removes one or two of them."""
    if what == "push":
        publish(str(root / "new"), str(root / "models/roses"), keep=KEPT)
    else:
        rollback.roll_back(Disk(str(root / "models/roses")))


def warm() -> None:
    """Import what a push imports lazily, so that steps of the import do not count as steps of the push."""
    labels._parse(b"")
    labels._to_text(labels._parse(b""))


def dying_at(step: int) -> Callable[[FrameType, str, Any], None]:
    """Return a profiler that kills the process before the call of this number."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        if event == "c_call" and argument.__name__ in STEPS:
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    return profile


class Reader:
    """Looks at the base path as a model server does, and records every version that is no complete model."""

    def __init__(self, base: pathlib.Path, whole: dict[str, str]) -> None:
        self._base, self._whole = base, whole
        self._known: dict[str, str] = {}
        self.torn: list[str] = []
        self.looks = 0

    def look(self) -> None:
        """Look once. A version that vanishes while it is read was removed, which is allowed."""
        self.looks += 1
        for name in os.listdir(self._base):
            if name.isdecimal() and name not in self._known:
                try:
                    digest = content_digest(str(self._base / name))
                except FileNotFoundError:
                    if (self._base / name).exists():
                        self.torn.append(name)
                    continue
                if digest in self._whole:
                    self._known[name] = self._whole[digest]
                elif (self._base / name).exists():
                    self.torn.append(name)

    def forget(self) -> dict[str, str]:
        """Return the models of the versions that are there."""
        self._known.clear()
        self.look()
        return dict(self._known)


def main(what: str, root: pathlib.Path) -> dict[str, Any]:
    """Kill at step 1, 2, 3, ... until one run completes, and return what was seen."""
    models = [
        export(root / "old", b"old", files=1),
        export(root / "other", b"other", files=1),
        export(root / "good", b"good", files=1),
    ]
    models.append(export(root / "new", b"new", files=1))
    whole = {content_digest(str(path)): path.name for path in models}
    shutil.rmtree(root / "models", ignore_errors=True)
    for path in models[:3]:
        publish(str(path), str(root / "models/roses"))
    shutil.copytree(root / "models", root / "before")
    warm()
    base = root / "models/roses"
    ends: list[dict[str, Any]] = []
    reader = Reader(base, whole)
    for step in range(1, 5000):
        shutil.rmtree(root / "models")
        shutil.copytree(root / "before", root / "models")
        reader.forget()
        child = os.fork()
        if not child:
            sys.setprofile(dying_at(step))
            act(what, root)
            os._exit(0)
        done = 0
        while not done:
            reader.look()
            done, status = os.waitpid(child, os.WNOHANG)
        found = reader.forget()
        config = labels.pinned_versions(Disk(str(base)))
        gone = {whole[digest] for digest in withdrawals.withdrawn(Disk(str(base)))}
        if what == "push":
            act(what, root)  # the next run cleans up and completes it
        else:
            refused = False
            try:  # the next nightly run pushes the withdrawn model again
                publish(str(root / "good"), str(base), keep=KEPT)
            except withdrawals.WithdrawnError:
                refused = True
        end = {"versions": found, "named": sorted(config or ()), "withdrawn": sorted(gone), "after": reader.forget()}
        end["hidden"] = sorted(name for name in os.listdir(base) if name.startswith("."))
        ends.append(end if what == "push" else {**end, "refused": refused})
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
    return {"torn": reader.torn, "looks": reader.looks, "ends": ends}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], pathlib.Path(sys.argv[2]))))
