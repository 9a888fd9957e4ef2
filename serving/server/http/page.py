"""The web page at `/` of the local server: drop an image, see its classes. Called by `routes`.

The page is the files `page.*` in this folder, and loads nothing from elsewhere. It sends the bytes of an image to
`/v1/models/NAME/versions/N:predict`. If the server refuses their format, it sends the image as the browser draws it. It
reads the models at `/graftline/models.json`, because TensorFlow Serving's API cannot list them.
"""

import functools
import json
import pathlib

from tensorflow.core.framework import types_pb2

from graftline.serving.server.errors import ServingError
from graftline.serving.server.http.messages import Answer, Request
from graftline.serving.server.model.manager import ModelManager
from graftline.signatures import SERVING_DEFAULT

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/graftline/page.css": ("page.css", "text/css; charset=utf-8"),
    "/graftline/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/graftline/page.svg": ("page.svg", "image/svg+xml"),
}
# The page loads nothing from elsewhere. No other page may frame it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def read_page(request: Request) -> Answer:
    """Return the page or one of its files."""
    name, content_type = _FILES[request.path]
    return Answer(200, _read(name), content_type, _HEADERS)


@functools.cache
def _read(name: str) -> bytes:
    return pathlib.Path(__file__).with_name(name).read_bytes()


def list_models(manager: ModelManager) -> Answer:
    """Return the models, sorted by name: `{"models": [{"name": …, "versions": […], "images": …}]}`.

    `versions` are those that answer, the highest first, as strings (64-bit numbers, as the API writes them). `images`
    is whether `serving_default` of the highest takes one string for each row, so that a file's bytes can be sent to it.
    """
    models = []
    for name in manager.names:
        versions = [str(version) for version in manager.available_versions(name)]
        models.append({"name": name, "versions": versions, "images": _takes_images(manager, name)})
    return Answer(200, json.dumps({"models": models}).encode())


def _takes_images(manager: ModelManager, name: str) -> bool:
    try:
        with manager.use(name) as (_, model):
            inputs = list(model.signature(SERVING_DEFAULT).inputs.values())
    except ServingError:
        return False
    return len(inputs) == 1 and inputs[0].dtype == types_pb2.DT_STRING
