"""Tests of which paths are URIs, and of how a path is joined to one."""

import pytest

from graftline import uri


@pytest.mark.parametrize(
    ("root", "path", "joined"),
    [
        ("/a/b", "c/1.jpg", "/a/b/c/1.jpg"),
        ("gs://bucket", "c/1.jpg", "gs://bucket/c/1.jpg"),
        ("s3://bucket/a/", "c/1.jpg", "s3://bucket/a/c/1.jpg"),
    ],
)
def test_a_path_is_joined_to_a_folder_or_a_uri(root: str, path: str, joined: str) -> None:
    assert uri.join(root, path) == joined


@pytest.mark.parametrize(("path", "expected"), [("gs://a", True), ("/a://b", False), ("a:/b", False), ("C:\\a", False)])
def test_a_uri_has_a_scheme(path: str, expected: bool) -> None:
    assert uri.is_uri(path) == expected
