"""The web page at `/` of the local server: drop an image, see its classes. `front` asks it for paths outside the API.

The page is the files `page.*` beside this module, and loads nothing from elsewhere. It sends an image's bytes as they
are to `/v1/models/NAME/versions/N:predict`, and where their format is refused, as the browser draws
them. What there is to choose from it reads at `/graftline/models.json`, since TensorFlow Serving's API cannot list
models.
"""

import functools
import json
import pathlib
from typing import Any

from tensorflow.core.framework import types_pb2

from graftline.serving.server.errors import ServingError
from graftline.serving.server.http.front import available_versions
from graftline.serving.server.http.server import Answer
from graftline.serving.server.model.manager import ModelManager
from graftline.signatures import SERVING_DEFAULT

_MODELS = "/graftline/models.json"
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/graftline/page.css": ("page.css", "text/css; charset=utf-8"),
    "/graftline/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/graftline/page.svg": ("page.svg", "image/svg+xml"),
}
# The page loads nothing from elsewhere, and no other page may frame it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def answer(method: str, path: str, manager: ModelManager) -> Answer | None:
    """The page, one of its files or the list of models; None for any other path or a method that changes things."""
    if method not in ("GET", "HEAD"):
        return None
    if path == _MODELS:
        return Answer(200, json.dumps({"models": models(manager)}).encode())
    if path not in _FILES:
        return None
    name, content_type = _FILES[path]
    return Answer(200, _read(name), content_type, _HEADERS)


@functools.cache
def _read(name: str) -> bytes:
    return pathlib.Path(__file__).with_name(name).read_bytes()


def models(manager: ModelManager) -> list[dict[str, Any]]:
    """What is served, sorted by name, each `{"name": …, "versions": […], "images": …}`.

    `versions` are those that answer, the highest first, as strings (64-bit numbers, as the API writes them). `images`
    is whether `serving_default` of the highest takes one string for each row, as it must to be sent a file's bytes.
    """
    return [
        {
            "name": name,
            "versions": [str(version) for version in available_versions(manager, name)],
            "images": _takes_images(manager, name),
        }
        for name in manager.names
    ]


def _takes_images(manager: ModelManager, name: str) -> bool:
    try:
        with manager.use(name) as (_, model):
            inputs = list(model.signature(SERVING_DEFAULT).inputs.values())
    except ServingError:
        return False
    return len(inputs) == 1 and inputs[0].dtype == types_pb2.DT_STRING
