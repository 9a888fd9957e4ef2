"""The command line: `graftline run | serve | predict | compile | config`.

What scripts rely on are --json and the exit statuses: 0 pushed, or done what was asked; 3 the run ended but the model
was not blessed; 2 bad usage, config or data; 130 Ctrl-C; 1 anything else.
Imports only click before it knows the command: `graftline --help` answers at once.
"""

import io
import json
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from graftline import __version__
from graftline.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.report import RunSummary
    from serving.client import Prediction
    from serving.server import ModelServer

DONE, UNEXPECTED, USAGE, NOT_BLESSED, INTERRUPTED = 0, 1, 2, 3, 130


class UnexpectedError(Exception):
    """An error that nobody foresaw; the message names the log that holds its traceback."""


class Command(click.Command):
    """A click command that turns every way to fail into one message on standard error and an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """As `click.Command.main`, always in standalone mode: ends the process."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's C++ side has nothing to say to a user
        kwargs["standalone_mode"] = False
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a file's odd name must not end a run at its last line
                stream.reconfigure(errors="backslashreplace")
        sys.exit(_status(super().main, *args, **kwargs))


class Graftline(Command, click.Group):
    """The group of commands."""

    command_class = click.Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As `click.Group.resolve_command`; an unknown command names the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            error.message = error.message.removesuffix(".") + (did_you_mean(args[0], self.list_commands(ctx)) or ".")
            raise


def _status(command: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    try:
        status = command(*args, **kwargs)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        asked = error.ctx.command_path if error.ctx else "graftline"
        return _fail(USAGE, f"{error.format_message()} See `{asked} --help`.")
    except click.ClickException as error:
        return _fail(USAGE, error.format_message())
    except UserError as error:
        return _fail(USAGE, str(error))
    except (click.Abort, KeyboardInterrupt):
        return _fail(INTERRUPTED, "interrupted")
    except UnexpectedError as error:
        return _fail(UNEXPECTED, str(error))
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; Python would complain once more when it flushes at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return UNEXPECTED
    except Exception as error:  # noqa: BLE001 - the last resort; there is no log outside a run
        click.echo(traceback.format_exc(), err=True)
        return _fail(UNEXPECTED, f"unexpected {_brief(error)}")
    return status if isinstance(status, int) else DONE


def _fail(status: int, message: str) -> int:
    click.echo(f"graftline: {message}", err=True)
    return status


def _brief(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@click.group(cls=Graftline, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="graftline")
def main() -> None:
    """From a folder of labelled images to a blessed, served classifier."""


_set = click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key of the config; may be repeated."
)
_json = click.option(
    "--json", "as_json", is_flag=True, help="Only JSON on standard output; all else goes to standard error."
)


@main.command()
@click.argument("config_file", metavar="[CONFIG]", required=False)
@click.option(
    "--images", metavar="DIR", multiple=True, help="Folder of images, one folder for each class; may be given again."
)
@click.option("--workspace", metavar="DIR", help="Where everything is kept; default ./graftline-workspace.")
@_set
@_json
def run(
    config_file: str | None, images: Sequence[str], workspace: str | None, overrides: Sequence[str], as_json: bool
) -> int:
    """Train, judge and push a classifier, on this machine.

    What to do is in the file CONFIG (`graftline config` prints one), or give only --images. Ends with status 3 when the
    model was not blessed.
    """
    if config_file is None and not images and not any(item.startswith("images=") for item in overrides):
        raise click.UsageError("Give a config file, or a folder of images with --images DIR.")
    from pipeline import config

    folders = list(images) if len(images) > 1 else images[0] if images else None
    given = {key: value for key, value in (("images", folders), ("workspace", workspace)) if value is not None}
    return execute(config.load(config_file, overrides, given), as_json)


def execute(config: "Config", as_json: bool) -> int:
    """Runs the pipeline, prints what it did as a summary or with `as_json` as JSON, and gives the exit status.

    Raises:
      UserError: a mistake in the input.
      UnexpectedError: anything else; the message names the log that holds the traceback.
    """
    summary = run_pipeline(config)
    print_summary(summary, config, as_json)
    return DONE if summary.blessed else NOT_BLESSED


def run_pipeline(config: "Config") -> "RunSummary":
    """Checks the input, then runs the pipeline with its progress on standard error and all other output in a log file.

    Raises: as `execute`.
    """
    from components.image_example_gen import layouts
    from pipeline import console, preflight

    layout = preflight.check(config)
    for warning in (*layout.warnings, *preflight.warnings(config)):
        click.echo(f"graftline: note: {warning}", err=True)
    with preflight.lock(config.workspace):
        log_file = console.new_log_file(config.workspace)
        click.echo(
            f"{len(layout.files):,} files in {len(layout.classes)} classes of {layout.root}; log: {log_file}",
            err=True,
        )
        with console.captured(log_file) as screen, console.Progress(screen) as progress:
            try:
                fingerprint = layouts.fingerprint(layout)
                from pipeline import local_runner

                return local_runner.run(config, fingerprint, progress)
            except Exception as error:
                traceback.print_exc()  # into the log, which sys.stderr is here
                if mistake := _user_error(error):
                    raise mistake from error
                raise UnexpectedError(f"unexpected {_brief(error)}; the whole story is in {log_file}") from error


def _user_error(error: BaseException | None) -> UserError | None:
    """The user's mistake behind an error, without the stage that Beam adds to its message."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error and UserError(re.sub(r" \[while running '.*'\]", "", str(error)))


def print_summary(summary: "RunSummary", config: "Config", as_json: bool) -> None:
    """The summary on standard output; with `as_json` on standard error, and the contract's JSON on standard output."""
    from pipeline import console

    click.echo(f"\n{console.summary(summary, config.workspace)}", err=as_json)
    if as_json:
        click.echo(_as_json(summary.as_json()))


@main.command()
@click.argument("models", metavar="WORKSPACE|MODEL_DIR")
@click.option("--rest-port", default=8501, show_default=True, type=click.IntRange(0, 65535))
@click.option("--grpc-port", default=8500, show_default=True, type=click.IntRange(0, 65535))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for every one.")
@click.option("--name", help="Which model, or the name to serve a single one under.")
def serve(models: str, rest_port: int, grpc_port: int, host: str, name: str | None) -> None:
    """Serve the models of a workspace or a SavedModel over TensorFlow Serving's API, until Ctrl-C."""
    from serving import locate, server

    server.serve(locate.find_models(models, name), rest_port, grpc_port, host=host, ready=_announce)


def _announce(server: "ModelServer") -> None:
    names = ", ".join(f"{model.name} (version {model.newest[0]})" for model in server.models)
    host = f"[{server.host}]" if ":" in server.host else server.host
    click.echo(
        f"graftline: serving {names}: REST http://{host}:{server.rest_port}/v1/models/{server.models[0].name}, "
        f"gRPC {host}:{server.grpc_port}; Ctrl-C ends it",
        err=True,
    )


@main.command()
@click.argument("images", metavar="IMAGE_OR_FOLDER...", nargs=-1, required=True)
@click.option("--model", metavar="DIR", help="A SavedModel, a base path of versions, or a workspace.")
@click.option("--server", metavar="HOST:GRPC_PORT", help="A running model server.")
@click.option("--name", help="The model's name on the server or in the workspace.")
@_json
def predict(images: Sequence[str], model: str | None, server: str | None, name: str | None, as_json: bool) -> int:
    """Classify images, with a model on disk or one that is served.

    A file that cannot be classified has an error in its place; when none can, the status is 2.
    """
    if (model is None) == (server is None):
        raise click.UsageError("Give either --model DIR or --server HOST:GRPC_PORT.")
    predictions = classify(images, model, server, name)
    print_predictions(predictions, as_json)
    return DONE if any(found.error is None for found in predictions) else USAGE


def classify(
    images: Sequence[str], model: str | None = None, server: str | None = None, name: str | None = None
) -> "list[Prediction]":
    """Classifies files and folders by the model at a path, or by a server; one row for each image.

    Raises:
      UserError: no such image, model or server.
    """
    from serving import client

    paths = client.find_images(images)
    if server is not None:
        return client.predict_with_server(server, name, paths)
    return client.predict_with_model(str(model), paths, name)


def print_predictions(predictions: "Sequence[Prediction]", as_json: bool, err: bool = False) -> None:
    """One line for each image, or with `as_json` one JSON list of {path, label, score, top_k} and {path, error}."""
    if as_json:
        click.echo(_as_json([_row(found) for found in predictions]), err=err)
        return
    for found in predictions:
        if found.error is not None:
            click.echo(f"{found.path}: {found.error}", err=True)
        else:
            others = ", ".join(f"{label} {score:.3f}" for label, score in found.top_k[1:3])
            click.echo(f"{found.path}: {found.label} {found.score:.3f}" + (f"  ({others})" if others else ""), err=err)


def _row(found: "Prediction") -> dict[str, Any]:
    if found.error is not None:
        return {"path": found.path, "error": found.error}
    top_k = [{"label": label, "score": score} for label, score in found.top_k]
    return {"path": found.path, "label": found.label, "score": found.score, "top_k": top_k}


def _as_json(value: Any) -> str:
    """JSON on one line; inf and nan, which JSON does not have, become null."""

    def finite(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: finite(each) for key, each in part.items()}
        if isinstance(part, list | tuple):
            return [finite(each) for each in part]
        return None if isinstance(part, float) and not math.isfinite(part) else part

    return json.dumps(finite(value), allow_nan=False)


@main.command("compile")
@click.argument("config_file", metavar="CONFIG")
@click.option("--target", required=True, type=click.Choice(["kubeflow", "vertex"]))
@click.option("-o", "--output", required=True, metavar="FILE", type=click.Path(dir_okay=False))
@_set
def compile_command(
    config_file: str, target: Literal["kubeflow", "vertex"], output: str, overrides: Sequence[str]
) -> None:
    """Write the same pipeline as a job for a cluster."""
    import pathlib

    from pipeline import config, console

    loaded = config.load(config_file, overrides)
    with console.captured(pathlib.Path(os.devnull)) as screen:  # TFX's import says much and means nothing
        from pipeline import compile as compiling

        for warning in compiling.warnings(loaded):
            screen.write(f"graftline: note: {warning}\n")
        compiling.compile_pipeline(loaded, target, pathlib.Path(output))
    click.echo(f"graftline: {target} pipeline written to {output}", err=True)


@main.command("config")
def config_command() -> None:
    """Print the full default config, every key commented."""
    from pipeline import config

    click.echo(config.defaults_as_yaml(), nl=False)
