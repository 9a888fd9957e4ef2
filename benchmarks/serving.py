"""How much time does the server add? Compare `graftline serve` over gRPC with bare calls of the same SavedModel.

    python -m benchmarks.serving [--workspace DIR] [--rounds 5] [--seconds 5] [--images DIR] [--weights FILE] [-- FLAG…]

ghz, a public tool, makes the load. The model comes from a `graftline run` with an epoch in each phase, or from
`--workspace`. Flags after `--` are flags of the server. The photos are sent as files, in turn. The bare calls, of
`tf.saved_model.load(DIR).signatures[…]`, run in their own process, which waits while the server is measured. Both are
measured in turn, `--rounds` times, so that other work on the machine slows both alike. ghz runs on the same cores: half
a millisecond of a core for each request counts against the server. The program prints medians of

- one image: the server's median latency with one client, divided by the bare call's (at most 1.3 is required)
- throughput: that of 16 clients, divided by the best of bare calls with batches of 4 to 64 images (at least 0.9)
- load: p99 divided by p50 when requests arrive evenly, at 0.7 of that throughput (at most 4)
- start: the first request to a new server, divided by the median of the requests after it (at most 2)
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from benchmarks import commands
from graftline.components.image_example_gen.scan import scan
from graftline.serving.client import tensors, wire_pb2

_CALL = "tensorflow.serving.PredictionService.Predict"
_PROTOS = os.path.dirname(wire_pb2.__file__)
_BATCHES = (4, 8, 16, 32, 64)
_CLIENTS = 16
_LOAD = 0.7
_STARTS = 3


class Bare:
    """Calls the model in its own process, on request."""

    def __init__(self, model: str, photos: list[pathlib.Path]) -> None:
        command = [sys.executable, "-m", "benchmarks.serving", "--bare", model]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask(photos=[str(photo) for photo in photos])

    def median(self, batch: int, seconds: float) -> float:
        """Call with batches of photos for so many seconds; return the median seconds of a call."""
        return statistics.median(self._ask(batch=batch, seconds=seconds))

    def _ask(self, **question: object) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("the process of the bare calls ended: its messages are above")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def bare(model: str) -> None:
    """Answer each line of JSON on standard input with one line; this runs in the process of `Bare`."""
    import itertools

    import tensorflow as tf

    function = tf.saved_model.load(model).signatures["serving_default"]
    photos: list[bytes] = []

    def call(images: list[bytes]) -> float:
        began = time.perf_counter()
        for tensor in function(image_bytes=tf.constant(images)).values():
            tensor.numpy()
        return time.perf_counter() - began

    for line in sys.stdin:
        question = json.loads(line)
        if "photos" in question:
            photos = [pathlib.Path(path).read_bytes() for path in question["photos"]]
            taken = [call(photos[:size]) for size in (1, *_BATCHES)]  # traces the graphs, and warms them up
        else:
            turns = itertools.cycle(photos)
            taken = []
            until = time.perf_counter() + question["seconds"]
            while time.perf_counter() < until:
                taken.append(call(list(itertools.islice(turns, question["batch"]))))
        print(json.dumps(taken), flush=True)


@contextlib.contextmanager
def served(workspace: pathlib.Path, flags: list[str]) -> Iterator[tuple[str, str]]:
    """Serve the workspace in a new process; yield the model's name and the gRPC address."""
    command = [sys.executable, "-m", "graftline.serving.server", str(workspace), "--rest-port", "0", "--grpc-port", "0"]
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    messages = ""
    try:
        for line in process.stderr:
            messages += line
            if match := re.match(r"serving (\S+) .*grpc=(\S+)", line):
                yield match[1], match[2]
                return
        raise SystemExit(f"the server did not start:\n{messages}")
    finally:
        process.terminate()
        process.wait()


class Load:
    """ghz, and the requests that it sends in turn."""

    def __init__(self, folder: pathlib.Path, model: str, photos: list[pathlib.Path]) -> None:
        # As JSON: ghz reads JSON once, and treats binary data as a template.
        (folder / "requests").write_text(
            json.dumps([json_format.MessageToDict(request(model, each)) for each in photos])
        )
        self._command = ["ghz", "--insecure", "--call", _CALL, "--data-file", str(folder / "requests")]
        self._command += ["--proto", f"{_PROTOS}/service.proto", "--import-paths", _PROTOS, "--format", "json"]

    def __call__(self, address: str, seconds: float, *options: object) -> "Answers":
        """Send requests for so long. A refused request counts; a request that fails otherwise ends the program."""
        command = [*self._command, "--duration", f"{seconds}s", "--duration-stop", "wait", *map(str, options), address]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"ghz failed: {(done.stdout + done.stderr)[-2000:]}")
        report = json.loads(done.stdout)
        statuses = report["statusCodeDistribution"]
        if set(statuses) - {"OK", "ResourceExhausted", "Unavailable"}:
            raise SystemExit(f"requests failed: {statuses} {report['errorDistribution']}")
        at = {entry["percentage"]: entry["latency"] / 1e6 for entry in report["latencyDistribution"]}
        return Answers(report["count"] - statuses["OK"], report["rps"], at[50], at[99])


@dataclass(frozen=True)
class Answers:
    """How many requests were refused, how many were sent a second, and percentiles of their milliseconds."""

    refused: int
    rate: float
    p50: float
    p99: float


def request(model: str, photo: pathlib.Path) -> wire_pb2.PredictRequest:
    """Return a PredictRequest for one photo."""
    image = tensors.to_proto(tensors.as_array([photo.read_bytes()]))
    return wire_pb2.PredictRequest(model_spec=wire_pb2.ModelSpec(name=model), inputs={"image_bytes": image})


def first_and_rest(workspace: pathlib.Path, flags: list[str], photos: list[pathlib.Path]) -> tuple[float, float]:
    """Return the milliseconds of the first request to a new server, and the median of the fifty after it."""
    import grpc

    with served(workspace, flags) as (model, address), grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result()
        predict = channel.unary_unary("/{}/{}".format(*_CALL.rsplit(".", 1)))
        taken = []
        for number in range(51):
            message = request(model, photos[number % len(photos)]).SerializeToString()
            began = time.perf_counter()
            predict(message)
            taken.append(1e3 * (time.perf_counter() - began))
    return taken[0], statistics.median(taken[1:])


def show(what: str, pairs: list[tuple[float, float]], required: str, detail: str) -> None:
    """Print a line of the result; `detail` is a format of the medians of both parts of the pairs."""
    ratios = [one / other for one, other in pairs]
    detail = detail.format(*map(statistics.median, zip(*pairs, strict=True)))
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"{what}: ratio {statistics.median(ratios):.2f} (required {required}); {detail}; each: {each}")


def compare(workspace: pathlib.Path, photos: list[pathlib.Path], arguments: argparse.Namespace) -> None:
    """Measure everything, and print a line for each measurement."""
    from graftline.serving.versions.locate import find_model

    flags, seconds = arguments.flags, arguments.seconds
    starts = [first_and_rest(workspace, flags, photos) for _ in range(_STARTS)]
    model = Bare(find_model(str(workspace)).newest[1], photos)
    best = max(_BATCHES, key=lambda size: size / model.median(size, seconds))
    one, throughput, load = [], [], []
    with commands.temporary_folder() as folder, served(workspace, flags) as (name, address):
        ghz = Load(folder, name, photos)
        ghz(address, seconds, "--concurrency", _CLIENTS)  # warm
        for _ in range(arguments.rounds):
            call = 1e3 * model.median(1, seconds)
            one.append((ghz(address, seconds, "--concurrency", 1, "--connections", 1).p50, call))
            bare_rate = best / model.median(best, seconds)
            all_at_once = ghz(address, seconds, "--concurrency", _CLIENTS, "--connections", _CLIENTS)
            throughput.append((all_at_once.rate, bare_rate))
            arrivals = round(_LOAD * all_at_once.rate)
            load.append(ghz(address, 2 * seconds, "--async", "--rps", arrivals, "--connections", _CLIENTS))
    model.close()

    show("one image ", one, "<= 1.30", "p50 {:.1f} ms, bare call {:.1f} ms")
    detail = f"{{:.0f}} a second with {_CLIENTS} clients, bare calls of {best} images {{:.0f}} a second"
    show("throughput", throughput, ">= 0.90", detail)
    rate = statistics.median(answers.rate for answers in load)
    detail = f"p99 {{:.1f}} ms, p50 {{:.1f}} ms, {rate:.0f} requests a second"
    if refused := sum(answers.refused for answers in load):
        detail += f"; {refused} refused because the server was full: other work kept the machine busy"
    show(f"load {_LOAD}  ", [(answers.p99, answers.p50) for answers in load], "<= 4.00", detail)
    show("start     ", starts, "<= 2.00", "first request {:.1f} ms, later ones {:.1f} ms")


def main() -> None:
    """Train a model if none is given, then compare."""
    parser = commands.parser(__doc__)
    parser.add_argument("--workspace", type=commands.existing, help="a workspace that holds a model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="of the server, after --")
    arguments = parser.parse_args()
    if arguments.bare:
        bare(arguments.bare)
        return
    if shutil.which("ghz") is None:
        raise SystemExit(
            "ghz makes the load, and is not on PATH: with Go, `go install github.com/bojand/ghz/cmd/ghz@latest` "
            "puts it into $(go env GOPATH)/bin"
        )
    photos = [arguments.images / path for path, *_ in scan(arguments.images).files]
    photos = photos[:: max(1, len(photos) // 64)][:64]  # of every class
    with commands.temporary_folder() as folder:
        if arguments.workspace is None:
            commands.graftline(arguments.images, folder, commands.settings(arguments.weights, arguments.alpha, 1, 1))
        compare(arguments.workspace or folder, photos, arguments)


if __name__ == "__main__":
    main()
