"""README, CONTRIBUTING, SECURITY, CHANGELOG and docs/: links, anchors and the names in them lead to something."""

import re
import subprocess

import pytest

from tests import assets

DOCUMENTS = sorted([*assets.ROOT.glob("*.md"), *assets.ROOT.glob("docs/*.md")])
# The changelog also names what is gone.
OF_TODAY = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
_FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FILE = re.compile(r"`((?:[\w.*-]+/)*[\w-]+\.(?:py|md|yaml|toml|proto|txt))`")
_FOLDER = re.compile(
    r"`((?:pipeline|components|trainer|serving|graftline|recipes|benchmarks|tests|docs)(?:/[\w.-]+)*/)`"
)
_MODULE = re.compile(r"python -m ((?:graftline|recipes|benchmarks)[\w.]*)")
# Files that a run, a person or TFX makes.
_MADE = {"verdict.txt", "flowers.yaml", "pipeline.yaml"}


def _anchors(text: str) -> set[str]:
    """Return the anchors of a Markdown file's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def files() -> set[str]:
    """The repository's files."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=assets.ROOT, capture_output=True)
    return {f"/{path}" for path in listed.stdout.decode().splitlines()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(document) -> None:
    for link in _LINK.findall(_FENCE.sub("", document.read_text())):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() and document.parent.name == "docs":  # a root document is a page of the site, too
            target = assets.ROOT / f"{target.stem.upper()}.md"
        assert target.exists(), f"{document.name} links to {link}"
        assert not anchor or anchor in _anchors(target.read_text()), f"{document.name} links to {link}"


@pytest.mark.parametrize("document", OF_TODAY, ids=lambda path: path.name)
def test_every_file_folder_and_module_that_is_named_is_there(document, files: set[str]) -> None:
    text = document.read_text()
    for name in _FILE.findall(text):
        known = (
            any(path.endswith(f"/{name}") for path in files)
            or "*" in name
            or "NAME" in name
            or name.split("/")[-1] in _MADE
        )
        assert known, f"{document.name} names {name}"
    for name in _FOLDER.findall(text.replace("NAME/", "")):
        assert any(path.startswith(f"/{name}") for path in files), f"{document.name} names {name}"
    for module in _MODULE.findall(text):
        path = module.removeprefix("graftline.").replace(".", "/").rstrip("/")
        places = {f"/{path}.py", f"/{path}/__main__.py"}
        assert places & files, f"{document.name} runs {module}"


def test_the_readme_is_one_page() -> None:
    assert len((assets.ROOT / "README.md").read_text().splitlines()) <= 150


def test_each_row_of_the_threat_model_names_tests_that_exist() -> None:
    table = (
        (assets.ROOT / "SECURITY.md")
        .read_text()
        .partition("| threat | what holds it | test |\n")[2]
        .partition("\n\n")[0]
    )
    rows = [row.strip("|").split("|") for row in table.splitlines()[1:]]
    assert len(rows) > 30
    for threat, holds, tests in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        assert bool(named) == bool(holds.strip()), threat
        for path, name in named:
            assert f"def {name}(" in (assets.ROOT / path).read_text(), f"{threat}: {path}::{name}"
