"""How much does the server add to the model? `graftline serve` over gRPC beside bare calls of the same SavedModel.

    python -m benchmarks.serving [--workspace DIR] [--rounds 5] [--seconds 5] [--images DIR] [--weights FILE] [-- FLAG…]

The load comes from ghz, a public tool. The model is of a `graftline run` with an epoch in each phase, or the one in
`--workspace`; flags after `--` are the server's. The photos are sent as files, in turns. The bare calls, of
`tf.saved_model.load(DIR).signatures[…]`, have a process of their own, which waits while the server is asked; both are
measured by turns, `--rounds` times, so that a machine that is busy with something else is as busy for both. ghz works
on the same cores: half a millisecond of a core for each request counts against the server. Printed are medians of

- one image: the server's median latency with one client, over the bare call's (at most 1.3 is asked)
- throughput: 16 clients, over the best of bare calls with batches of 4 to 64 images (at least 0.9)
- load: p99 over p50 when requests come at an even 0.7 of that throughput, whether answered or not (at most 4)
- start: the first request of a server that was started just before, over the median of those that follow (at most 2)
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
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import commands
from graftline.components.image_example_gen import layouts

_CALL = "tensorflow.serving.PredictionService.Predict"
_BATCHES = (4, 8, 16, 32, 64)
_CLIENTS = 16
_LOAD = 0.7
_STARTS = 3


class Bare:
    """Calls the model in a process of its own, when told to."""

    def __init__(self, model: str, photos: list[pathlib.Path]) -> None:
        command = [sys.executable, "-m", "benchmarks.serving", "--bare", model]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask(photos=[str(photo) for photo in photos])

    def seconds(self, batch: int, seconds: float) -> list[float]:
        """Of each call with so many photos, for so long."""
        found: list[float] = self._ask(batch=batch, seconds=seconds)
        return found

    def _ask(self, **question: object) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("the process of the bare calls ended: what it said is above")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def bare(model: str) -> None:
    """Runs in that process: a line of JSON in, one out, until there are no more."""
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
            taken = [call(photos[:size]) for size in (1, *_BATCHES)]  # traced, and warm
        else:
            turns = itertools.cycle(photos)
            taken = []
            until = time.perf_counter() + question["seconds"]
            while time.perf_counter() < until:
                taken.append(call(list(itertools.islice(turns, question["batch"]))))
        print(json.dumps(taken), flush=True)


@contextlib.contextmanager
def served(workspace: pathlib.Path, flags: list[str]) -> Iterator[tuple[str, str]]:
    """A server of the workspace in a process of its own: its model's name and its gRPC address."""
    command = [sys.executable, "-m", "graftline.serving.server", str(workspace), "--rest-port", "0", "--grpc-port", "0"]
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    try:
        for line in process.stderr:
            said += line
            if match := re.match(r"serving (\S+) .*grpc=(\S+)", line):
                yield match[1], match[2]
                return
        raise SystemExit(f"the server did not start:\n{said}")
    finally:
        process.terminate()
        process.wait()


class Load:
    """ghz, and the requests that it sends by turns."""

    def __init__(self, folder: pathlib.Path, model: str, photos: list[pathlib.Path]) -> None:
        from google.protobuf import descriptor_pb2, json_format
        from tensorflow_serving.apis import prediction_service_pb2

        described = descriptor_pb2.FileDescriptorSet()
        seen: set[str] = set()

        def add(file: Any) -> None:
            if file.name not in seen:
                seen.add(file.name)
                for needed in file.dependencies:
                    add(needed)
                file.CopyToProto(described.file.add())

        add(prediction_service_pb2.DESCRIPTOR)
        (folder / "protoset").write_bytes(described.SerializeToString())
        # As JSON, which ghz reads once: binary data it takes for a template.
        sent = [request(model, photo) for photo in photos]
        messages = [json_format.MessageToDict(each, preserving_proto_field_name=True) for each in sent]
        (folder / "requests").write_text(json.dumps(messages))
        self._command = ["ghz", "--insecure", "--call", _CALL, "--protoset", str(folder / "protoset")]
        self._command += ["--data-file", str(folder / "requests"), "--format", "json"]

    def __call__(self, address: str, seconds: float, *options: object) -> "Answers":
        """Send requests for so long; one that fails otherwise than for want of a place ends the program."""
        command = [*self._command, "--duration", f"{seconds}s", "--duration-stop", "wait", *map(str, options), address]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"ghz failed: {(done.stdout + done.stderr)[-2000:]}")
        report = json.loads(done.stdout)
        statuses = report["statusCodeDistribution"]
        if set(statuses) - {"OK", "ResourceExhausted", "Unavailable"}:
            raise SystemExit(f"requests failed: {statuses} {report['errorDistribution']}")
        at = {entry["percentage"]: entry["latency"] / 1e9 for entry in report["latencyDistribution"]}
        return Answers(report["count"] - statuses["OK"], report["rps"], at[50], at[99])


@dataclass(frozen=True)
class Answers:
    """How many requests were refused, how many a second there were, and in how many seconds half and 99 % came back."""

    refused: int
    rate: float
    p50: float
    p99: float


def request(model: str, photo: pathlib.Path) -> Any:
    """A PredictRequest for one photo."""
    from tensorflow_serving.apis import predict_pb2

    made = predict_pb2.PredictRequest()
    made.model_spec.name = model
    tensor = made.inputs["image_bytes"]
    tensor.dtype = 7  # DT_STRING
    tensor.tensor_shape.dim.add().size = 1
    tensor.string_val.append(photo.read_bytes())
    return made


def first_and_rest(workspace: pathlib.Path, flags: list[str], photos: list[pathlib.Path]) -> tuple[float, float]:
    """Seconds of the first request that a new server gets, and the median of the fifty after it."""
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    with served(workspace, flags) as (model, address), grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result()
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        taken = []
        for number in range(51):
            message = request(model, photos[number % len(photos)])
            began = time.perf_counter()
            stub.Predict(message)
            taken.append(time.perf_counter() - began)
    return taken[0], statistics.median(taken[1:])


def show(what: str, ratios: list[float], asked: str, detail: str) -> None:
    """A line of the result."""
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"{what}: ratio {statistics.median(ratios):.2f} (asked {asked}); {detail}; each: {each}", flush=True)


def compare(workspace: pathlib.Path, photos: list[pathlib.Path], arguments: argparse.Namespace) -> None:
    """Measures all, and prints a line for each."""
    from graftline.serving.versions.locate import find_model

    flags, seconds = arguments.flags, arguments.seconds
    starts = [first_and_rest(workspace, flags, photos) for _ in range(_STARTS)]
    found = find_model(str(workspace))
    model = Bare(found.newest[1], photos)
    best = max(_BATCHES, key=lambda size: size / statistics.median(model.seconds(size, seconds)))
    one, throughput, load = [], [], []
    with (
        tempfile.TemporaryDirectory(prefix="graftline-benchmark-") as folder,
        served(workspace, flags) as (name, address),
    ):
        ghz = Load(pathlib.Path(folder), name, photos)
        ghz(address, seconds, "--concurrency", _CLIENTS)  # warm
        for _ in range(arguments.rounds):
            calls = model.seconds(1, seconds)
            one.append((ghz(address, seconds, "--concurrency", 1, "--connections", 1).p50, statistics.median(calls)))
            calls = model.seconds(best, seconds)
            all_at_once = ghz(address, seconds, "--concurrency", _CLIENTS, "--connections", _CLIENTS)
            throughput.append((all_at_once.rate, best / statistics.median(calls)))
            arrivals = round(_LOAD * all_at_once.rate)
            load.append(ghz(address, 2 * seconds, "--async", "--rps", arrivals, "--connections", _CLIENTS))
    model.close()

    def median(pairs: list[tuple[float, float]]) -> tuple[float, float]:
        ours, theirs = zip(*pairs, strict=True)
        return statistics.median(ours), statistics.median(theirs)

    ours, theirs = median(one)
    show("one image ", [a / b for a, b in one], "<= 1.30", f"p50 {ours * 1e3:.1f} ms, bare call {theirs * 1e3:.1f} ms")
    ours, theirs = median(throughput)
    detail = f"{ours:.0f} a second with {_CLIENTS} clients, bare calls of {best} images {theirs:.0f} a second"
    show("throughput", [a / b for a, b in throughput], ">= 0.90", detail)
    p99, p50 = median([(answers.p99, answers.p50) for answers in load])
    rate = statistics.median(answers.rate for answers in load)
    detail = f"p99 {p99 * 1e3:.1f} ms, p50 {p50 * 1e3:.1f} ms, {rate:.0f} requests a second"
    if refused := sum(answers.refused for answers in load):
        detail += f"; {refused} refused, for want of a place: something else kept the machine busy"
    show(f"load {_LOAD}  ", [answers.p99 / answers.p50 for answers in load], "<= 4.00", detail)
    ours, theirs = median(starts)
    detail = f"first request {ours * 1e3:.1f} ms, those after it {theirs * 1e3:.1f} ms"
    show("start     ", [a / b for a, b in starts], "<= 2.00", detail)


def main() -> None:
    """Trains a model if none is given, then compares."""
    parser = commands.parser(__doc__)
    parser.add_argument("--workspace", type=commands.existing, help="one that holds a model already")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", metavar="FLAG", help="of the server, after --")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if arguments.bare:
        bare(arguments.bare)
        return
    if shutil.which("ghz") is None:
        raise SystemExit(
            "ghz, which makes the load, is not on PATH: with Go, `go install github.com/bojand/ghz/cmd/ghz@latest` "
            "puts it into $(go env GOPATH)/bin"
        )
    photos = [arguments.images / path for path, *_ in layouts.scan(arguments.images).files]
    photos = photos[:: max(1, len(photos) // 64)][:64]  # of every class
    with tempfile.TemporaryDirectory(prefix="graftline-benchmark-") as name:
        workspace = arguments.workspace or pathlib.Path(name)
        if arguments.workspace is None:
            settings = {**commands.mobilenet(arguments.weights, arguments.alpha), **commands.exactly(1, 1)}
            commands.graftline(arguments.images, workspace, settings)
        compare(workspace, photos, arguments)


if __name__ == "__main__":
    main()
