"""What the commands do, as functions: run a pipeline, classify images, print a summary.

`pipeline.cli` and the recipes call these functions. Everything heavy is imported when it is used.
"""

import importlib.util
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from graftline import full_disk, masking
from graftline.errors import UserError, not_installed
from graftline.pipeline.command import Interrupted, UnexpectedError, brief
from graftline.workspace import Workspace

if TYPE_CHECKING:
    from graftline.components.image_example_gen import Layout
    from graftline.pipeline.config import Config
    from graftline.pipeline.run_summary import RunSummary
    from graftline.serving.client import Prediction


def require_package(package: str, extra: str) -> None:
    """Raise UserError if a package of an optional installation is missing."""
    if importlib.util.find_spec(package) is None:
        raise not_installed(package, extra)


def run_pipeline(config: "Config", reset_baseline: bool = False) -> "RunSummary":
    """Check the input, then run the pipeline.

    The progress goes to standard error, all other output of the process to a log file. With `reset_baseline` the gate
    compares with no served model, as in a first run.

    Raises:
      UserError: a mistake in the input.
      UnexpectedError: any other error; the message names the log that holds the traceback.
      Interrupted: Ctrl-C.
    """
    require_package("tfx", "pipeline")
    from graftline.pipeline import preflight

    layout = preflight.check(config)
    few = preflight.warn_of_few_judged(config, layout)
    for warning in (*layout.warnings, *preflight.warnings(config, layout.classes), *few):
        click.echo(f"graftline: note: {warning}", err=True)
    try:
        with preflight.lock(config.workspace):
            config = _settle_name(config, layout.classes, reset_baseline)
            return _run_locked(config, layout, reset_baseline)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command continues where this run stopped") from None


def _run_locked(config: "Config", layout: "Layout", reset_baseline: bool) -> "RunSummary":
    """Run the pipeline in a workspace that is locked; raise as `run_pipeline`."""
    from graftline.components.image_example_gen import fingerprint_images
    from graftline.pipeline import console

    log_file = console.new_log_file(config.workspace)
    click.echo(
        f"{len(layout.files):,} files in {len(layout.classes)} classes of {layout.root}; log: {log_file}", err=True
    )
    secrets = masking.secret_values(config.beam.options)
    with console.captured(log_file, secrets) as screen, console.Progress(screen) as progress:
        try:
            fingerprint = fingerprint_images(layout)
            from graftline.pipeline import local_runner

            return local_runner.run(config, fingerprint, progress, reset_baseline)
        except Exception as error:
            traceback.print_exc()  # into the log: sys.stderr is the log here
            if user_error := find_user_error(error):
                raise user_error from error
            if full := full_disk.explain(error, [config.workspace, config.push.path or config.workspace]):
                raise UnexpectedError(f"{full}. {_room(config.workspace)}; the traceback is in {log_file}") from error
            raise UnexpectedError(f"unexpected {brief(error)}; the traceback is in {log_file}") from error


def _room(workspace: str) -> str:
    """Return what can go, and how to continue; for a user whose disk is full."""
    from graftline.pipeline import housekeeping

    cache = Workspace(workspace).cache
    can_go = f"{cache} may be deleted ({housekeeping.size_text(cache)})"
    return (
        f"{can_go}, and housekeeping.keep_runs=1 keeps only the latest run's outputs. TMPDIR names another temporary "
        "folder. Nothing that was pushed is lost: make room, then run the same command again"
    )


def _settle_name(config: "Config", classes: Sequence[str], reset_baseline: bool) -> "Config":
    """Return the config with the model's name in its workspace; UserError if another model is served by that name."""
    from graftline import folder_name
    from graftline.pipeline import names, preflight

    workspace, images = Workspace(config.workspace), config.image_folders[0]
    name = config.model.name or names.settle(workspace, images)
    settled = config.model_copy(update={"model": config.model.model_copy(update={"name": name})})
    note = "" if reset_baseline else preflight.check_served_classes(settled, classes)
    if config.model.name is None and names.claim(workspace, name, images) and name != folder_name.of(images):
        click.echo(f"graftline: note: the model is called {name}; model.name gives it another name", err=True)
    if note:
        click.echo(f"graftline: note: {note}", err=True)
    return settled


def find_user_error(error: BaseException | None) -> UserError | None:
    """Return the UserError that caused an error, without the stage that Beam adds to its message; None without one."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error and UserError(re.sub(r" \[while running '.*'\]", "", str(error)))


def print_summary(summary: "RunSummary", config: "Config", as_json: bool) -> None:
    """Print a run's summary; with `as_json` the summary on standard error and its JSON on standard output."""
    from graftline.pipeline import console

    click.echo(f"\n{console.summary(summary, config.workspace)}", err=as_json)
    if as_json:
        from graftline.jsonable import to_json

        click.echo(to_json(summary.as_json()))


def classify(
    images: Sequence[str], model: str | None = None, server: str | None = None, name: str | None = None
) -> "Iterator[Prediction]":
    """Classify files and folders by the model at a path, or by a server; yield each prediction as soon as it is known.

    Raises:
      UserError: an image, model or server does not exist. Raised at once, except for errors of the first prediction.
    """
    from graftline.serving import predict

    paths = predict.load_standard_input(predict.find_images(images))
    if server is not None:
        return predict.predict_with_server(server, name, paths)
    return predict.predict_with_model(str(model), paths, name)


def print_predictions(predictions: "Iterable[Prediction]", err: bool = False) -> None:
    """Print one line for each image on standard output, or with `err` on standard error; failures on standard error."""
    from graftline.pipeline.predictions import write

    write(
        predictions, "text", lambda text: click.echo(text, nl=False, err=err), lambda line: click.echo(line, err=True)
    )
