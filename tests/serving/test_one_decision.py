"""Ingest, `graftline predict`, bulk classification, clients and server decide alike about an image, in one wording."""

import csv
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from graftline.components.image_example_gen import decoding
from graftline.pipeline import bulk
from graftline.serving.client import Client
from graftline.serving.images import isolated, trust
from graftline.serving.predict import LocalClassifier
from graftline.serving.server import ModelServer
from tests.assets import ASSETS
from tests.images import draw_scene, encode, encode_noise, png, png_chunk
from tests.serving.images import hostile
from tests.serving.rest import Rest, b64

_CUT_SCANS = hostile.flat_jpeg_of_scans(200, 16)
IMAGES = {
    "an empty file": b"",
    "text": b"no image",
    "bytes": b"\x00\x01\xff\xfe\x10",
    "SVG": b"<svg xmlns='...'/>",
    "a cut JPEG": encode_noise(1)[:-200],
    "a JPEG of which little is left": encode_noise(1)[:30],
    "a cut progressive JPEG": encode_noise(1, progressive=True)[:-200],
    "a cut PNG": encode_noise(1, "PNG")[:-200],
    "a cut GIF": encode_noise(1, "GIF")[:-200],
    "a cut BMP": encode_noise(1, "BMP")[:-200],
    "a cut WebP": encode_noise(1, "WEBP")[:-200],
    "a JPEG of nonsense": b"\xff\xd8\xff" + b"no image" * 9 + b"\xff\xd9",
    "a PNG with a wrong checksum": encode_noise(1, "PNG").replace(b"IDAT", b"IDAT\0", 1),
    "a size over the limit": png(10_001, 10_000, b"\0" * 99),
    "too long a side": png(65_501, 1, b"\0" * 99),
    "12 bits": hostile.HOSTILE["JPEG, 12 bits"](),
    "32 bits": encode(Image.new("F", (9, 9)), "TIFF"),
    "a BMP far larger than its file": hostile.HOSTILE["BMP, its pixels far away"](),
    "a PNG without pixels": png(9, 9, b"")[:60] + png_chunk(b"IEND", b""),
    "a good JPEG": encode(draw_scene(1)),
    "a good PNG with alpha": encode(draw_scene(1).convert("RGBA"), "PNG"),
    "a good WebP": encode(draw_scene(1), "WEBP"),
    "a BMP with a palette": encode(draw_scene(1).quantize(16), "BMP"),
    "a GIF with transparency": encode(Image.new("P", (9, 9)), "GIF", transparency=0),
    "a JPEG of 200 scans": _CUT_SCANS,
}
Decide = Callable[[bytes], str]  # bytes -> why they are refused, "" when they are not


@pytest.fixture(scope="module")
def deciders(
    server: ModelServer, colour_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Decide]]:
    file = tmp_path_factory.mktemp("one") / "image"
    local = LocalClassifier(colour_model)
    rest = Rest(server)
    workers = bulk.Classifier(bulk.ClassifierTarget(directory=colour_model))

    def ingest(data: bytes) -> str:
        verdict = decoding.decode(data)
        return verdict.reason if isinstance(verdict, decoding.Quarantined) else ""

    def classify_in_bulk(data: bytes) -> str:
        file.write_bytes(data)
        (row,) = workers.run_inference([str(file)], local)
        return row.error or ""

    def ask_server(data: bytes) -> str:
        status, answer = rest.predict("colours", {"instances": [b64(data)]})
        assert status in (200, 400), answer
        return answer.get("error", "")

    grpc = Client(f"127.0.0.1:{server.grpc_port}", "colours")
    http = Client(f"http://127.0.0.1:{server.rest_port}", "colours")
    with grpc, http:
        yield {
            "ingest": ingest,
            "predict": lambda data: next(local.stream([data])).error or "",
            "bulk": classify_in_bulk,
            "client over gRPC": lambda data: grpc.classify([data])[0].error or "",
            "client over REST": lambda data: http.classify([data])[0].error or "",
            "client that does not convert": ask_server,
        }
    local.close()
    isolated.close()


def _check(data: bytes, deciders: dict[str, Decide]) -> str:
    """Return ingest's reason, after comparing it with those of all others."""
    reasons = {name: decide(data) for name, decide in deciders.items()}
    alone = reasons.pop("client that does not convert")
    assert len(set(reasons.values())) == 1, reasons
    reason = reasons["ingest"]
    header = trust.judge(data)
    if isinstance(header, trust.Refused):
        assert alone == reason == header.reason
    elif header.distrust:  # the others convert the file; the server says that it must be converted, and why
        assert alone == trust.refusal_to_serve(header)
        assert header.distrust in alone
    else:
        assert alone == reason
    return reason


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.filterwarnings("ignore")
def test_all_decide_alike(name: str, deciders: dict[str, Decide]) -> None:
    good = name.startswith("a good") or "transparency" in name or "palette" in name or "scans" in name
    assert (_check(IMAGES[name], deciders) == "") == good


def _awkward() -> list[str]:
    manifest = ASSETS / "awkward" / "MANIFEST.csv"
    if not manifest.is_file():
        return []
    with open(manifest, newline="") as file:
        return [row["file"] for row in csv.DictReader(file)]


@pytest.mark.filterwarnings("ignore")
def test_all_decide_alike_about_other_projects_awkward_images(deciders: dict[str, Decide]) -> None:
    files = _awkward()
    if not files:
        pytest.skip("no awkward images; set GRAFTLINE_ASSETS")
    refused = [path for path in files if _check((ASSETS / path).read_bytes(), deciders)]
    assert len(files) > 200 and len(refused) == 19


def test_of_several_images_the_server_names_the_one_at_fault(server: ModelServer) -> None:
    good = encode(draw_scene(1))
    status, answer = Rest(server).predict("colours", {"instances": [b64(good), b64(good[:-500]), b64(good)]})
    assert (status, answer["error"]) == (400, "input image_bytes: image 1 of the request: truncated JPEG")


@pytest.mark.slow
def test_a_photo_of_sixty_megapixels_that_trains_can_be_predicted(deciders: dict[str, Decide]) -> None:
    large = encode(Image.new("L", (8000, 7500), 200), "JPEG")
    assert deciders["predict"](large) == deciders["client over gRPC"](large) == ""
    assert deciders["client that does not convert"](large).endswith(
        "decodes to more than 25000000 pixels, the limit max_image_pixels of this server: send it smaller"
    )
    verdict = decoding.decode(large)
    assert isinstance(verdict, decoding.Decoded)
    assert 24_900_000 < verdict.width * verdict.height <= 25_000_000
    assert np.isclose(verdict.width / verdict.height, 8000 / 7500, rtol=1e-3)
