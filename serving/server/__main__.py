"""`python -m graftline.serving.server PATH`: the model server alone, for a supervisor or a test.

It imports nothing of the pipeline. It logs to standard error, and writes one line there when it answers:
`serving NAME… rest=HOST:PORT grpc=HOST:PORT`.
Exit status: 0 after SIGTERM or SIGINT, 2 for a UserError.
"""

import os
import sys
from typing import Any

import click

from graftline import own_keras, proxies, streams
from graftline.errors import UserError
from graftline.serving.server import ModelServer, serve
from graftline.serving.server.flags import CONTEXT, log_to_stderr, refuse_path_and_config, server_flags, to_options
from graftline.serving.versions.locate import find_models


def _announce(server: ModelServer) -> None:
    host = f"[{server.host}]" if ":" in server.host else server.host
    names = " ".join(server.served)
    sys.stderr.write(f"serving {names} rest={host}:{server.rest_port} grpc={host}:{server.grpc_port}\n")
    sys.stderr.flush()


@click.command(context_settings={"help_option_names": ["-h", "--help"], **CONTEXT})
@click.argument("path", required=False)
@click.option("--name", help="Which model, or the name to serve a single one under.")
@server_flags
@click.pass_context
def main(context: click.Context, path: str | None, name: str | None, **flags: Any) -> None:
    """Serve the models of a workspace, a TF Serving base path or a SavedModel by the TF Serving API."""
    own_keras.set_environment()
    proxies.drop_settings_of_grpc(os.environ)
    log_to_stderr()
    try:
        options = to_options(context, flags)
        refuse_path_and_config(path, options)
        serve(find_models(path, name) if path else [], ready=_announce, options=options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        context.exit(2)


if __name__ == "__main__":
    streams.run(main, prog_name="python -m graftline.serving.server")
