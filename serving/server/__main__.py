"""`python -m serving.server PATH`: the model server alone, for a supervisor or a test that runs it as a child.

Imports nothing of the pipeline. When it answers it writes one line to standard error:
`serving NAME… rest=HOST:PORT grpc=HOST:PORT`. Exit status: 0 after SIGTERM or SIGINT, 2 for a UserError.
"""

import argparse
import logging
import sys

from graftline.errors import UserError
from serving.locate import find_models
from serving.server import ModelServer, serve


def main(arguments: list[str] | None = None) -> int:
    """Run the server until a signal; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m serving.server", description="Serve models by the TF Serving API")
    parser.add_argument("path", help="a workspace, a TF Serving base path, or a SavedModel")
    parser.add_argument("--rest-port", type=int, default=8501)
    parser.add_argument("--grpc-port", type=int, default=8500)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--name")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)

    def announce(server: ModelServer) -> None:
        names = " ".join(model.name for model in server.models)
        sys.stderr.write(
            f"serving {names} rest={server.host}:{server.rest_port} grpc={server.host}:{server.grpc_port}\n"
        )
        sys.stderr.flush()

    try:
        serve(
            find_models(options.path, options.name), options.rest_port, options.grpc_port, options.host, ready=announce
        )
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
