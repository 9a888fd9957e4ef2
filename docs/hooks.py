"""MkDocs hook: the Markdown files at the repository's root are pages of the site, too."""

import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_ROOT = pathlib.Path(__file__).parents[1]
_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.md",
}


def _link_inside_site(match: re.Match[str]) -> str:
    """Return a link to a file of the repository as a link to its page."""
    target = match[1].removeprefix("docs/")
    anchor = match[2] or ""
    return f"]({_PAGES.get(target, target)}{anchor})"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Let the links of `docs/` to files of the repository's root lead to their pages."""
    return re.sub(r"\]\(\.\./([\w.-]+)(#[\w-]+)?\)", _link_inside_site, markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages. Their links are relative to the repository's root, and become links between pages."""
    for name, page in _PAGES.items():
        text = (_ROOT / name).read_text()
        text = f"# License\n\n```text\n{text}```\n" if name == "LICENSE" else text
        content = re.sub(r"\]\(([\w/.-]+)(#[\w-]+)?\)", _link_inside_site, text)
        files.append(File.generated(config, page, content=content))
    return files
