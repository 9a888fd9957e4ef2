"""Tests of the table and the page of copies: complete, safe to open, reproducible and of bounded size."""

import base64
import csv
import hashlib
import html.parser
import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from graftline.components.image_example_gen import duplicates_report
from graftline.components.image_example_gen.plan import Copies, Member, Plan
from tests.assets import FLOWERS, needs_assets
from tests.images import encode, encode_noise

NONE = Plan((), (), (), {}, ())


def plan_of(*copies: Copies) -> Plan:
    return Plan((), (), (), {}, copies)


class Page(html.parser.HTMLParser):
    """What a browser would see: texts, pictures, and addresses that it would ask for."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.pictures: list[bytes] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.feed((folder / "duplicates.html").read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href") and value:
                if value.startswith("data:image/jpeg;base64,"):
                    self.pictures.append(base64.b64decode(value.partition(",")[2], validate=True))
                else:
                    self.addresses.append(value)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def sizes(self) -> list[tuple[int, int]]:
        return [Image.open(io.BytesIO(picture)).size for picture in self.pictures]


def table(folder: pathlib.Path) -> list[dict[str, str]]:
    with (folder / "duplicates.csv").open(newline="") as file:
        return list(csv.DictReader(file))


LEAK = Copies("leak", (Member("a/1.jpg", "a", "train", 0), Member("a/2.jpg", "a", "eval", 2)))
EXACT = Copies("exact", (Member('a/x, "y" <b>&.jpg', "<script>", "train", 0), Member("a/z.jpg", "<script>", "train")))


def test_every_group_is_in_the_table(tmp_path: pathlib.Path) -> None:
    duplicates_report.write(str(tmp_path), plan_of(LEAK, EXACT), lambda path: None)
    columns = ("group", "kind", "path", "label", "split", "distance")
    expected = [
        ("1", "leak", "a/1.jpg", "a", "train", "0"),
        ("1", "leak", "a/2.jpg", "a", "eval", "2"),
        ("2", "exact", 'a/x, "y" <b>&.jpg', "<script>", "train", "0"),
        ("2", "exact", "a/z.jpg", "<script>", "train", ""),
    ]
    assert table(tmp_path) == [dict(zip(columns, line, strict=True)) for line in expected]


def test_names_are_text_and_the_page_needs_nothing_from_outside(tmp_path: pathlib.Path) -> None:
    duplicates_report.write(str(tmp_path), plan_of(LEAK, EXACT), lambda path: encode_noise(1))
    page = Page(tmp_path)
    assert 'a/x, "y" <b>&.jpg' in page.texts
    assert "<script>" in page.texts and "script" not in page.tags
    assert page.addresses == [] and len(page.pictures) == 4
    source = (tmp_path / "duplicates.html").read_text()
    assert "color-scheme: light dark" in source
    assert not any(word in source for word in ("http:", "https:", "url(", "@import"))


def test_pictures_are_small_upright_and_grey_where_there_is_none(tmp_path: pathlib.Path) -> None:
    files = {
        "turned": encode(Image.new("RGB", (400, 200), (200, 30, 30)), orientation=6),
        "gray png": encode_noise(1, "PNG", size=(30, 20)),
        "broken": encode_noise(2)[:-200],
        "page": b"<html>",
        "of a kind that is not stored": encode_noise(3, "TIFF"),
        "empty": b"",
        "gone": None,
    }
    members = [Member(name, "a", "train") for name in files]
    groups = [Copies("near", tuple(some)) for some in (members[:4], members[4:])]
    duplicates_report.write(str(tmp_path), plan_of(*groups), files.get)
    page = Page(tmp_path)
    assert page.sizes() == [(48, 96), (30, 20)] + [(96, 96)] * 5
    red, *_, grey = (np.asarray(Image.open(io.BytesIO(picture))).mean(axis=(0, 1)) for picture in page.pictures)
    assert np.abs(red - (200, 30, 30)).max() < 10
    assert np.abs(grey - 128).max() < 3


def test_without_copies_the_page_says_so(tmp_path: pathlib.Path) -> None:
    duplicates_report.write(str(tmp_path), NONE, lambda path: pytest.fail(path))
    assert table(tmp_path) == []
    assert any("No copies were found" in text for text in Page(tmp_path).texts)


def test_many_and_large_groups_are_pictured_in_part_the_gravest_first(tmp_path: pathlib.Path) -> None:
    near = [Copies("near", tuple(Member(f"{i}/{j}", "a", "train", 2) for j in range(12))) for i in range(250)]
    read: list[str] = []

    def reading(path: str) -> bytes:
        read.append(path)
        return encode_noise(0)

    duplicates_report.write(str(tmp_path), plan_of(LEAK, *near), reading)
    assert read[:2] == ["a/1.jpg", "a/2.jpg"]
    assert len(read) == 2 + 99 * 6
    assert len(table(tmp_path)) == 2 + 250 * 12
    texts = " ".join(Page(tmp_path).texts)
    assert "The first 100 of 251 groups" in texts and "Near copies: 250" in texts and "12 files, 6 not shown" in texts
    assert (tmp_path / "duplicates.html").stat().st_size < 100 * 6 * 6000


def test_the_same_plan_gives_the_same_bytes(tmp_path: pathlib.Path) -> None:
    digests = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        duplicates_report.write(str(folder), plan_of(LEAK, EXACT), lambda path: encode_noise(len(path)))
        digests.append([hashlib.sha256(path.read_bytes()).digest() for path in sorted(folder.iterdir())])
    assert digests[0] == digests[1]


@needs_assets
def test_real_photos_have_small_pictures(tmp_path: pathlib.Path) -> None:
    paths = sorted(FLOWERS.rglob("*.jpg"))[:6]
    group = Copies("near", tuple(Member(str(path), "a", "train") for path in paths))
    duplicates_report.write(str(tmp_path), plan_of(group), lambda path: pathlib.Path(path).read_bytes())
    page = Page(tmp_path)
    assert all(max(size) == 96 for size in page.sizes())
    assert all(len(picture) < 6000 for picture in page.pictures)
