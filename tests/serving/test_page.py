"""The web page of the server, as a person uses it, in Debian's headless Chromium with a real server."""

import base64
import os
import pathlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import requests
from PIL import Image

from graftline.serving.server import ModelServer
from graftline.serving.server.model.manager import ModelManager
from graftline.serving.versions import locate
from tests.images import encode, image_of

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on PATH (Debian: chromium, chromium-driver)"
)
TEN_SECONDS = 10


@dataclass(frozen=True)
class Site:
    """A server of three models, two of which take images. It looks for versions only when a test calls `poll`."""

    manager: ModelManager
    models: pathlib.Path
    url: str


@pytest.fixture(scope="module")
def site(workspace: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    shutil.copytree(workspace / "models", root / "models")
    shutil.copytree(root / "models/colours/3", root / "models/tints/5")
    with ModelServer(locate.find_models(str(root)), rest_port=0, grpc_port=0, poll_seconds=0) as server:
        yield Site(server.manager, root / "models", f"http://127.0.0.1:{server.rest_port}")


class Browser:
    """The actions of a person on the page, and what the page shows."""

    def __init__(self, url: str) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=900,900"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(DRIVER, log_output=os.devnull)
        self.driver = webdriver.Chrome(options=options, service=service)
        self.url = url

    def open(self) -> None:
        """Load the page, and wait for the list of models."""
        self.driver.get(self.url)
        self.until("return !document.getElementById('model').disabled")

    def until(self, script: str):
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, TEN_SECONDS, poll_frequency=0.02).until(
            lambda driver: driver.execute_script(script), message=script
        )

    def choose(self, *files: pathlib.Path) -> None:
        """Choose files as in the system's dialogue."""
        self.driver.find_element("id", "file").send_keys("\n".join(str(file) for file in files))

    def drop(self, *files: pathlib.Path) -> None:
        """Drop files as by the mouse, through the browser's own handling."""
        place = self.driver.find_element("id", "drop").rect
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        at = {"x": place["x"] + place["width"] / 2, "y": place["y"] + place["height"] / 2, "data": data}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.driver.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, **at})

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def cards(self, count: int = 1) -> list[str]:
        """Wait for so many finished results, and return the text of each, the latest first."""
        self.until(
            f"return document.querySelectorAll('.card').length === {count}"
            " && !document.querySelector('.card[aria-busy]')"
        )
        return [card.text for card in self.driver.find_elements("class name", "card")]


@pytest.fixture(scope="module")
def running_browser(site: Site) -> Iterator[Browser]:
    started = Browser(site.url)
    yield started
    started.driver.quit()


@pytest.fixture
def browser(running_browser: Browser) -> Browser:
    running_browser.open()
    return running_browser


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    file = tmp_path_factory.mktemp("images") / "a red one.png"
    file.write_bytes(image_of("red"))
    return file


def test_the_page_is_served_and_only_to_be_read(site):
    found = requests.get(site.url, timeout=TEN_SECONDS)
    assert (found.status_code, found.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert requests.head(site.url, timeout=TEN_SECONDS).headers["content-length"] == str(len(found.content))
    for method, path in (("POST", "/"), ("GET", "/graftline/page.py"), ("GET", "/graftline/../page.py")):
        assert requests.request(method, site.url + path, timeout=TEN_SECONDS).status_code == 404


def test_the_list_of_models_says_which_versions_answer_and_which_models_take_an_image(site):
    found = requests.get(site.url + "/graftline/models.json", timeout=TEN_SECONDS).json()
    assert found == {
        "models": [
            {"name": "colours", "versions": ["3"], "images": True},
            {"name": "numbers", "versions": ["1"], "images": False},
            {"name": "tints", "versions": ["5"], "images": True},
        ]
    }


@needs_chromium
@pytest.mark.parametrize("way", ["choose", "drop"])
def test_an_image_gets_its_classes(way, site, browser, red):
    getattr(browser, way)(red)
    (card,) = browser.cards()
    body = {"instances": [{"b64": base64.b64encode(red.read_bytes()).decode()}]}
    answer = requests.post(site.url + "/v1/models/colours:predict", json=body, timeout=TEN_SECONDS).json()
    (prediction,) = answer["predictions"]
    expected = ["a red one.png", "colours, version 3"]
    for label, score in zip(prediction["top_k_labels"], prediction["top_k_scores"], strict=True):
        expected += [label, f"{100 * score:.1f} %"]
    assert expected[2] == "red"
    assert card.split("\n") == expected


@needs_chromium
def test_several_files_are_several_results_and_a_bad_one_says_why(browser, red, tmp_path):
    page_of_text = tmp_path / "not an image.jpg"
    page_of_text.write_text("<html>")
    empty = tmp_path / "empty.png"
    empty.touch()
    browser.drop(red, page_of_text, empty)
    nothing, text, image = browser.cards(3)
    assert nothing.split("\n") == ["empty.png", "The file is empty."]
    assert text.split("\n")[1:] == ["not an image that can be classified: use JPEG, PNG, GIF or BMP"]
    assert image.split("\n")[2] == "red"


@needs_chromium
def test_a_broken_file_of_a_known_format_has_the_servers_own_sentence(browser, tmp_path):
    (tmp_path / "cut.png").write_bytes(image_of("red")[:100])
    browser.choose(tmp_path / "cut.png")
    assert browser.cards()[0].split("\n") == ["cut.png", "truncated PNG"]
    error = "{{function_node __inference_7}} assertion failed\\n\\t{{function_node f}} No image.\\n\\t [[{{node x}}]]"
    assert browser.driver.execute_script(f'return plain("{error}")') == "No image."


@needs_chromium
@pytest.mark.parametrize("fmt", ["WEBP", "AVIF"])
def test_what_the_browser_alone_can_draw_is_sent_as_it_draws_it(browser, tmp_path, fmt):
    (tmp_path / "green").write_bytes(image_of("green", fmt=fmt))
    browser.choose(tmp_path / "green")
    assert browser.cards()[0].split("\n")[:3] == ["green", "colours, version 3", "green"]


@needs_chromium
@pytest.mark.parametrize("fmt", ["JPEG", "AVIF"])
def test_an_image_that_lies_on_its_side_is_redrawn_upright(browser, fmt):
    turned = encode(Image.new("RGB", (24, 16)), fmt, orientation=6)
    size = browser.driver.execute_async_script(
        "const [base64, done] = arguments;"
        "const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));"
        "const asStored = { imageOrientation: 'none' };"
        "redrawn(new Blob([bytes])).then((png) => createImageBitmap(png, asStored))"
        ".then(({ width, height }) => done([width, height]));",
        base64.b64encode(turned).decode(),
    )
    assert size == [16, 24]


@needs_chromium
def test_names_are_text(browser, tmp_path):
    name = "<img src=x onerror=document.title='run'>.png"
    (tmp_path / name).write_bytes(image_of("blue"))
    browser.choose(tmp_path / name)
    assert browser.cards()[0].split("\n")[0] == name
    assert browser.driver.title == "Graftline"


@needs_chromium
def test_a_new_version_answers_the_next_image_and_says_so(site, browser, red, sharper_model):
    browser.choose(red)
    browser.cards()
    site.models.joinpath("colours/3").rename(site.models / "colours/.3")  # restored at the end
    try:
        shutil.copytree(sharper_model, site.models / "colours/4")
        site.manager.poll()
        browser.choose(red)
        latest, earlier = browser.cards(2)
    finally:
        shutil.rmtree(site.models / "colours/4")
        site.models.joinpath("colours/.3").rename(site.models / "colours/3")
        site.manager.poll()
    assert latest.split("\n")[1] == "colours, version 4"
    assert earlier.split("\n")[1] == "colours, version 3"


@needs_chromium
def test_a_server_that_is_gone_is_told(browser, red):
    browser.driver.execute_cdp_cmd("Network.enable", {})
    gone = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    browser.driver.execute_cdp_cmd("Network.emulateNetworkConditions", gone)
    try:
        browser.choose(red)
        assert browser.cards()[0].split("\n") == [red.name, "The server does not answer. Is it still running?"]
    finally:
        browser.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**gone, "offline": False})


@needs_chromium
def test_the_keyboard_chooses_the_model_and_reaches_the_chooser_of_files(browser, red):
    from selenium.webdriver import Keys

    focused = "return document.activeElement.id"
    browser.press(Keys.TAB)
    assert browser.driver.execute_script(focused) == "model"
    browser.press("t")  # the select goes to the name that begins with it; models without images cannot be selected
    browser.press(Keys.TAB)
    assert browser.driver.execute_script(focused) == "file"
    browser.choose(red)
    assert browser.cards()[0].split("\n")[1] == "tints, version 5"
    outline = "return getComputedStyle(document.getElementById('drop')).outlineStyle"
    assert browser.driver.execute_script(outline) == "solid"


@needs_chromium
def test_it_fits_a_phone(browser, tmp_path):
    phone = {"width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        browser.open()
        long_name = tmp_path / ("x" * 200 + ".png")
        long_name.write_bytes(image_of("green"))
        browser.choose(long_name)
        browser.cards()
        width, inner = browser.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert (width, inner) == (360, 360)
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@needs_chromium
def test_nothing_comes_from_elsewhere_and_nothing_else_may(site, browser):
    loaded = browser.driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {url.removeprefix(site.url) for url in loaded} >= {"/graftline/page.css", "/graftline/page.js"}
    assert all(url.startswith(site.url) for url in loaded)
    refused = browser.driver.execute_async_script("""
      const [done] = arguments;
      const refused = [];
      addEventListener("securitypolicyviolation", (event) => {
        refused.push(event.effectiveDirective);
        if (refused.length === 3) done(refused.sort());
      });
      fetch("http://localhost:1/").catch(() => {});
      const script = document.createElement("script");
      script.textContent = "document.title = 'run'";
      document.head.append(script);
      const image = document.createElement("img");
      image.src = "http://localhost:1/x.png";
      document.body.append(image);
    """)
    assert refused == ["connect-src", "img-src", "script-src-elem"]
    assert browser.driver.title == "Graftline"
