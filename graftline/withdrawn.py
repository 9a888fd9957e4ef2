"""How a model that was rolled back from is known again: the contract of rollback, Pusher, validator and warm start.

A model is named by the digest of its files. A withdrawal is a file under the base path of its versions, where every
orchestrator finds it; TF Serving passes it over, since its folder's name is no number.
"""

import hashlib
from collections.abc import Iterable

FOLDER = ".withdrawn"  # in the base path; holds a file for each model that is not to be served again


def tree_digest(files: Iterable[tuple[bytes, bytes]]) -> str:
    """Hex sha256 that names a folder's content.

    Args:
      files: path relative to the folder, with "/" between its parts, and sha256 digest of each file, sorted by path.
    """
    digest = hashlib.sha256()
    for path, content in files:
        # The digest of each file rather than its bytes: then no two trees read alike by moving bytes between files.
        digest.update(path + b"\0" + content)
    return digest.hexdigest()
