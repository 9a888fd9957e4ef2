"""How a withdrawn model is recognized: the contract of rollback, Pusher, ServingValidator and warm start.

A rollback withdraws a model: it writes a file, named by the digest of the model's files, into a folder under the base
path of the versions. Every orchestrator finds it there. TensorFlow Serving ignores the folder: its name is no number.
"""

import hashlib
from collections.abc import Iterable

FOLDER = ".withdrawn"  # in the base path; holds a file for each withdrawn model


def tree_digest(files: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the hex sha256 that names a folder's content.

    `files` are the relative path, with "/" between its parts, and the sha256 digest of each file, sorted by path.
    """
    digest = hashlib.sha256()
    for path, content in files:
        # With the bytes of the files, moving bytes from one file to the next could leave the digest the same.
        digest.update(path + b"\0" + content)
    return digest.hexdigest()
