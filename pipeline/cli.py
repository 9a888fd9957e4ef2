"""The commands: `graftline run | serve | predict | bulk | compile | rollback | config`.

Scripts rely on --json and on the exit statuses of `pipeline.command`.
Little more than click is imported before the command is known: `graftline --help` answers at once.
"""

import contextlib
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal

import click

from graftline import __version__, streams
from graftline.errors import UserError
from graftline.pipeline import app
from graftline.pipeline.command import DONE, NOT_BLESSED, USAGE, Group
from graftline.serving.server import flags as server_flags

if TYPE_CHECKING:
    from graftline.serving.server import ModelServer


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="graftline")
def main() -> None:
    """From a folder of labelled images to a blessed, served classifier."""


_set = click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key of the config; may be repeated."
)
_json = click.option(
    "--json", "as_json", is_flag=True, help="Only JSON on standard output; everything else on standard error."
)


def _model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what classifies: --model, --server and --name."""
    command = click.option("--name", help="The model's name on the server or in the workspace.")(command)
    server = click.option("--server", metavar="HOST:GRPC_PORT|http://HOST:REST_PORT", help="A running model server.")
    model = click.option("--model", metavar="DIR", help="A SavedModel, a base path of versions, or a workspace.")
    return model(server(command))


def _require_model_or_server(model: str | None, server: str | None) -> None:
    if (model is None) == (server is None):
        raise click.UsageError("Give either --model DIR or --server HOST:GRPC_PORT.")


@main.command()
@click.argument("path", metavar="[CONFIG]", required=False)
@click.option(
    "--images", metavar="DIR", multiple=True, help="Folder of images, one folder for each class; may be repeated."
)
@click.option("--workspace", metavar="DIR", help="Folder for everything that runs keep; default ./graftline-workspace.")
@click.option("--reset-baseline", is_flag=True, help="Do not compare with the served model: judge as in a first run.")
@_set
@_json
def run(
    path: str | None,
    images: Sequence[str],
    workspace: str | None,
    reset_baseline: bool,
    overrides: Sequence[str],
    as_json: bool,
) -> int:
    """Train, judge and push a classifier on this machine.

    Give a config file (`graftline config` prints one), or only --images. The exit status is 3 if the model was not
    blessed.
    """
    if path is None and not images and not any(item.startswith("images=") for item in overrides):
        raise click.UsageError("Give a config file, or a folder of images with --images DIR.")
    from graftline.pipeline import config_file

    folders = list(images) if len(images) > 1 else images[0] if images else None
    options = {key: value for key, value in (("images", folders), ("workspace", workspace)) if value is not None}
    loaded = config_file.load(path, overrides, options)
    summary = app.run_pipeline(loaded, reset_baseline)
    app.print_summary(summary, loaded, as_json)
    return DONE if summary.blessed and not summary.push_refused else NOT_BLESSED


@main.command(context_settings=server_flags.CONTEXT)
@click.argument("models", metavar="[WORKSPACE|MODEL_DIR]", required=False)
@click.option("--name", help="The model to serve, or the name for a single SavedModel.")
@click.option(
    "--engine",
    type=click.Choice(["graftline", "tensorflow"]),
    default="graftline",
    show_default=True,
    help="The server: Graftline's own, or tensorflow_model_server from PATH.",
)
@server_flags.server_flags
@click.pass_context
def serve(context: click.Context, models: str | None, name: str | None, engine: str, **flags: Any) -> None:
    """Serve models over TensorFlow Serving's API.

    Serves the models of a workspace, or one SavedModel, until Ctrl-C.
    Underscores in the names of flags work as well as dashes: TensorFlow Serving uses underscores.
    """
    from graftline.serving import server
    from graftline.serving.versions import locate

    options = server_flags.to_options(context, flags)
    server_flags.refuse_path_and_config(models, options)
    served = locate.find_models(models, name) if models else []
    if engine == "tensorflow":
        from graftline.serving.tf_serving.engine import run_tensorflow_model_server

        run_tensorflow_model_server(served, options)
    app.require_package("tensorflow", "serve")
    server_flags.log_to_stderr("graftline: ")
    server.serve(served, options=options, ready=_announce)


def _announce(server: "ModelServer") -> None:
    texts = {
        name: f"version{'s' * (len(some) > 1)} {', '.join(map(str, some))}" for name, some in server.served.items()
    }
    names = ", ".join(f"{name} ({versions})" for name, versions in texts.items())
    host = f"[{server.host}]" if ":" in server.host else server.host
    rest = f"REST {server.scheme}://{host}:{server.rest_port}/v1/models/{next(iter(server.served), '')}"
    click.echo(f"graftline: serving {names}: {rest}, gRPC {host}:{server.grpc_port}; Ctrl-C ends it", err=True)


@main.command()
@click.argument("images", metavar="IMAGE_OR_FOLDER...", nargs=-1, required=True)
@_model_options
@_json
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV: path, the best labels with their scores, error.")
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(dir_okay=False), help="Write to FILE instead of standard output."
)
def predict(
    images: Sequence[str],
    model: str | None,
    server: str | None,
    name: str | None,
    as_json: bool,
    as_csv: bool,
    output: str | None,
) -> int:
    """Classify images with a model on disk or a model server.

    The row of a file that cannot be classified holds an error. The exit status is 2 if no file can be classified.
    The path - is one image from standard input.
    """
    _require_model_or_server(model, server)
    if as_json and as_csv:
        raise click.UsageError("Give either --json or --csv.")
    from graftline.pipeline import predictions
    from graftline.serving.predict import find_images

    warnings.filterwarnings("ignore", module=r"PIL\.")  # such as damaged EXIF, which harms no image
    rows = app.classify(images, model, server, name)
    kind = "json" if as_json else "csv" if as_csv else "text"
    with _output(output) as out, predictions.progress(rows, lambda: sum(1 for _ in find_images(images)), out) as parts:
        good, bad = predictions.write(parts[0], kind, *parts[1:])
    if bad:
        click.echo(f"graftline: {good:,} classified, {bad:,} not", err=True)
    return DONE if good else USAGE


@main.command()
@click.argument("images", metavar="IMAGES...", nargs=-1, required=True)
@_model_options
@click.option("-o", "--output", metavar="PREFIX", required=True, help="Write the rows to PREFIX-00000-of-0000N.csv.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    show_default=True,
    help="Format of the rows.",
)
@click.option("--shards", default=0, type=click.IntRange(0), help="How many files; 0: Beam's runner decides.")
@click.option(
    "--beam", "beam_options", metavar="FLAG", multiple=True, help="A flag of Beam, such as --beam=--runner=FlinkRunner."
)
def bulk(
    images: Sequence[str],
    model: str | None,
    server: str | None,
    name: str | None,
    output: str,
    form: Literal["csv", "jsonl"],
    shards: int,
    beam_options: Sequence[str],
) -> int:
    """Classify any number of images with Beam.

    Takes files, folders and patterns such as gs://bucket/photos/**.jpg. The rows are those of `predict`, in no
    particular order. The exit status is 2 if no image can be classified.
    """
    _require_model_or_server(model, server)
    app.require_package("apache_beam", "pipeline")
    from graftline.pipeline import predictions

    predictions.refuse_unwritable(output)
    from graftline.pipeline import bulk as bulk_pipeline

    try:
        target = bulk_pipeline.find_target(model, server, name)
        good, bad = bulk_pipeline.run(images, target, output, form, shards, beam_options)
    except Exception as error:
        if user_error := app.find_user_error(error):
            raise user_error from error
        raise
    click.echo(f"graftline: {good:,} images classified, {bad:,} not: {output}-*.{form}", err=True)
    return DONE if good else USAGE


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[str]]:
    """Open the file at `path`; standard output if it is None."""
    if path is None:
        yield sys.stdout
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"--output {path} cannot be written: {error.strerror}") from error
    with streams.writer(descriptor, f"--output {path}") as file:
        yield file


@main.command("compile")
@click.argument("path", metavar="CONFIG")
@click.option(
    "--target",
    required=True,
    type=click.Choice(["kubeflow", "vertex"]),
    help="Kubeflow Pipelines (YAML) or Vertex AI (JSON).",
)
@click.option(
    "-o", "--output", required=True, metavar="FILE", type=click.Path(dir_okay=False), help="The file to write."
)
@_set
def compile_command(path: str, target: Literal["kubeflow", "vertex"], output: str, overrides: Sequence[str]) -> None:
    """Write the pipeline as a job for a cluster."""
    from graftline.pipeline import config_file, console

    app.require_package("tfx", "pipeline")
    loaded = config_file.load(path, overrides)
    with console.captured(pathlib.Path(os.devnull)) as screen:  # hides what TFX prints when it is imported
        from graftline.pipeline import compile as compiling

        for warning in compiling.warnings(loaded):
            screen.write(f"graftline: note: {warning}\n")
        compiling.compile_pipeline(loaded, target, pathlib.Path(output))
    click.echo(f"graftline: {target} pipeline written to {output}", err=True)


@main.command()
@click.argument("models", metavar="WORKSPACE|BASE_PATH")
@click.option("--name", help="The model, if there are several.")
@click.option(
    "--to", type=click.IntRange(0), metavar="VERSION", help="The version to serve again; default: the last good one."
)
@_json
def rollback(models: str, name: str | None, to: int | None, as_json: bool) -> None:
    """Serve the last good version again.

    It becomes the newest version. The version that is served now is withdrawn.
    """
    from graftline.jsonable import to_json
    from graftline.pipeline import rollback as rolling_back

    done = rolling_back.run(models, name, to)
    click.echo(done.text, err=as_json)
    if as_json:
        click.echo(to_json(done.as_json()))


@main.command("config")
@click.option("--markdown", is_flag=True, help="Print a reference of all keys as Markdown tables instead.")
def config_command(markdown: bool) -> None:
    """Print the full default config, with a comment on every key."""
    from graftline.pipeline import config_file, config_reference

    click.echo(config_reference.as_markdown() if markdown else config_file.defaults_as_yaml(), nl=False)
