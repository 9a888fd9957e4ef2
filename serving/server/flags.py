"""The command line of a model server: click options, and the ServerOptions made from them.

`graftline serve` and `python -m graftline.serving.server` share them. CONTEXT makes a command accept every flag with
dashes or underscores. TensorFlow Serving's names are accepted, so that its command lines run here.
"""

import logging
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import click

from graftline.errors import UserError
from graftline.serving.server.options import BatchingParameters, ServerOptions

CONTEXT: dict[str, Any] = {"token_normalize_func": lambda name: name.replace("_", "-")}

_Command = TypeVar("_Command", bound=Callable[..., Any])
_OPTIONS, _BATCHING = ServerOptions(), BatchingParameters()
_COUNT = click.IntRange(min=1)
_PORT = click.IntRange(0, 65535)
_NOT_NEGATIVE, _SECONDS = click.IntRange(min=0), click.FloatRange(min=0)
# A switch may have a value, as TensorFlow Serving's must: `--enable_batching`, `--enable_batching=false`.
_SWITCH: dict[str, Any] = {"type": bool, "is_flag": False, "flag_value": True}


class _Names(click.ParamType):
    name = "NAME,NAME,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = value if isinstance(value, tuple) else tuple(name.strip() for name in str(value).split(","))
        for each in names:
            if not each or "/" in each or (each.count(":") == 1):
                self.fail(f"{each!r} is not the name of a host: give names without scheme and port", param, ctx)
        return names


class _Sizes(click.ParamType):
    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 1,8,32", param, ctx)


def _flag(name: str, *others: str, **settings: Any) -> Callable[[_Command], _Command]:
    """Return an option for the first of the names that is a field, with the field's default."""
    names = (name, *others)
    source, field = next((source, each) for each in names for source in (_BATCHING, _OPTIONS) if hasattr(source, each))
    spellings = ["--" + each.replace("_", "-") for each in names]
    default = getattr(source, field)
    if isinstance(default, bool):
        settings |= _SWITCH
    return click.option(*spellings, field, default=default, **{"show_default": True, **settings})


_FLAGS = [
    _flag("rest_port", "rest_api_port", type=_PORT, help="REST port; 0 takes any free port."),
    _flag("grpc_port", "port", type=_PORT, help="gRPC port; 0 takes any free port."),
    _flag("host", help="Address to listen on; 0.0.0.0 for all addresses."),
    _flag(
        "allowed_hosts",
        type=_Names(),
        show_default="localhost and addresses",
        help="More names by which web pages may call the server; * for all.",
    ),
    _flag("ssl_config_file", metavar="FILE", help="TLS on both ports, by an SSLConfig text proto."),
    _flag("rest_api_timeout_in_ms", type=_NOT_NEGATIVE, help="Limit for requests without a deadline; 0: no limit."),
    _flag(
        "poll_seconds",
        "file_system_poll_wait_seconds",
        type=_SECONDS,
        help="Seconds between two looks for new versions; 0: only at the start.",
    ),
    _flag("model_config_file", metavar="FILE", help="Serve the models of a models.config, a ModelServerConfig."),
    _flag(
        "model_config_file_poll_wait_seconds",
        type=_SECONDS,
        show_default="as --poll-seconds",
        help="Seconds between two reads of that file; 0: only at the start.",
    ),
    _flag("version_policy", metavar="POLICY", help="latest, latest:2, all or specific:1,3."),
    _flag("enable_batching", help="Combine requests that come while the model is busy."),
    _flag("batching_parameters_file", metavar="FILE", help="A BatchingParameters text proto; flags override it."),
    _flag("max_batch_size", type=_COUNT, help="Largest number of rows in one run."),
    _flag("batch_timeout_micros", type=_NOT_NEGATIVE, help="How long a batch waits until it is full."),
    _flag("max_enqueued_batches", type=_COUNT, help="Batches that may wait; further requests are refused."),
    _flag(
        "num_batch_threads", type=_COUNT, show_default="the number of cores", help="Runs of models at the same time."
    ),
    _flag("allowed_batch_sizes", type=_Sizes(), help="Batches are padded to the next of these; none: any size."),
    _flag(
        "enable_large_batch_splitting",
        **_SWITCH,
        show_default="each is run by itself",
        help="Split requests of more rows than max_batch_size; false: refuse them.",
    ),
    _flag("enable_model_warmup", help="Replay a model's warm-up requests when it is loaded."),
    _flag("tensorflow_intra_op_parallelism", type=_NOT_NEGATIVE, help="Threads of one op; 0: automatic."),
    _flag("tensorflow_inter_op_parallelism", type=_NOT_NEGATIVE, help="Ops at the same time; 0: automatic."),
    _flag("enable_monitoring", "monitoring", help="Prometheus metrics on the REST port."),
    _flag("monitoring_path", metavar="PATH", help="Path of the metrics."),
    _flag("max_request_bytes", type=_COUNT, help="Largest size of a request."),
    _flag("max_image_pixels", type=_COUNT, help="Largest size of an image in a request."),
    _flag("max_request_pixels", type=_COUNT, help="Largest size of all images in a request."),
    _flag("max_in_flight", type=_COUNT, help="Requests that are answered or wait at the same time."),
    _flag(
        "max_bytes_in_flight",
        type=_COUNT,
        show_default="8 times max_request_bytes",
        help="Bytes of requests that arrive, wait or are answered at the same time.",
    ),
    _flag("allow_reload_from_anywhere", help="Take HandleReloadConfigRequest from other machines, too."),
    _flag("shutdown_grace_seconds", type=_SECONDS, help="Time from the signal to the end."),
]


def server_flags(command: _Command) -> _Command:
    """Add every flag to a click command, which passes its keywords to `to_options`."""
    for flag in reversed(_FLAGS):
        command = flag(command)
    return command


def to_options(context: click.Context, flags: dict[str, Any]) -> ServerOptions:
    """Return the options for the keywords of `server_flags`. Raises UserError when they contradict each other."""
    names = {each.name for each in fields(BatchingParameters)}
    batching = _BATCHING
    typed = {name: flags.pop(name) for name in names}
    if flags["batching_parameters_file"]:
        from graftline.serving.server import batching_file

        batching = batching_file.read(flags["batching_parameters_file"])
        from_command_line = click.core.ParameterSource.COMMANDLINE
        typed = {name: typed[name] for name in names if context.get_parameter_source(name) is from_command_line}
        if typed:  # tensorflow_model_server must not read a file that flags override
            flags["batching_parameters_file"] = None
    return ServerOptions(batching=replace(batching, **typed), **flags)


def log_to_stderr(prefix: str = "") -> None:
    """Log the server's events with their time, and the warnings of everything else, on standard error."""
    logging.basicConfig(format=f"{prefix}%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("graftline.serving").setLevel(logging.INFO)


def refuse_path_and_config(path: str | None, options: ServerOptions) -> None:
    """Raise UserError unless exactly one is given: a path to models, or a config that names them."""
    if (path is None) == (options.model_config_file is None):
        raise UserError("give either a path to models or --model-config-file FILE")
