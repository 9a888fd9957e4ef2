"""The splits of all images that were ever stored, so that an image keeps its split from run to run.

By content alone most images would keep theirs without a memory. It is for those whose split depends on others: near
copies, groups, and the images of tiny classes. One small CSV file for each fraction and seed, under
`<state>/splits/`: its rows are in the order in which images came.
"""

import os
import re
import uuid
from collections.abc import Mapping

from graftline.components.image_example_gen.settings import IngestSettings
from graftline.errors import UserError
from graftline.features import EVAL, TEST, TRAIN
from graftline.workspace import Workspace

HEADER = "sha256,split"
_LINE = re.compile(f"([0-9a-f]{{64}}),({TRAIN}|{EVAL}|{TEST})")


def path_of(state: str, settings: IngestSettings) -> str:
    """The file of these settings: another fraction or seed is another split, and so another file."""
    return os.path.join(Workspace(state).splits, f"eval-{settings.eval_fraction!r}-seed-{settings.split_seed}.csv")


def load(state: str, settings: IngestSettings) -> dict[str, str]:
    """The split of each known image by sha256, the earliest first; empty when there is no file yet.

    Args:
        state: folder or URI that outlives runs.
        settings: `eval_fraction` and `split_seed` say which file.

    Raises:
        UserError: the file is damaged; the message names file and line.
    """
    from tensorflow.io import gfile

    path = path_of(state, settings)
    return read(path) if gfile.exists(path) else {}


def save(state: str, settings: IngestSettings, splits: Mapping[str, str]) -> None:
    """Add `splits` (sha256: split) to what `load` gives; a file is replaced as a whole or not at all.

    Raises:
        UserError: as `load`.
    """
    from tensorflow.io import gfile

    known = load(state, settings)
    merged = {**known, **splits}
    if merged == known:
        return
    path = path_of(state, settings)
    gfile.makedirs(os.path.dirname(path))
    aside = f"{path}.{uuid.uuid4().hex}"
    write(aside, merged)
    gfile.rename(aside, path, overwrite=True)


def read(path: str) -> dict[str, str]:
    """What `write` wrote.

    Raises:
        UserError: a line that is none of its lines, or an image with two splits; the message names file and line.
    """
    from tensorflow.io import gfile

    with gfile.GFile(path, "rb") as file:
        lines = file.read().decode(errors="replace").splitlines()
    if not lines or lines[0] != HEADER:
        raise _damaged(path, 1, f"'{HEADER}' was expected, found {_shown(lines[0] if lines else '')}")
    splits: dict[str, str] = {}
    for number, line in enumerate(lines[1:], 2):
        match = _LINE.fullmatch(line)
        if match is None:
            raise _damaged(path, number, f"a sha256 in hex, a comma and a split were expected, found {_shown(line)}")
        sha, split = match.groups()
        if splits.setdefault(sha, split) != split:
            raise _damaged(path, number, f"{sha} is in {splits[sha]} by an earlier line and in {split} by this one")
    return splits


def write(path: str, splits: Mapping[str, str]) -> None:
    """Write a CSV file of sha256 and split with a header line, in the order given."""
    from tensorflow.io import gfile

    with gfile.GFile(path, "w") as file:
        file.write("\n".join((HEADER, *(f"{sha},{split}" for sha, split in splits.items()), "")))


def _shown(line: str) -> str:
    return repr(line if len(line) <= 100 else f"{line[:100]}...")


def _damaged(path: str, number: int, what: str) -> UserError:
    return UserError(
        f"{path}, line {number}: {what}. The file says which split each image is in; mend the line, or "
        "remove the file: then images are split anew, and some may change sides"
    )
