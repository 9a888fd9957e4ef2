"""The command line: `graftline run | serve | predict | bulk | compile | rollback | config`.

What scripts rely on are --json and the exit statuses: 0 pushed, or done what was asked; 3 the run ended but the model
was not blessed; 2 bad usage, config or data; 130 Ctrl-C; 1 anything else.
Imports little more than click before it knows the command: `graftline --help` answers at once.
"""

import contextlib
import importlib.util
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, NoReturn

import click

from graftline import __version__
from graftline.errors import UserError, did_you_mean
from graftline.serving.server import flags as server_flags

if TYPE_CHECKING:
    from graftline.pipeline.config import Config
    from graftline.pipeline.run_summary import RunSummary
    from graftline.serving.client import Prediction
    from graftline.serving.server import ModelServer

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


def _needs(package: str, extra: str) -> None:
    """Raises UserError where a package is not installed that not every installation has."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"this needs {package}, which is not installed: run `pip install 'graftline[{extra}]'`")


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
@click.option("--reset-baseline", is_flag=True, help="Do not compare with the served model, as in a first run.")
@_set
@_json
def run(
    config_file: str | None,
    images: Sequence[str],
    workspace: str | None,
    reset_baseline: bool,
    overrides: Sequence[str],
    as_json: bool,
) -> int:
    """Train, judge and push a classifier, on this machine.

    What to do is in the file CONFIG (`graftline config` prints one), or give only --images. Ends with status 3 when the
    model was not blessed.
    """
    if config_file is None and not images and not any(item.startswith("images=") for item in overrides):
        raise click.UsageError("Give a config file, or a folder of images with --images DIR.")
    from graftline.pipeline import config

    folders = list(images) if len(images) > 1 else images[0] if images else None
    given = {key: value for key, value in (("images", folders), ("workspace", workspace)) if value is not None}
    return execute(config.load(config_file, overrides, given), as_json, reset_baseline)


def execute(config: "Config", as_json: bool, reset_baseline: bool = False) -> int:
    """Runs the pipeline, prints what it did as a summary or with `as_json` as JSON, and gives the exit status.

    Raises:
      UserError: a mistake in the input.
      UnexpectedError: anything else; the message names the log that holds the traceback.
    """
    summary = run_pipeline(config, reset_baseline)
    print_summary(summary, config, as_json)
    return DONE if summary.blessed and not summary.push_refused else NOT_BLESSED


def run_pipeline(config: "Config", reset_baseline: bool = False) -> "RunSummary":
    """Checks the input, then runs the pipeline with its progress on standard error and all other output in a log file.

    With `reset_baseline` the gate compares with nothing, as in a first run.

    Raises: as `execute`.
    """
    _needs("tfx", "pipeline")
    from graftline.components.image_example_gen import layouts
    from graftline.pipeline import console, preflight

    layout = preflight.check(config)
    for warning in (*layout.warnings, *preflight.warnings(config, layout.classes)):
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
                from graftline.pipeline import local_runner

                return local_runner.run(config, fingerprint, progress, reset_baseline)
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
    from graftline.pipeline import console

    click.echo(f"\n{console.summary(summary, config.workspace)}", err=as_json)
    if as_json:
        from graftline.pipeline.predictions import to_json

        click.echo(to_json(summary.as_json()))


@main.command(context_settings=server_flags.CONTEXT)
@click.argument("models", metavar="[WORKSPACE|MODEL_DIR]", required=False)
@click.option("--name", help="Which model, or the name to serve a single SavedModel under.")
@click.option(
    "--engine",
    type=click.Choice(["graftline", "tensorflow"]),
    default="graftline",
    show_default=True,
    help="The server: Graftline's own, or the tensorflow_model_server that is on PATH.",
)
@server_flags.server_flags
@click.pass_context
def serve(context: click.Context, models: str | None, name: str | None, engine: str, **flags: Any) -> None:
    """Serve the models of a workspace or a SavedModel over TensorFlow Serving's API, until Ctrl-C.

    Every flag may be written with underscores, as TensorFlow Serving writes its own.
    """
    from graftline.serving import server
    from graftline.serving.versions import locate

    options = server_flags.to_options(context, flags)
    server_flags.refuse_path_and_config(models, options)
    found = locate.find_models(models, name) if models else []
    if engine == "tensorflow":
        from graftline.serving.tf_serving.engine import run_tensorflow_model_server

        run_tensorflow_model_server(found, options)
    _needs("tensorflow", "serve")
    server_flags.log_to_stderr("graftline: ")
    server.serve(found, options=options, ready=_announce)


def _announce(server: "ModelServer") -> None:
    names = ", ".join(
        f"{name} (version{'s' if len(versions) > 1 else ''} {', '.join(map(str, versions))})"
        for name, versions in server.served.items()
    )
    host = f"[{server.host}]" if ":" in server.host else server.host
    click.echo(
        f"graftline: serving {names}: REST http://{host}:{server.rest_port}/v1/models/{next(iter(server.served), '')}, "
        f"gRPC {host}:{server.grpc_port}; Ctrl-C ends it",
        err=True,
    )


@main.command()
@click.argument("images", metavar="IMAGE_OR_FOLDER...", nargs=-1, required=True)
@click.option("--model", metavar="DIR", help="A SavedModel, a base path of versions, or a workspace.")
@click.option("--server", metavar="HOST:GRPC_PORT|http://HOST:REST_PORT", help="A running model server.")
@click.option("--name", help="The model's name on the server or in the workspace.")
@_json
@click.option("--csv", "as_csv", is_flag=True, help="CSV: path, the best labels with their scores, error.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False), help="Write to FILE.")
def predict(
    images: Sequence[str],
    model: str | None,
    server: str | None,
    name: str | None,
    as_json: bool,
    as_csv: bool,
    output: str | None,
) -> int:
    """Classify images, with a model on disk or one that is served.

    A file that cannot be classified has an error in its place; when none can, the status is 2. The path - is one image
    from standard input.
    """
    if (model is None) == (server is None):
        raise click.UsageError("Give either --model DIR or --server HOST:GRPC_PORT.")
    if as_json and as_csv:
        raise click.UsageError("Give either --json or --csv.")
    from graftline.pipeline import predictions
    from graftline.serving.predict import find_images

    warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged EXIF and the like, which spoils no image
    rows = classify(images, model, server, name)
    kind = "json" if as_json else "csv" if as_csv else "text"
    with _output(output) as out, predictions.progress(rows, lambda: sum(1 for _ in find_images(images)), out) as parts:
        good, bad = predictions.write(parts[0], kind, *parts[1:])
    if bad:
        click.echo(f"graftline: {good:,} classified, {bad:,} not", err=True)
    return DONE if good else USAGE


@main.command()
@click.argument("images", metavar="IMAGES...", nargs=-1, required=True)
@click.option("--model", metavar="DIR", help="A SavedModel, a base path of versions, or a workspace.")
@click.option("--server", metavar="HOST:GRPC_PORT|http://HOST:REST_PORT", help="A running model server.")
@click.option("--name", help="The model's name on the server or in the workspace.")
@click.option("-o", "--output", metavar="PREFIX", required=True, help="Rows go to PREFIX-00000-of-0000N.csv.")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option("--shards", default=0, type=click.IntRange(0), help="How many files; 0 leaves it to the runner.")
@click.option("--beam", "beam_options", metavar="FLAG", multiple=True, help="Beam's, as --beam=--runner=FlinkRunner.")
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
    """Classify any number of images by Beam: files, folders and patterns as gs://bucket/photos/**.jpg.

    The rows are those of `predict`, in no order. When no image can be classified, the status is 2.
    """
    if (model is None) == (server is None):
        raise click.UsageError("Give either --model DIR or --server HOST:GRPC_PORT.")
    _needs("apache_beam", "pipeline")
    from graftline.pipeline import predictions

    predictions.refuse_unwritable(output)
    from graftline.pipeline import bulk as by_beam

    try:
        by = by_beam.chosen(model, server, name)
        good, bad = by_beam.run(images, by, output, form, shards, beam_options)
    except Exception as error:
        if mistake := _user_error(error):
            raise mistake from error
        raise
    click.echo(f"graftline: {good:,} images classified, {bad:,} not: {output}-*.{form}", err=True)
    return DONE if good else USAGE


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[str]]:
    """The file, or standard output."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    with contextlib.ExitStack() as closing:
        try:
            file = closing.enter_context(open(path, "w", encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            raise UserError(f"--output {path} cannot be written: {error.strerror}") from error
        yield file


def classify(
    images: Sequence[str], model: str | None = None, server: str | None = None, name: str | None = None
) -> "Iterator[Prediction]":
    """Classifies files and folders by the model at a path, or by a server; one row for each image, as they come.

    Raises:
      UserError: no such image, model or server; at once, but for what shows at the first prediction.
    """
    from graftline.serving import predict

    paths = predict.opened(predict.find_images(images))
    if server is not None:
        return predict.predict_with_server(server, name, paths)
    return predict.predict_with_model(str(model), paths, name)


def print_predictions(predictions: "Iterable[Prediction]", as_json: bool, err: bool = False) -> None:
    """One line for each image, or with `as_json` one JSON list of {path, label, score, top_k} and {path, error}."""
    from graftline.pipeline.predictions import write

    def out(text: str) -> None:
        click.echo(text, nl=False, err=err)

    write(predictions, "json" if as_json else "text", out, lambda line: click.echo(line, err=True))


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

    from graftline.pipeline import config, console

    _needs("tfx", "pipeline")
    loaded = config.load(config_file, overrides)
    with console.captured(pathlib.Path(os.devnull)) as screen:  # TFX's import says much and means nothing
        from graftline.pipeline import compile as compiling

        for warning in compiling.warnings(loaded):
            screen.write(f"graftline: note: {warning}\n")
        compiling.compile_pipeline(loaded, target, pathlib.Path(output))
    click.echo(f"graftline: {target} pipeline written to {output}", err=True)


@main.command()
@click.argument("models", metavar="WORKSPACE|BASE_PATH")
@click.option("--name", help="Which model, where there are several.")
@click.option("--to", type=click.IntRange(0), metavar="VERSION", help="Which version; default: the last good one.")
@_json
def rollback(models: str, name: str | None, to: int | None, as_json: bool) -> None:
    """Serve the last good version again, as the newest, and withdraw the one that is served now."""
    import json

    from graftline.pipeline import rollback as rolling_back

    done = rolling_back.run(models, name, to)
    click.echo(done.text, err=as_json)
    if as_json:
        click.echo(json.dumps(done.as_json()))


@main.command("config")
def config_command() -> None:
    """Print the full default config, every key commented."""
    from graftline.pipeline import config

    click.echo(config.defaults_as_yaml(), nl=False)
