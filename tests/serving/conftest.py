"""Models for the tests of the servers, and a server in a process of its own."""

import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from graftline import signatures as names
from tests.saved_models import save_colour_model

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session")
def sharper_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another version of `colour_model`, surer of itself."""
    return save_colour_model(str(tmp_path_factory.mktemp("sharper") / "export"), bias=20.0)


def save_holding_model(path: str) -> str:
    """A model whose requests stay under way until a test lets them go, see `Held`; those of `forever` never end."""
    import tensorflow as tf

    class Holding(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([], tf.string, name="started"), tf.TensorSpec([], tf.string, name="release")]
        )
        def hold(self, started, release):
            # A pipe is opened by both ends or by none: the first tells the test, the second waits for it.
            tf.io.write_file(started, "started")
            tf.io.write_file(release, "released")
            return {"done": tf.constant(True)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def forever(self, x):
            queue = tf.raw_ops.FIFOQueueV2(component_types=[tf.float32])
            (never,) = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[tf.float32])
            return {"y": x + tf.ensure_shape(never, [])}

    module = Holding()
    tf.saved_model.save(module, path, signatures={names.SERVING_DEFAULT: module.hold, "forever": module.forever})
    return path


class Held:
    """A request to the model of `save_holding_model`, and the two ends of its pipes."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.started, self.release = str(folder / "started"), str(folder / "release")
        os.mkfifo(self.started)
        os.mkfifo(self.release)
        self.inputs = {"started": self.started, "release": self.release}

    def wait_until_started(self) -> None:
        """Blocks until the model is being run on this request."""
        assert pathlib.Path(self.started).read_text() == "started"

    def let_go(self) -> None:
        """Lets the run end."""
        assert pathlib.Path(self.release).read_text() == "released"


@pytest.fixture(scope="session")
def holding_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SavedModel whose requests stay under way until they are let go."""
    return save_holding_model(str(tmp_path_factory.mktemp("holding") / "export"))


@pytest.fixture
def held(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Held]:
    """Makes requests for `holding_model`."""
    return lambda: Held(tmp_path_factory.mktemp("held"))


class Child:
    """A model server in a process of its own, on free ports, from when it answers to the end of the `with`."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "graftline.serving.server", *arguments, "--rest-port=0", "--grpc-port=0"]
        self._said: list[str] = []
        self._announced = threading.Event()

    def __enter__(self) -> "Child":
        self.process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._announced.wait(60)
        line = next((line for line in self._said if line.startswith("serving ")), "")
        assert line, "".join(self._said)
        *_, rest, rpc = line.split()
        self.rest, self.grpc = rest.partition("=")[2], rpc.partition("=")[2]
        return self

    def _read(self) -> None:
        """All the while: libjpeg writes a line for each damaged JPEG, and would stop when the pipe is full."""
        assert self.process.stderr
        for line in self.process.stderr:
            self._said.append(line)
            if line.startswith("serving "):
                self._announced.set()
        self._announced.set()

    def end(self) -> str:
        """Waits for the process to end well; what it said on standard error."""
        status = self.process.wait(timeout=30)
        self._reader.join()
        said = "".join(self._said)
        assert status == 0, said
        return said

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
