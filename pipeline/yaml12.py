"""YAML as a person means it: the scalars of YAML 1.2, no key twice, errors with line and column.

PyYAML reads YAML 1.1, in which `off` is false, `1e-5` is text and `010` is 8. `pipeline.config` uses this.
"""

import math
import pathlib
import re
from typing import Any

import yaml

from graftline.errors import UserError


class Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2, which refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key '{key.value}' stands here a second time", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what `Loader` would otherwise read as something else than text."""


_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
)
for _yaml in (Loader, _Dumper):
    _yaml.yaml_implicit_resolvers = {}
    for _tag, _pattern, _first in _SCALARS:
        _yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(node.value)))


def parse(text: str) -> Any:
    """The value that a YAML text holds.

    Raises:
      ValueError: it is no YAML; the message says what is wrong.
    """
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(getattr(error, "problem", None) or str(error).splitlines()[0]) from None


def read_file(path: str) -> dict[str, Any]:
    """The mapping that a YAML file holds; empty for an empty file.

    Raises:
      UserError: it cannot be read or is no mapping; the message names the file, and line and column where there are.
    """
    if pathlib.Path(path).is_dir():
        raise UserError(f"{path} is a folder, not a config file; for a folder of images: graftline run --images {path}")
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the config file cannot be read: {error.strerror}") from None
    try:
        raw = yaml.load(content, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path}: is no YAML text: {str(error).splitlines()[0]}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold keys and values, as `graftline config` prints them; found {flow(raw)}")
    return raw


def flow(value: Any) -> str:
    """The value as it stands after a key, on one line."""
    style = None if _printable(value) else '"'  # escapes what YAML would take for the end of a line
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, default_style=style, width=math.inf, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _printable(value: Any) -> bool:
    if isinstance(value, list | dict):
        return all(_printable(part) for part in ([*value, *value.values()] if isinstance(value, dict) else value))
    return not isinstance(value, str) or value.isprintable()
