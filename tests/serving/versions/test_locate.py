"""Which models a user's path names."""

import pathlib

import pytest

from graftline.errors import UserError
from graftline.serving.versions.locate import find_model, find_models, scan_versions


def saved_model(path: pathlib.Path) -> pathlib.Path:
    """Write a folder that looks like a SavedModel until it is loaded."""
    path.mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"")
    return path


def test_a_workspace_means_every_model_in_it(tmp_path):
    saved_model(tmp_path / "models/roses/1")
    saved_model(tmp_path / "models/roses/2")
    saved_model(tmp_path / "models/cats/7")
    cats, roses = find_models(str(tmp_path))
    assert (cats.name, cats.newest) == ("cats", (7, str(tmp_path / "models/cats/7")))
    assert (roses.name, sorted(roses.versions)) == ("roses", [1, 2])
    assert roses.base_path == str(tmp_path / "models/roses")


def test_the_models_folder_of_a_workspace_means_the_same(tmp_path):
    saved_model(tmp_path / "models/roses/1")
    assert find_models(str(tmp_path / "models")) == find_models(str(tmp_path))


def test_a_base_path_is_called_by_its_folder(tmp_path):
    saved_model(tmp_path / "roses/4")
    (model,) = find_models(str(tmp_path / "roses"))
    assert (model.name, model.newest[0], model.base_path) == ("roses", 4, str(tmp_path / "roses"))


def test_a_single_saved_model_is_version_one_and_is_not_polled(tmp_path):
    path = saved_model(tmp_path / "export")
    model = find_model(str(path))
    assert (model.name, model.newest, model.base_path) == ("export", (1, str(path)), None)


def test_a_version_directory_keeps_its_name_and_number(tmp_path):
    saved_model(tmp_path / "roses/4")
    saved_model(tmp_path / "roses/5")
    model = find_model(str(tmp_path / "roses/4"))
    assert (model.name, list(model.versions)) == ("roses", [4])


def test_versions_are_ordered_as_numbers(tmp_path):
    saved_model(tmp_path / "9")
    saved_model(tmp_path / "10")
    assert find_model(str(tmp_path)).newest[0] == 10


@pytest.mark.parametrize("name", [".push-1", "tmp", "1.5", "-1", "²", "٣", str(1 << 63), "9" * 200])
def test_names_that_are_no_whole_number_are_no_versions(tmp_path, name):
    saved_model(tmp_path / "1")
    saved_model(tmp_path / name)
    assert list(scan_versions(str(tmp_path))) == [1]


def test_the_shortest_of_several_names_of_one_number_counts(tmp_path):
    for name in ("008", "08", "7"):
        saved_model(tmp_path / name)
    (tmp_path / "8").mkdir()  # not complete yet
    assert scan_versions(str(tmp_path)) == {7: str(tmp_path / "7"), 8: str(tmp_path / "08")}
    (tmp_path / "8" / "saved_model.pb").write_bytes(b"")
    assert scan_versions(str(tmp_path))[8] == str(tmp_path / "8")


def test_a_number_without_saved_model_is_no_version_yet(tmp_path):
    saved_model(tmp_path / "1")
    (tmp_path / "2").mkdir()
    assert list(scan_versions(str(tmp_path))) == [1]


@pytest.mark.parametrize("path", ["models/roses", "models/roses/1"])
def test_a_model_that_was_named_directly_is_served_under_any_name(tmp_path, path):
    saved_model(tmp_path / "models/roses/1")
    (model,) = find_models(str(tmp_path / path), "flowers")
    assert (model.name, list(model.versions)) == ("flowers", [1])


@pytest.mark.parametrize(
    ("find", "path"),
    [
        *((find_models, path) for path in ("", "models")),
        *((find_model, path) for path in ("", "models", "models/roses", "models/roses/1")),
    ],
)
def test_a_name_that_is_not_there_is_an_error(tmp_path, find, path):
    saved_model(tmp_path / "models/roses/1")
    with pytest.raises(UserError) as caught:
        find(str(tmp_path / path), "tulips")
    assert str(caught.value) == f"no model 'tulips' in {tmp_path / path}: it holds roses"


def test_a_name_chooses_among_several(tmp_path):
    saved_model(tmp_path / "models/roses/1")
    saved_model(tmp_path / "models/cats/1")
    assert [model.name for model in find_models(str(tmp_path), "cats")] == ["cats"]


def test_a_wrong_name_among_several_is_answered_with_the_nearest(tmp_path):
    saved_model(tmp_path / "models/roses/1")
    saved_model(tmp_path / "models/cats/1")
    with pytest.raises(UserError) as caught:
        find_models(str(tmp_path), "rose")
    assert str(caught.value) == f"no model 'rose' in {tmp_path}: it holds cats, roses; did you mean 'roses'?"


def test_several_models_where_one_is_needed_ask_for_a_name(tmp_path):
    saved_model(tmp_path / "models/roses/1")
    saved_model(tmp_path / "models/cats/1")
    with pytest.raises(UserError) as caught:
        find_model(str(tmp_path))
    assert str(caught.value) == f"2 models in {tmp_path}: cats, roses; choose one with --name"


def test_a_path_that_is_not_there_says_what_to_run(tmp_path):
    with pytest.raises(UserError) as caught:
        find_models(str(tmp_path / "nowhere"))
    assert str(caught.value) == (
        f"no model at {tmp_path}/nowhere: no such folder; run `graftline run` first, or name another path"
    )


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.keras: it is a file; name the folder of a SavedModel, or a workspace"):
        find_models(str(tmp_path / "model.keras"))


def test_a_folder_without_a_model_says_what_it_holds_and_what_to_run(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError) as caught:
        find_models(str(tmp_path))
    assert str(caught.value) == (
        f"no model in {tmp_path}: it holds photos, but neither saved_model.pb, nor numbered versions, nor "
        "models/<name>/<version>; run `graftline run` first, or name another path"
    )


def test_an_empty_folder_is_called_empty(tmp_path):
    with pytest.raises(UserError, match="it is empty"):
        find_models(str(tmp_path))
