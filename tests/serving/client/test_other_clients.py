"""A model that Graftline exported, called by other clients, and by ours in an environment of its own.

The picture is written in all eight EXIF orientations. All of them, sent as a camera writes them, get one answer.
"""

import base64
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import grpc
import keras
import numpy as np
import pytest
import requests
import tensorflow as tf
import tensorflow_transform as tft
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from graftline.serving.client import Client
from graftline.serving.server import ModelServer
from graftline.serving.versions.locate import Model
from tests import images
from tests.conftest import Transformed
from tests.images import CLASSES

ROOT = pathlib.Path(__file__).parents[3]
_CLOSE = 1e-3


@pytest.fixture(scope="module")
def served(
    transformed: Transformed, float_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelServer]:
    """A server of a tiny model that sees where on a picture its colours are, exported as the Trainer exports.

    Beside it one of another origin.
    """
    from graftline.trainer import export

    keras.utils.set_random_seed(0)
    pixels = keras.Input([32, 32, 3])
    pooled = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(len(CLASSES), activation="softmax")(pooled))
    directory = str(tmp_path_factory.mktemp("exported") / "drawn" / "1")
    export.export(model, pooled, tft.TFTransformOutput(transformed.directory), directory)
    models = [Model("drawn", None, {1: directory}), Model("numbers", None, {1: float_model})]
    with ModelServer(models, rest_port=0, grpc_port=0) as server:
        yield server


def _picture() -> Image.Image:
    """A picture with another colour in each corner, and without detail that JPEG changes."""
    return images.draw_noise(3, (4, 3)).resize((64, 48), Image.Resampling.BICUBIC)


def _written(orientation: int, tell: bool = True) -> bytes:
    turned = images.turn_as_stored(_picture(), orientation)
    return images.encode(turned, orientation=orientation if tell else None)


ALL = [_written(orientation) for orientation in images.TURNS_OF_CAMERAS]


def _by_requests(server: ModelServer, files: list[bytes]) -> np.ndarray:
    body = {"instances": [{"b64": base64.b64encode(file).decode()} for file in files]}
    url = f"http://127.0.0.1:{server.rest_port}/v1/models/drawn:predict"
    answer = requests.post(url, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return np.array([row["probabilities"] for row in answer.json()["predictions"]])


def _by_stubs(server: ModelServer, files: list[bytes]) -> np.ndarray:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "drawn"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(files))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
    return tf.make_ndarray(answer.outputs["probabilities"])


@pytest.mark.parametrize("ask", [_by_requests, _by_stubs])
def test_all_eight_orientations_get_the_answer_of_the_upright_picture(served: ModelServer, ask) -> None:
    answers = ask(served, ALL)
    assert answers.shape == (8, len(CLASSES))
    np.testing.assert_allclose(answers, np.tile(answers[:1], (8, 1)), atol=_CLOSE)


def test_a_picture_that_is_not_turned_back_gets_another_answer(served: ModelServer) -> None:
    """Otherwise the test above would prove nothing."""
    answers = _by_requests(served, [_written(orientation, tell=False) for orientation in images.TURNS_OF_CAMERAS])
    assert all(np.abs(answers[1:] - answers[0]).max(axis=1) > 10 * _CLOSE)


def test_our_client_says_what_the_others_say(served: ModelServer) -> None:
    best = _by_stubs(served, ALL).max(axis=1)
    for address in (f"127.0.0.1:{served.grpc_port}", f"http://127.0.0.1:{served.rest_port}"):
        with Client(address, "drawn") as client:
            assert [row.score for row in client.classify(ALL)] == pytest.approx(best.tolist(), abs=1e-6)


def test_a_turned_png_and_a_tiff_get_the_answer_of_the_upright_picture(served: ModelServer) -> None:
    stored = _picture().transpose(Image.Transpose.ROTATE_90)
    files = [images.encode(stored, "PNG", 6), images.encode(stored, "TIFF", 6)]
    files.append(images.encode(stored, "WEBP", 6, lossless=True))
    with Client(f"127.0.0.1:{served.grpc_port}", "drawn") as client:
        *turned, expected = client.classify([*files, images.encode(_picture(), "PNG")])
    assert [row.score for row in turned] == pytest.approx([expected.score] * 3, abs=_CLOSE)


# In environments of their own


def _environment(folder: pathlib.Path, python: str, *packages: str) -> str:
    """Create a virtual environment with these packages alone, and return its Python."""
    uv = shutil.which("uv", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    for command in (
        [uv, "venv", "-q", "--python", python, str(folder)],
        [uv, "pip", "install", "-q", "--python", str(folder / "bin" / "python"), *packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{' '.join(packages)} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return str(folder / "bin" / "python")


# Its `predict_request` takes strings for text, so images need its own messages.
_MIN_TFS = """
import json, sys
import numpy as np
from min_tfs_client.requests import TensorServingClient
from min_tfs_client.tensors import tensor_proto_to_ndarray
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

client = TensorServingClient(host="127.0.0.1", port=int(sys.argv[1]))
halves = client.predict_request("numbers", {"x": np.array([[1, 2]], np.float32)}, model_version=1)
request = PredictRequest()
request.model_spec.name = "drawn"
tensor = request.inputs["image_bytes"]
tensor.dtype = 7
tensor.tensor_shape.dim.add(size=len(sys.argv) - 2)
tensor.string_val.extend(open(path, "rb").read() for path in sys.argv[2:])
answer = PredictionServiceStub(client._channel).Predict(request, 60)
outputs = [halves.outputs["y"], answer.outputs["probabilities"], answer.outputs["label"]]
print(json.dumps([tensor_proto_to_ndarray(one).tolist() for one in outputs]))
"""


@pytest.mark.slow
def test_min_tfs_client_gets_the_same_answers(served: ModelServer, tmp_path: pathlib.Path) -> None:
    # It installs its own `tensorflow` package, of messages made for protobuf 3.20.
    python = _environment(tmp_path / "venv", sys.executable, "min-tfs-client", "protobuf<3.21", "numpy<2")
    paths = [str(tmp_path / f"{number}.jpg") for number in range(8)]
    for path, data in zip(paths, ALL, strict=True):
        pathlib.Path(path).write_bytes(data)
    command = [python, "-c", _MIN_TFS, str(served.grpc_port), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    halves, probabilities, labels = json.loads(done.stdout)
    assert halves == [[2.5, 3.0]]
    expected = _by_stubs(served, ALL)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert labels == [CLASSES[best] for best in expected.argmax(axis=1)]


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The `bin` of an environment with `pip install graftline` from a copy of the sources."""
    root = tmp_path_factory.mktemp("light")
    shutil.copytree(ROOT / "graftline", root / "source" / "graftline", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, root / "source")
    return pathlib.Path(_environment(root / "venv", sys.executable, str(root / "source"))).parent


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_light_installation_classifies(
    served: ModelServer, light: pathlib.Path, tmp_path: pathlib.Path, protocol: str
) -> None:
    (tmp_path / "turned.jpg").write_bytes(ALL[5])
    target = f"127.0.0.1:{served.grpc_port}" if protocol == "grpc" else f"http://127.0.0.1:{served.rest_port}"
    command = [light / "graftline", "predict", "--server", target, "--name", "drawn", "turned.jpg", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = json.loads(done.stdout)
    assert row["score"] == pytest.approx(_by_stubs(served, ALL[:1]).max(), abs=_CLOSE)


@pytest.mark.slow
def test_the_light_installation_is_light(light: pathlib.Path) -> None:
    packages = next(light.parent.glob("lib/*/site-packages"))
    names = {path.name for path in packages.iterdir()}
    assert not {"tensorflow", "tensorflow_serving", "tfx", "apache_beam", "keras", "scipy", "pandas"} & names
    assert sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) < 200 << 20
    for command, missing in (("serve", "'.[serve]'"), ("bulk", "-c constraints.txt '.[pipeline]'")):
        (model := packages.parent / command / "1").mkdir(parents=True)
        (model / "saved_model.pb").touch()
        arguments = ["--rest-port", "0", "--grpc-port", "0"] if command == "serve" else ["--model", "x", "-o", "y"]
        done = subprocess.run(
            [light / "graftline", command, model.parent, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert missing in done.stderr
