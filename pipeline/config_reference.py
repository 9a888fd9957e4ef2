"""The reference of the config as Markdown: `graftline config --markdown`, kept as docs/config.md."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from graftline.pipeline import yaml12
from graftline.pipeline.config import Config
from graftline.pipeline.config_file import section_description, to_plain

_HEAD = """\
# Every config key

`graftline config --markdown` prints this page; a test keeps it up to date.

The config is a YAML file. `graftline config` prints one with every key and its default. A key that the file does not
have keeps its default. `--set key=value` overrides one key, for example `--set fine_tuning.epochs=5`. Relative paths
are relative to the current directory.
"""


def as_markdown() -> str:
    """Return the page: for each section a table with the key, the default and the meaning of each key."""
    shared: list[type[BaseModel]] = []  # sections that stand under several keys; grows while the loop below reads it
    lines = [_HEAD, *_section(Config, "", shared)]
    for section in shared:
        lines += _section(section, section.__name__, shared)
    return "\n".join(lines) + "\n"


def _section(section: type[BaseModel], name: str, shared: list[type[BaseModel]]) -> Iterator[str]:
    """Yield the lines of one section, then those of the sections in it."""
    is_shared = section in shared
    yield f"## {name if is_shared else f'`{name}`' if name else 'Top level'}\n\n{section_description(section)}\n"
    yield "| key | default | meaning |\n|---|---|---|"
    inner: dict[str, type[BaseModel]] = {}
    for key, field in section.model_fields.items():
        full_key = key if is_shared or not name else f"{name}.{key}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner[full_key] = field.annotation
            continue
        value = field.get_default(call_default_factory=True)
        default = "required" if field.is_required() else f"`{yaml12.flow(to_plain(value))}`"
        meaning = (field.description or "").replace("|", "\\|")
        if keys := _section_type(field.annotation):
            meaning += f". Its keys: [{keys.__name__}](#{keys.__name__.lower()})"
            if keys not in shared:
                shared.append(keys)
        yield f"| `{full_key}` | {default} | {meaning} |"
    yield ""
    for full_key, child in inner.items():
        yield from _section(child, full_key, shared)


def _section_type(annotation: Any) -> type[BaseModel] | None:
    """Return the section in the type of a key that may be null or holds keys of the user's choice."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for part in get_args(annotation) if (section := _section_type(part))), None)
