"""Reads YAML as users expect it: the scalars of YAML 1.2, no duplicate keys, errors with line and column.

PyYAML reads YAML 1.1, in which `off` is false, `1e-5` is text and `010` is 8. `pipeline.config_file` uses this module.
"""

import math
import pathlib
import re
from typing import Any

import yaml

from graftline.errors import UserError


class Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2; a duplicate key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct as SafeLoader does; raise ConstructorError for a duplicate key."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key '{key.value}' is here a second time", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `Loader` would otherwise read as another type."""


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
)
for _yaml in (Loader, _Dumper):
    _yaml.yaml_implicit_resolvers = {}
    for _tag, _pattern, _first in _SCALARS:
        _yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(node.value)))


def parse(text: str) -> Any:
    """Return the value of a YAML text; raise ValueError with what is wrong if it is not valid."""
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(getattr(error, "problem", None) or str(error).splitlines()[0]) from None


def read_file(path: str) -> dict[str, Any]:
    """Return the mapping of a YAML file; an empty one for an empty file. Errors name the line and column if known."""
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
        raise UserError(f"{path}: is not a YAML text: {str(error).splitlines()[0]}") from None
    if raw is not None and not isinstance(raw, dict):
        raise UserError(
            f"{path}: must hold keys and values, as `graftline config` prints them, but it holds {flow(raw)}"
        )
    return raw or {}


def flow(value: Any) -> str:
    """Return the YAML of a value on one line, as it follows a key."""
    style = None if _printable(value) else '"'  # escapes characters that end a line in YAML
    options: Any = {"default_flow_style": True, "width": math.inf, "allow_unicode": True}
    text = yaml.dump(value, Dumper=_Dumper, default_style=style, **options)
    return text.removesuffix("\n").removesuffix("\n...")


def _printable(value: Any) -> bool:
    if isinstance(value, list | dict):
        return all(_printable(part) for part in ([*value, *value.values()] if isinstance(value, dict) else value))
    return not isinstance(value, str) or value.isprintable()
