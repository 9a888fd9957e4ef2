"""Files are classified by a server and in this process, with the same answers."""

import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from graftline.errors import UserError
from graftline.serving import predict
from graftline.serving.client import Prediction, classifying
from graftline.serving.images import formats
from graftline.serving.predict import find_images, predict_with_model, predict_with_server
from graftline.serving.server import ModelServer
from graftline.serving.versions import locate
from tests.images import image_of

Predict = Callable[..., list[Prediction]]


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder of three images and clutter."""
    folder = tmp_path / "photos"
    (folder / "deep/__MACOSX").mkdir(parents=True)
    (folder / "b red.png").write_bytes(image_of("red"))
    (folder / "a.JPG").write_bytes(image_of("blue", fmt="JPEG"))
    (folder / "deep/no-suffix").write_bytes(image_of("green", fmt="GIF"))
    for junk in (".DS_Store", "Thumbs.db", "._a.JPG", "notes.txt", "deep/__MACOSX/a.jpg"):
        (folder / junk).write_bytes(b"junk")
    os.mkfifo(folder / "pipe.jpg")
    return folder


@pytest.fixture(params=["grpc", "rest", "model"])
def ask(request: pytest.FixtureRequest, server: ModelServer, workspace: pathlib.Path) -> Predict:
    """Every way to predict, by the same model."""
    if request.param == "model":
        return lambda paths: list(predict_with_model(str(workspace), paths, name="colours"))
    target = f"127.0.0.1:{server.grpc_port}" if request.param == "grpc" else f"http://127.0.0.1:{server.rest_port}"
    return lambda paths: list(predict_with_server(target, "colours", paths))


# Which files


def test_a_folder_means_its_images_at_any_depth_sorted_without_junk(photos: pathlib.Path) -> None:
    found = [os.path.relpath(path, photos) for path in find_images([str(photos)])]
    assert found == ["a.JPG", "b red.png", "deep/no-suffix"]


def test_the_order_is_that_of_all_paths_sorted(tmp_path: pathlib.Path) -> None:
    for path in ("a/z.png", "a.b/x.png", "a.png", "a-b/c.png", "a/b/c.png", "b.png", "a b.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    found = list(find_images([str(tmp_path)]))
    assert found == sorted(str(path) for path in tmp_path.rglob("*.png"))
    assert len(found) == 7


@pytest.mark.parametrize("suffix", [*formats.SUFFIXES, ".AVIF"])
def test_every_format_is_found_by_its_name(tmp_path: pathlib.Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"whatever")
    assert list(find_images([str(tmp_path)])) == [str(tmp_path / f"a{suffix}")]


@pytest.mark.parametrize("fmt", ["AVIF", "WEBP", "TIFF", "PNG"])
def test_every_format_is_found_by_its_first_bytes(tmp_path: pathlib.Path, fmt: str) -> None:
    (tmp_path / "photo").write_bytes(image_of("red", fmt=fmt))
    assert list(find_images([str(tmp_path)])) == [str(tmp_path / "photo")]


def test_a_file_named_outright_is_taken_as_it_is(photos: pathlib.Path) -> None:
    assert list(find_images([str(photos / "notes.txt")])) == [str(photos / "notes.txt")]


def test_the_order_of_the_arguments_is_kept(photos: pathlib.Path) -> None:
    paths = [str(photos / "b red.png"), str(photos / "a.JPG")]
    assert list(find_images(paths)) == paths


def test_an_image_that_cannot_be_opened_is_not_passed_over(photos: pathlib.Path) -> None:
    (photos / "z.jpg").symlink_to(photos / "gone")
    assert list(find_images([str(photos)]))[-1] == str(photos / "z.jpg")


def test_links_to_folders_are_not_followed(photos: pathlib.Path) -> None:
    (photos / "deep/loop").symlink_to(photos)
    assert len(list(find_images([str(photos)]))) == 3


def test_a_folder_without_images_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError) as caught:
        find_images([str(tmp_path)])
    assert str(caught.value) == f"no images in {tmp_path}: no file in it has an image's name or begins like an image"


def test_a_path_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"no such file or folder: .*/gone\.jpg; name an image or a folder of images"):
        find_images([str(tmp_path / "gone.jpg")])


def test_one_that_is_not_there_does_not_stop_the_others(ask: Predict, photos: pathlib.Path) -> None:
    (photos / "empty").mkdir()
    names = ("gone.jpg", "a.JPG", "empty", "pipe.jpg", "b red.png")
    rows = ask(find_images([str(photos / name) for name in names]))
    assert [(os.path.basename(row.path), row.label, row.error) for row in rows] == [
        ("gone.jpg", None, "no such file or folder"),
        ("a.JPG", "blue", None),
        ("empty", None, "no file in it has an image's name or begins like an image"),
        ("pipe.jpg", None, "neither a file nor a folder"),
        ("b red.png", "red", None),
    ]


def test_paths_that_are_all_missing_stop_it(photos: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"no such file or folder: .*/gone\.jpg"):
        find_images([str(photos / "gone.jpg"), str(photos / "pipe.jpg")])


def test_a_pipe_is_no_image(photos: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"pipe\.jpg is neither a file nor a folder"):
        find_images([str(photos / "pipe.jpg")])


# Rows


def test_every_file_gets_its_row_in_order(ask: Predict, photos: pathlib.Path) -> None:
    rows = ask(find_images([str(photos)]))
    assert [row.label for row in rows] == ["blue", "red", "green"]
    assert [os.path.basename(row.path) for row in rows] == ["a.JPG", "b red.png", "no-suffix"]


def test_server_and_model_say_the_same(server: ModelServer, workspace: pathlib.Path, photos: pathlib.Path) -> None:
    paths = list(find_images([str(photos)]))
    by_model = list(predict_with_model(str(workspace), paths, name="colours"))
    for target in (f"127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.rest_port}"):
        by_server = list(predict_with_server(target, "colours", paths))
        assert [row.top_k for row in by_server] == [
            [(label, pytest.approx(score, abs=1e-6)) for label, score in row.top_k] for row in by_model
        ]


def test_a_bad_image_fails_its_own_row_only(ask: Predict, photos: pathlib.Path) -> None:
    (photos / "bad.jpg").write_bytes(b"no image")
    (photos / "cut.png").write_bytes(image_of("red")[:-40])
    paths = [str(photos / name) for name in ("a.JPG", "bad.jpg", "gone.jpg", "cut.png", "b red.png")]
    rows = ask(paths)
    assert [row.label for row in rows] == ["blue", None, None, None, "red"]
    assert rows[1] == Prediction(paths[1], None, None, [], "not an image: starts with 'no image'")
    assert rows[2] == Prediction(paths[2], None, None, [], "cannot be read: No such file or directory")
    assert rows[3].error


def test_a_file_that_is_too_large_is_not_read(ask: Predict, photos: pathlib.Path) -> None:
    with open(photos / "large.jpg", "wb") as file:
        file.truncate(65 << 20)
    (row,) = ask([str(photos / "large.jpg")])
    assert row.error == "too many bytes: 65 MiB, the limit is 64"


def test_more_files_than_one_batch_are_all_answered(ask: Predict, tmp_path: pathlib.Path) -> None:
    paths = []
    for number in range(classifying.BATCH_IMAGES + 3):
        paths.append(str(tmp_path / f"{number}.png"))
        pathlib.Path(paths[-1]).write_bytes(image_of(("red", "green")[number % 2]))
    rows = ask(paths)
    assert [row.path for row in rows] == paths
    assert [row.label for row in rows] == [("red", "green")[number % 2] for number in range(len(paths))]


def test_batches_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifying, "BATCH_BYTES", 10)
    images = [classifying.Loaded(str(size), bytes(size)) for size in (4, 4, 4, 20, 1)]
    assert [[one.path for one in batch] for batch in classifying.batches(images)] == [["4", "4"], ["4"], ["20"], ["1"]]


# Errors of server and model


@pytest.mark.parametrize(("scheme", "api"), [("", "gRPC"), ("http://", "REST")])
def test_no_server_is_told(photos: pathlib.Path, monkeypatch: pytest.MonkeyPatch, scheme: str, api: str) -> None:
    monkeypatch.setattr(predict, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        target = f"{scheme}127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError) as caught:
            predict_with_server(target, "colours", [str(photos / "a.JPG")])
    assert str(caught.value) == (
        f"no model server answers at {target} ({api}): start one with `graftline serve`, or correct --server"
    )


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("127.0.0.1:8501", "; 8501 is usually the REST port: http://127.0.0.1:8501"),
        ("http://127.0.0.1:8500", "; 8500 is usually the gRPC port: 127.0.0.1:8500"),
        ("127.0.0.1:8500", ""),
        ("http://127.0.0.1:8501/prefix", ""),
    ],
)
def test_the_usual_port_of_the_other_protocol_is_told(target: str, hint: str) -> None:
    # No connection is made: anything may listen on these ports of this machine.
    assert predict._other_port(target) == hint


@pytest.mark.parametrize("target", ["localhost", "8500", ":8500", "localhost:http", "localhost:99999"])
def test_an_address_of_another_form_is_refused(target: str) -> None:
    with pytest.raises(UserError) as caught:
        predict_with_server(target, "colours", [])
    assert str(caught.value) == (
        f"--server {target} is not HOST:PORT: give the gRPC port (the default is 8500), or http://HOST:REST_PORT"
    )


def test_another_scheme_is_refused() -> None:
    with pytest.raises(UserError, match="--server ftp://host: give HOST:PORT of gRPC, or a URL"):
        predict_with_server("ftp://host", "colours", [])


def test_a_model_that_the_server_does_not_have_is_named(server: ModelServer, photos: pathlib.Path) -> None:
    target = f"127.0.0.1:{server.grpc_port}"
    with pytest.raises(UserError) as caught:
        predict_with_server(target, "tulips", [str(photos / "a.JPG")])
    assert str(caught.value) == (
        f"the server at {target} serves no model 'tulips': give another name with --name; it serves colours, numbers"
    )


def test_without_a_name_the_only_model_of_our_server_is_meant(colour_model: str, photos: pathlib.Path) -> None:
    with ModelServer(locate.find_models(colour_model, "only"), 0, 0) as server:
        for target in (f"127.0.0.1:{server.grpc_port}", f"http://127.0.0.1:{server.rest_port}"):
            (row,) = predict_with_server(target, None, [str(photos / "a.JPG")])
            assert row.label == "blue"


def test_without_a_name_a_server_of_several_models_lists_them(server: ModelServer, photos: pathlib.Path) -> None:
    with pytest.raises(UserError, match="It serves colours, numbers: choose with --name"):
        predict_with_server(f"127.0.0.1:{server.grpc_port}", None, [str(photos / "a.JPG")])


def test_a_model_of_another_origin_is_told_from_ours_at_a_server(server: ModelServer, photos: pathlib.Path) -> None:
    with pytest.raises(UserError, match="is no image classifier that Graftline exported"):
        list(predict_with_server(f"127.0.0.1:{server.grpc_port}", "numbers", [str(photos / "a.JPG")]))


def test_a_server_that_goes_away_is_told(colour_model: str, photos: pathlib.Path) -> None:
    with ModelServer(locate.find_models(colour_model, "only"), 0, 0) as server:
        rows = predict_with_server(f"127.0.0.1:{server.grpc_port}", "only", [str(photos / "a.JPG")] * 40)
        assert next(rows).label == "blue"
    with pytest.raises(UserError, match=r"went away: .*; start it again"):
        list(rows)


def test_a_model_of_another_origin_is_told_from_ours_in_a_folder(float_model: str, photos: pathlib.Path) -> None:
    with pytest.raises(UserError) as caught:
        predict_with_model(float_model, [str(photos / "a.JPG")])
    assert "its serving_default must take image_bytes and give label, score, top_k_labels, top_k_scores" in str(
        caught.value
    )


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"garbage")
    with pytest.raises(UserError, match=f"cannot load {tmp_path}: Cannot parse file"):
        predict_with_model(str(tmp_path), [])


def test_a_model_whose_variables_are_lost_is_at_fault_not_the_images(
    tmp_path: pathlib.Path, photos: pathlib.Path
) -> None:
    import tensorflow as tf

    class Lost(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def serving_default(self, image_bytes):
            handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="nowhere")
            score = tf.fill(tf.shape(image_bytes), tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32))
            top = {"top_k_labels": image_bytes[:, None], "top_k_scores": score[:, None]}
            return {"label": tf.identity(image_bytes), "score": score, **top}

    module = Lost()
    tf.saved_model.save(module, str(tmp_path / "lost"), signatures={"serving_default": module.serving_default})
    with pytest.raises(UserError, match=r"lost cannot run \(Could not find variable nowhere\..*\); export it again"):
        list(predict_with_model(str(tmp_path / "lost"), [str(photos / "a.JPG")]))


def test_several_models_ask_for_a_name(workspace: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"2 models in .*: colours, numbers; choose one with --name"):
        predict_with_model(str(workspace), [])


# Requirements


def test_a_prediction_is_made_without_keras_which_can_be_imported_after(
    workspace: pathlib.Path, photos: pathlib.Path
) -> None:
    code = (
        "import sys\n"
        "from graftline.serving.predict import predict_with_model\n"
        "(row,) = predict_with_model(sys.argv[1], [sys.argv[2]], name='colours')\n"
        "print(row.label, 'keras' in sys.modules, 'tf_keras' in sys.modules)\n"
        "import keras\n"
        "print(tuple(keras.layers.Dense(2)(keras.ops.ones((1, 1))).shape))"
    )
    command = [sys.executable, "-c", code, str(workspace), str(photos / "a.JPG")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.split("\n")[:2] == ["blue False False", "(1, 2)"]


def test_where_tensorflow_is_not_installed_it_is_told_what_to_do(workspace: pathlib.Path, photos: pathlib.Path) -> None:
    code = (
        "import sys, importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'tensorflow' else real(name, *rest)\n"
        "from graftline.pipeline.cli import main\n"
        "main(['predict', '--model', sys.argv[1], '--name', 'colours', sys.argv[2]])\n"
    )
    command = [sys.executable, "-c", code, str(workspace), str(photos / "a.JPG")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "graftline: this needs TensorFlow, which is not installed: run `pip install '.[serve]'` in Graftline's "
        "repository, or ask a running server with `graftline predict --server`\n"
    )
