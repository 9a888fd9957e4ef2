"""`python -m graftline.serving.tf_serving WORKSPACE DIR`: write a folder for Docker and TensorFlow Serving."""

import argparse
import sys

from graftline import streams
from graftline.errors import UserError
from graftline.serving.tf_serving import write


def main(arguments: list[str] | None = None) -> int:
    """Write the folder and return the exit status: 0, or 2 for a UserError."""
    parser = argparse.ArgumentParser("python -m graftline.serving.tf_serving", description=__doc__.partition(": ")[2])
    parser.add_argument("path", metavar="WORKSPACE", help="a workspace, or a TF Serving base path")
    parser.add_argument("directory", metavar="DIR", help="where to write; created if it is missing")
    options = parser.parse_args(arguments)
    try:
        names = write(options.path, options.directory)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stderr.write(
        f"wrote a folder that serves {', '.join(names)}: cd {options.directory} && docker compose up --detach --wait\n"
    )
    return 0


if __name__ == "__main__":
    streams.run(main)
