"""The fingerprint of a layout: a hash that changes with every path, label and content, so that ingest runs again."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from graftline.components.image_example_gen.layouts import Layout
from graftline.components.storage import files


def fingerprint(layout: Layout, threads: int | None = None) -> str:
    """Hash all paths and contents. Sizes and times of files do not count. Memory: one chunk for each thread.

    For a file at a URI the checksum of its file system stands for the content, if there is one. A file that cannot be
    read counts with its error, so that a repair changes the fingerprint. Refused files count with their reason.
    `threads` files are read at once; None chooses by where the files are. Returns a sha256 in hex.
    """
    digest = hashlib.sha256()
    with ThreadPoolExecutor(threads or (files.REMOTE_THREADS if layout.roots.remote else files.cpus())) as pool:
        contents = pool.map(lambda file: _content_id(layout.roots.locate(file.path)), layout.files)
        for file, content in zip(layout.files, contents, strict=True):
            digest.update(("\0".join(file) + f"\0{content}\n").encode())
    for path, label, reason in layout.refused:
        digest.update(f"{path}\0{label}\0refused: {reason}\n".encode())
    return digest.hexdigest()


def _content_id(location: str) -> str:
    try:
        return files.content_id(location)
    except OSError as error:
        return f"unreadable: {error.strerror}"
