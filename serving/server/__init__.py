"""The local model server: the TF Serving API, gRPC and REST v1, without Docker.

`serve` is what `graftline serve` calls; `ModelServer` starts and stops the same server within a process.
Importing this package is quick: TensorFlow is imported when a server starts, after its ports are bound.
"""

from graftline.serving.server.options import ServerOptions
from graftline.serving.server.process import serve
from graftline.serving.server.server import ModelServer

__all__ = ["ModelServer", "ServerOptions", "serve"]
