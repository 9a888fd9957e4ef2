"""Two real SavedModels, small enough to build in a second, and one running server that most tests ask."""

import os
import pathlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from graftline import signatures as names
from graftline.serving.server import ModelServer
from graftline.serving.versions import locate

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

LABELS = ("blue", "green", "red")


def save_colour_model(path: str, bias: float = 0.0) -> str:
    """A classifier with Graftline's signatures that tells red, green and blue images apart.

    `bias` sharpens its probabilities, so that two versions of it can be told apart.
    """
    import tensorflow as tf

    class Colours(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sharpness = tf.Variable(5.0 + bias)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=names.IMAGE_BYTES)])
        def serving_default(self, image_bytes):
            def mean_colour(one):
                pixels = tf.io.decode_image(one, channels=3, expand_animations=False)
                pixels.set_shape([None, None, 3])
                return tf.reduce_mean(tf.cast(pixels, tf.float32) / 255.0, axis=[0, 1])

            means = tf.map_fn(mean_colour, image_bytes, fn_output_signature=tf.TensorSpec([3], tf.float32))
            probabilities = tf.nn.softmax(self.sharpness * tf.reverse(means, axis=[-1]))
            scores, order = tf.math.top_k(probabilities, k=3)
            labels = tf.gather(tf.constant(LABELS), order)
            return {
                names.PROBABILITIES: probabilities,
                names.LABEL: labels[:, 0],
                names.SCORE: scores[:, 0],
                names.TOP_K_LABELS: labels,
                names.TOP_K_SCORES: scores,
            }

    module = Colours()
    tf.saved_model.save(module, path, signatures={names.SERVING_DEFAULT: module.serving_default})
    return path


def save_float_model(path: str) -> str:
    """A model of another origin: one float vector in, half of it plus two out, and signatures for other types."""
    import tensorflow as tf

    class Numbers(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def half_plus_two(self, x):
            return {"y": x / 2.0 + 2.0}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.int64, name="number"),
                tf.TensorSpec([None], tf.bool, name="flag"),
                tf.TensorSpec([None], tf.string, name="text"),
            ]
        )
        def mixed(self, number, flag, text):
            return {"number": number + 1, "flag": tf.logical_not(flag), "text": text, "text_bytes": text}

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
        def scalar(self, x):
            return {"y": x + 0.2}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.uint8, name="u8"),
                tf.TensorSpec([None], tf.float16, name="half"),
                tf.TensorSpec([None], tf.float64, name="double"),
            ]
        )
        def narrow(self, u8, half, double):
            return {"u8": u8, "half": half, "double": double, "int32": tf.cast(u8, tf.int32)}

    module = Numbers()
    tf.saved_model.save(
        module,
        path,
        signatures={
            names.SERVING_DEFAULT: module.half_plus_two,
            "mixed": module.mixed,
            "scalar": module.scalar,
            "narrow": module.narrow,
        },
    )
    return path


@pytest.fixture(scope="session")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SavedModel with Graftline's signatures."""
    return save_colour_model(str(tmp_path_factory.mktemp("colours") / "export"))


@pytest.fixture(scope="session")
def sharper_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another version of `colour_model`, surer of itself."""
    return save_colour_model(str(tmp_path_factory.mktemp("sharper") / "export"), bias=20.0)


@pytest.fixture(scope="session")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SavedModel that Graftline did not make."""
    return save_float_model(str(tmp_path_factory.mktemp("numbers") / "export"))


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, colour_model: str, float_model: str) -> pathlib.Path:
    """A workspace with two models: version 3 of colours, version 1 of numbers. Not to be changed by a test."""
    root = tmp_path_factory.mktemp("workspace")
    shutil.copytree(colour_model, root / "models/colours/3")
    shutil.copytree(float_model, root / "models/numbers/1")
    return root


@pytest.fixture(scope="session")
def server(workspace: pathlib.Path) -> Iterator[ModelServer]:
    """A server of the workspace, in this process, on free ports."""
    with ModelServer(locate.find_models(str(workspace)), rest_port=0, grpc_port=0) as running:
        yield running


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
