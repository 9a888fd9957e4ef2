"""A click command that turns every failure into one message and an exit status; the command line and recipes use it.

Exit statuses: 0 done, or pushed; 3 the run ended, but the model was not blessed; 2 wrong usage, config or data;
130 Ctrl-C; 141 nobody reads standard output any more, as in `| head`; 1 any other error.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click

from graftline import full_disk, masking, proxies, streams
from graftline.errors import UserError, did_you_mean

DONE, UNEXPECTED, USAGE, NOT_BLESSED, INTERRUPTED = 0, 1, 2, 3, 130


class UnexpectedError(Exception):
    """An error that is not the user's mistake; the message names the log that holds its traceback."""


class Interrupted(Exception):  # noqa: N818 - Ctrl-C is no error
    """Ctrl-C in a command that has something to say about it."""


class Command(click.Command):
    """A click command whose failures are one message on standard error and an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run as `click.Command.main` does in standalone mode: end the process."""
        streams.prepare()
        _drop_python_settings()
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # users do not need the messages of TensorFlow's C++ side
        proxies.drop_settings_of_grpc(os.environ)
        if note := proxies.drop_unusable_key_log(os.environ):
            click.echo(f"graftline: note: {note}", err=True)
        kwargs["standalone_mode"] = False
        sys.exit(_exit_status(super().main, *args, **kwargs))


class Group(Command, click.Group):
    """A group of commands that suggests the nearest command for an unknown one."""

    command_class = click.Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as `click.Group.resolve_command` does; the error of an unknown command names the nearest one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            error.message = error.message.removesuffix(".") + (did_you_mean(args[0], self.list_commands(ctx)) or ".")
            raise


def _drop_python_settings() -> None:
    """Drop what the user's shell says to Python for other programs, for this process and its children.

    TFX cannot be imported without docstrings (PYTHONOPTIMIZE=2), nor when a warning is an error.
    """
    if os.environ.pop("PYTHONOPTIMIZE", None) and sys.flags.optimize:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if os.environ.pop("PYTHONWARNINGS", None):
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)  # Python's own defaults


def brief(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    text = str(error).strip().split("\n")[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _exit_status(command: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Run the command and write what is left in the buffers, where Python itself would print a traceback."""
    try:
        status = _status_of(command, *args, **kwargs)
        streams.finish()
        return status
    except streams.OutputError as error:
        return error.status if error.is_closed_pipe else _fail(error.status, str(error))


def _status_of(command: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    try:
        status = command(*args, **kwargs)
    except streams.OutputError:
        raise
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        command_path = error.ctx.command_path if error.ctx else "graftline"
        return _fail(USAGE, f"{error.format_message()} See `{command_path} --help`.")
    except (click.ClickException, UserError) as error:
        return _fail(USAGE, error.format_message() if isinstance(error, click.ClickException) else str(error))
    except (click.Abort, KeyboardInterrupt):
        return _fail(INTERRUPTED, "interrupted")
    except Interrupted as error:
        return _fail(INTERRUPTED, str(error))
    except UnexpectedError as error:
        return _fail(UNEXPECTED, str(error))
    except Exception as error:  # noqa: BLE001 - the last resort; outside a run there is no log
        if full := full_disk.explain(error, [os.getcwd()]):
            return _fail(UNEXPECTED, f"{full}; make room there, then run the same command again")
        click.echo(traceback.format_exc(), err=True)
        return _fail(UNEXPECTED, f"unexpected {brief(error)}")
    return status if isinstance(status, int) else DONE


def _fail(status: int, message: str) -> int:
    click.echo(f"graftline: {masking.mask(message)}", err=True)  # logs of jobs are read by others
    return status
