"""The memory of splits: the split of every image that was ever stored, so that an image keeps it from run to run.

Most images keep their split by their content alone. The memory is for images whose split depends on other images: near
copies, groups, and images of tiny classes. There is one small CSV file for each fraction and seed, in
`<state>/splits/`. Its rows are in the order in which the images came.
"""

import os
import re
from collections.abc import Mapping

from graftline import disk
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.errors import UserError
from graftline.features import EVAL, TEST, TRAIN
from graftline.workspace import Workspace

HEADER = "sha256,split"
_LINE = re.compile(f"([0-9a-f]{{64}}),({TRAIN}|{EVAL}|{TEST})")


def path_of(state: str, settings: IngestSettings) -> str:
    """Return the path of the file for these settings. Another fraction or seed is another split and another file."""
    return os.path.join(Workspace(state).splits, f"eval-{settings.eval_fraction!r}-seed-{settings.split_seed}.csv")


def load(state: str, settings: IngestSettings) -> dict[str, str]:
    """Return the split of each known image by sha256, the earliest first; empty if there is no file yet.

    Raises:
        UserError: the file is damaged; the message names file and line.
    """
    from tensorflow.io import gfile

    path = path_of(state, settings)
    return read(path) if gfile.exists(path) else {}


def save(state: str, settings: IngestSettings, splits: Mapping[str, str]) -> None:
    """Add `splits` (sha256: split) to those that `load` returns. The file is replaced as a whole or not at all."""
    known = load(state, settings)
    merged = {**known, **splits}
    if merged == known:
        return
    disk.write(path_of(state, settings), _to_bytes(merged))


def mend(state: str, settings: IngestSettings) -> str:
    """Repair what a power loss leaves: an empty file, or one that ends within a line. Return a warning, "" for none.

    The whole lines are kept, and the damaged file stays under another name. Damage within the file is a hand's, and
    `load` refuses it.
    """
    from tensorflow.io import gfile

    path = path_of(state, settings)
    if not gfile.exists(path):
        return ""
    with gfile.GFile(path, "rb") as file:
        content = file.read()
    lines = content.rstrip(b"\0")  # some file systems fill what was not written with zeros
    whole = lines[: lines.rfind(b"\n") + 1]
    end = lines[len(whole) :].decode(errors="replace")
    if content and lines == content and (not end or _LINE.fullmatch(end)):
        return ""
    kept = _parse(path, whole) if whole else {}
    gfile.rename(path, f"{path}.damaged", overwrite=True)
    disk.write(path, _to_bytes(kept))
    return (
        f"{path}, the memory of each image's split, was cut off, as by a power loss: the splits of {len(kept):,} "
        "images are known, the others are chosen anew, and some may change sides. The damaged file is kept as "
        f"{path}.damaged; a copy from a backup, put in its place, restores the splits"
    )


def read(path: str) -> dict[str, str]:
    """Return the splits that `write` wrote.

    Raises:
        UserError: a line is damaged, or an image has two splits; the message names file and line.
    """
    from tensorflow.io import gfile

    with gfile.GFile(path, "rb") as file:
        return _parse(path, file.read())


def _parse(path: str, content: bytes) -> dict[str, str]:
    lines = content.decode(errors="replace").splitlines()
    if not lines or lines[0] != HEADER:
        raise _damaged(path, 1, f"expected '{HEADER}', found {_shorten(lines[0] if lines else '')}")
    splits: dict[str, str] = {}
    for number, line in enumerate(lines[1:], 2):
        match = _LINE.fullmatch(line)
        if match is None:
            raise _damaged(path, number, f"expected a sha256 in hex, a comma and a split, found {_shorten(line)}")
        sha, split = match.groups()
        if splits.setdefault(sha, split) != split:
            raise _damaged(path, number, f"an earlier line puts {sha} in {splits[sha]}, this line in {split}")
    return splits


def write(path: str, splits: Mapping[str, str]) -> None:
    """Write a CSV file of sha256 and split with a header line, in the order of `splits`."""
    from tensorflow.io import gfile

    with gfile.GFile(path, "wb") as file:
        file.write(_to_bytes(splits))


def _to_bytes(splits: Mapping[str, str]) -> bytes:
    return "\n".join((HEADER, *(f"{sha},{split}" for sha, split in splits.items()), "")).encode()


def _shorten(line: str) -> str:
    return repr(line if len(line) <= 100 else f"{line[:100]}...")


def _damaged(path: str, number: int, what: str) -> UserError:
    return UserError(
        f"{path}, line {number}: {what}. The file keeps the split of each image. Repair the line, or remove the file: "
        "then the images are split again, and some may change sides"
    )
