"""Classifying files, by a server and in this process, which must say the same."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from graftline.errors import UserError
from serving import client, locate
from serving.client import Prediction, find_images, predict_with_model, predict_with_server
from serving.server import ModelServer
from tests.serving.conftest import image_of


@pytest.fixture
def photos(tmp_path) -> pathlib.Path:
    """Three images and what lies about beside them."""
    folder = tmp_path / "photos"
    (folder / "deep/__MACOSX").mkdir(parents=True)
    (folder / "b red.png").write_bytes(image_of("red"))
    (folder / "a.JPG").write_bytes(image_of("blue", fmt="JPEG"))
    (folder / "deep/no-suffix").write_bytes(image_of("green", fmt="GIF"))
    for junk in (".DS_Store", "Thumbs.db", "._a.JPG", "notes.txt", "deep/__MACOSX/a.jpg"):
        (folder / junk).write_bytes(b"junk")
    os.mkfifo(folder / "pipe.jpg")
    return folder


@pytest.fixture(params=["server", "model"])
def predict(request, server, workspace):
    """Both ways to predict, by the same model."""
    if request.param == "server":
        return lambda paths: predict_with_server(f"127.0.0.1:{server.grpc_port}", "colours", paths)
    return lambda paths: predict_with_model(str(workspace), paths, name="colours")


# Which files


def test_a_folder_means_its_images_at_any_depth_sorted_without_junk(photos):
    found = [os.path.relpath(path, photos) for path in find_images([str(photos)])]
    assert found == ["a.JPG", "b red.png", "deep/no-suffix"]


def test_a_file_named_outright_is_taken_as_it_is(photos):
    assert find_images([str(photos / "notes.txt")]) == [str(photos / "notes.txt")]


def test_the_order_of_the_arguments_is_kept(photos):
    paths = [str(photos / "b red.png"), str(photos / "a.JPG")]
    assert find_images(paths) == paths


def test_an_image_that_cannot_be_opened_is_not_passed_over(photos):
    (photos / "z.jpg").symlink_to(photos / "gone")
    assert find_images([str(photos)])[-1] == str(photos / "z.jpg")


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(UserError) as caught:
        find_images([str(tmp_path)])
    assert str(caught.value) == f"no images in {tmp_path}: it holds no file that is called or begins like an image"


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no such file or folder: .*/gone\.jpg; name an image or a folder of images"):
        find_images([str(tmp_path / "gone.jpg")])


def test_a_pipe_is_no_image(photos):
    with pytest.raises(UserError, match=r"pipe\.jpg is neither a file nor a folder"):
        find_images([str(photos / "pipe.jpg")])


# What the model says of them


def test_every_file_gets_its_row_in_order(predict, photos):
    rows = predict(find_images([str(photos)]))
    assert [row.label for row in rows] == ["blue", "red", "green"]
    assert [os.path.basename(row.path) for row in rows] == ["a.JPG", "b red.png", "no-suffix"]


def test_a_row_has_the_best_label_and_all_of_the_top_k(predict, photos):
    (row,) = predict([str(photos / "b red.png")])
    assert row.error is None
    assert row.top_k[0] == (row.label, row.score)
    assert sorted(label for label, _ in row.top_k) == ["blue", "green", "red"]
    assert sum(score for _, score in row.top_k) == pytest.approx(1.0)


def test_server_and_model_say_the_same(server, workspace, photos):
    paths = find_images([str(photos)])
    by_server = predict_with_server(f"127.0.0.1:{server.grpc_port}", "colours", paths)
    assert by_server == predict_with_model(str(workspace), paths, name="colours")


def test_a_bad_image_fails_its_own_row_only(predict, photos):
    (photos / "bad.jpg").write_bytes(b"no image")
    bad, missing = str(photos / "bad.jpg"), str(photos / "gone.jpg")
    rows = predict([str(photos / "a.JPG"), bad, missing, str(photos / "b red.png")])
    assert [row.label for row in rows] == ["blue", None, None, "red"]
    assert rows[1] == Prediction(bad, None, None, [], rows[1].error)
    assert rows[1].error.startswith("Unknown image file format.")
    assert rows[2] == Prediction(missing, None, None, [], "cannot be read: No such file or directory")


def test_more_files_than_one_batch_are_all_answered(predict, tmp_path):
    paths = []
    for number in range(client.BATCH_IMAGES + 3):
        paths.append(str(tmp_path / f"{number}.png"))
        pathlib.Path(paths[-1]).write_bytes(image_of(("red", "green")[number % 2]))
    rows = predict(paths)
    assert [row.path for row in rows] == paths
    assert [row.label for row in rows] == [("red", "green")[number % 2] for number in range(len(paths))]


def test_batches_are_bounded_in_bytes(monkeypatch, predict, photos):
    monkeypatch.setattr(client, "BATCH_BYTES", 1)
    assert [row.label for row in predict(find_images([str(photos)]))] == ["blue", "red", "green"]


# What can be wrong with server and model


def test_no_server_is_told(photos):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        port = silent.getsockname()[1]
        with pytest.raises(UserError) as caught:
            predict_with_server(f"127.0.0.1:{port}", "colours", [str(photos / "a.JPG")])
    assert str(caught.value) == (
        f"no model server answers at 127.0.0.1:{port} (gRPC): start one with `graftline serve`, or correct --server"
    )


@pytest.mark.parametrize("target", ["localhost", ":8500", "localhost:http"])
def test_an_address_of_another_form_is_refused(target):
    with pytest.raises(UserError) as caught:
        predict_with_server(target, "colours", [])
    assert str(caught.value) == f"--server {target} is not HOST:PORT: give the gRPC port, 8500 unless told otherwise"


def test_a_model_that_the_server_does_not_have_is_named(server, photos):
    target = f"127.0.0.1:{server.grpc_port}"
    with pytest.raises(UserError) as caught:
        predict_with_server(target, "tulips", [str(photos / "a.JPG")])
    assert str(caught.value) == (
        f"the server at {target} serves no model 'tulips': give the name that it serves with --name"
    )


def test_without_a_name_the_only_model_of_our_server_is_meant(colour_model, photos):
    with ModelServer(locate.find_models(colour_model, "only"), 0, 0) as server:
        (row,) = predict_with_server(f"127.0.0.1:{server.grpc_port}", None, [str(photos / "a.JPG")])
    assert row.label == "blue"


def test_without_a_name_a_server_of_several_models_lists_them(server, photos):
    with pytest.raises(UserError, match="It serves colours, numbers: choose with --name"):
        predict_with_server(f"127.0.0.1:{server.grpc_port}", None, [str(photos / "a.JPG")])


def test_a_model_of_another_origin_is_told_from_ours_at_a_server(server, photos):
    with pytest.raises(UserError, match="is no image classifier that Graftline exported"):
        predict_with_server(f"127.0.0.1:{server.grpc_port}", "numbers", [str(photos / "a.JPG")])


def test_a_model_of_another_origin_is_told_from_ours_in_a_folder(float_model, photos):
    with pytest.raises(UserError) as caught:
        predict_with_model(float_model, [str(photos / "a.JPG")])
    assert "its serving_default must take image_bytes and give label, score, top_k_labels, top_k_scores" in str(
        caught.value
    )


def test_a_model_that_cannot_be_loaded_is_named(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"garbage")
    with pytest.raises(UserError, match=f"cannot load {tmp_path}: Cannot parse file"):
        predict_with_model(str(tmp_path), [])


def test_a_model_whose_variables_are_lost_is_at_fault_not_the_images(tmp_path, photos):
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
        predict_with_model(str(tmp_path / "lost"), [str(photos / "a.JPG")])


def test_several_models_ask_for_a_name(workspace):
    with pytest.raises(UserError, match=r"2 models in .*: colours, numbers; choose one with --name"):
        predict_with_model(str(workspace), [])


# What it costs to import


def test_importing_client_locate_publish_and_server_brings_none_of_the_heavy_libraries():
    code = (
        "import sys, serving.client, serving.locate, serving.publish, serving.server\n"
        "heavy = {'tensorflow', 'tfx', 'grpc', 'keras', 'numpy', 'apache_beam', 'tensorflow_serving'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert found.stdout.strip() == "[]"


def test_a_prediction_is_made_without_keras_which_can_be_imported_after(workspace, photos):
    code = (
        "import sys\n"
        "from serving.client import predict_with_model\n"
        "(row,) = predict_with_model(sys.argv[1], [sys.argv[2]], name='colours')\n"
        "print(row.label, 'keras' in sys.modules, 'tf_keras' in sys.modules)\n"
        "import keras\n"
        "print(tuple(keras.layers.Dense(2)(keras.ops.ones((1, 1))).shape))"
    )
    command = [sys.executable, "-c", code, str(workspace), str(photos / "a.JPG")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.split("\n")[:2] == ["blue False False", "(1, 2)"]
