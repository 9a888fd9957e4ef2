"""Whether a path is a URI, which Beam's or TensorFlow's file systems open, or a path on disk."""

import os
import re

_URI = re.compile(r"[a-zA-Z][-a-zA-Z0-9+.]*://")


def is_uri(path: str) -> bool:
    """Return whether `path` begins with a scheme, such as `gs://`."""
    return _URI.match(path) is not None


def join(root: str, *parts: str) -> str:
    """Return the path of `parts` under a folder or URI."""
    return "/".join((root.rstrip("/"), *parts)) if is_uri(root) else os.path.join(root, *parts)
