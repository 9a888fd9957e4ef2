"""The config as a file: loads YAML and `--set`, explains what is wrong with them, prints the config.

The command line and the recipes call `load`. Imports no TFX and no TensorFlow.
"""

import difflib
import math
import pathlib
import re
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from graftline.errors import UserError, did_you_mean
from graftline.pipeline import yaml12
from graftline.pipeline.config import Config, default_gate

# Keys whose values are paths: a leading ~ is the home folder.
_PATHS = ("images", "workspace", "backbone.weights", "data.manifest", "data.schema_file", "push.path")


def load(path: str | None, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Config:
    """Return the config of a YAML file (or the defaults), changed by `overrides`, then by `options`.

    The keys of `gate` are merged with its defaults: `gate.accuracy.min=0.9` keeps `gate.accuracy.min_change`. A metric
    that is null has no threshold.

    Args:
      path: a YAML file, or None for the defaults.
      overrides: `key=value` texts of `--set`, such as `fine_tuning.epochs=5`. The value is a YAML scalar, a flow list
        or a flow mapping.
      options: values by dotted key that need no parsing, from the options of the command.

    Raises:
      UserError: the file cannot be read, a key is unknown, or values are wrong. The message names all wrong values.
    """
    raw: dict[str, Any] = {"gate": default_gate().model_dump(exclude_defaults=True)}
    if path is not None:
        from_file = yaml12.read_file(path)
        _refuse_unknown(from_file, path)
        # A section whose keys are all commented out is null in YAML.
        sections = {key for key in Config.model_fields if _children(_annotation((key,)))}
        _merge(raw, {key: value for key, value in from_file.items() if value is not None or key not in sections})
    overridden = []
    for text in overrides:
        key, value = _override(text)
        tree = _nested(key, value)
        _refuse_unknown(tree, "--set")
        _merge(raw, tree)
        overridden.append(key)
    for key, value in (options or {}).items():
        _merge(raw, _nested(key, value))
    for key in _PATHS:
        _expand_home(raw, *key.rpartition(".")[::2])

    def source(key: str) -> str:
        key = key.partition("[")[0]
        by_set = any(key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.") for other in overridden)
        return "--set: " if by_set else f"{path}: " if path else ""

    if infinite := [f"{source(key)}{key} is {value}, but must be a finite number" for key, value in _non_finite(raw)]:
        raise UserError("\n".join(infinite))
    try:
        return Config.model_validate(raw, strict=True)
    except ValidationError as error:
        raise UserError("\n".join(f"{source(key)}{message}" for key, message in _explain(error))) from None
    except UserError as error:  # raised by a registry, which names the key itself, such as backbone.name
        raise UserError(f"{source(str(error).split(':')[0])}{error}") from None


def defaults_as_yaml() -> str:
    """Return the full default config, with a comment on every key; `load` reads it back as `Config()`."""
    return as_yaml(Config())


def as_yaml(config: Config) -> str:
    """Return the config as a YAML file with comments; `load` reads it back as the same value."""
    head = (
        "# Graftline's config. A key that a file leaves out keeps its default; `--set key=value` sets one.\n"
        "# Relative paths are relative to the current directory.\n"
    )
    return head + "".join(_section(config, ""))


# --- keys -------------------------------------------------------------------------------------------------------------


def _children(annotation: Any) -> dict[str, Any]:
    """Return the keys of a section with their types; empty for a value, and for keys of the user's choice."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    arguments = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):  # a section that may be null
        return next((children for children in map(_children, arguments) if children), {})
    if get_origin(annotation) is dict and get_origin(arguments[0]) is Literal:
        return dict.fromkeys(get_args(arguments[0]), arguments[1])
    return {}


def _under_free_keys(annotation: Any) -> Any:
    """Return the type of the sections under keys that the user chooses; None for other types."""
    arguments = get_args(annotation)
    return arguments[1] if get_origin(annotation) is dict and arguments[0] is str and _children(arguments[1]) else None


def _annotation(parts: Sequence[str]) -> Any:
    """Return the type of a key; None if the key is unknown or lies under keys that the user chooses."""
    annotation: Any = Config
    for part in parts:
        annotation = _children(annotation).get(part)
    return annotation


def all_keys(annotation: Any = Config, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of the config, sections included."""
    for name, child in _children(annotation).items():
        yield f"{prefix}{name}"
        yield from all_keys(child, f"{prefix}{name}.")


def _refuse_unknown(raw: Any, source: str, annotation: Any = Config, prefix: str = "", free: bool = False) -> None:
    """Raise UserError for the first key, at any depth, that the schema does not have.

    `free` says that the user chose a key above this one. The message then suggests no key from another place.
    """
    children = _children(annotation)
    if isinstance(raw, dict) and (section := _under_free_keys(annotation)):
        children, free = dict.fromkeys(raw, section), True
    if not isinstance(raw, dict) or not children:
        return
    for key, value in raw.items():
        if key not in children:
            if siblings := did_you_mean(str(key), list(children)):
                hint = siblings.replace("'", f"'{prefix}", 1)
            else:  # perhaps a known key in the wrong place
                others = {} if free else {key.rpartition(".")[2]: key for key in reversed(list(all_keys()))}
                near = difflib.get_close_matches(str(key), list(others), n=1, cutoff=0.75)
                hint = f"; did you mean '{others[near[0]]}'?" if near else f"; known here: {', '.join(children)}"
            raise UserError(f"{source}: unknown key '{prefix}{key}'{hint}")
        _refuse_unknown(value, source, children[key], f"{prefix}{key}.", free)


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    """Merge `over` into `base` key by key; an empty mapping replaces, so that `options: {}` clears the options."""
    for key, value in over.items():
        if isinstance(value, dict) and value and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _expand_home(raw: dict[str, Any], section: str, key: str) -> None:
    keys = raw.get(section) if section else raw
    if isinstance(keys, dict) and key in keys:
        value = keys[key]
        keys[key] = [_without_tilde(item) for item in value] if isinstance(value, list) else _without_tilde(value)


def _without_tilde(path: Any) -> Any:
    return str(pathlib.Path(path).expanduser()) if isinstance(path, str) and path.startswith("~") else path


def _override(text: str) -> tuple[str, Any]:
    """Parse `key=value`. The value of a key that needs text is taken as it is: paths may hold `#`."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"--set: '{text}' is not key=value, for example --set fine_tuning.epochs=5")
    annotation = _annotation(key.split("."))
    quoted = "'\"[" if annotation == str | list[str] | None else "'\""
    takes_text = annotation in (str, str | None, str | list[str] | None)
    if takes_text and value not in ("", "~", "null") and value[0] not in quoted:
        return key, value
    try:
        return key, yaml12.parse(value)
    except ValueError as error:
        raise UserError(f"--set: the value of {key} is not valid YAML: {error}") from None


# --- values -----------------------------------------------------------------------------------------------------------

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text (a number as a name goes in quotes)",
    "list_type": "a list",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "value_error": "{error}",
}


def _explain(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Yield the key and the message of each wrong value; one message for all members of a union."""
    wrong: dict[str, tuple[Any, list[str]]] = {}
    lists = [problem["loc"][0] for problem in error.errors() if "list[str]" in problem["loc"]]
    for problem in error.errors():
        loc = [str(part) for part in problem["loc"] if part != "list[str]"]
        if loc[-1] == "str" and loc[0] in lists and isinstance(problem["input"], list):
            continue  # another error names the wrong item of the list
        # pydantic's location ends with the member of the union that did not match
        if loc[-1] in ("int", "str", "float") or loc[-1].startswith(("literal[", "constrained-")):
            loc.pop()
        expected = _EXPECTED.get(problem["type"])
        text = expected.format(**problem.get("ctx", {})) if expected else problem["msg"]
        key = re.sub(r"\.(\d+)", r"[\1]", ".".join(loc))
        wrong.setdefault(key, (problem["input"], []))[1].append(text)
    for key, (value, expected_texts) in wrong.items():
        text = f"'{value}'" if isinstance(value, str) else "empty" if value == {} else yaml12.flow(value)
        yield key, f"{key} is {text}, but must be {' or '.join(dict.fromkeys(expected_texts))}"


def _non_finite(raw: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield keys that hold inf or nan: nan passes every bound, and a nan threshold neither blesses nor refuses."""
    if isinstance(raw, float) and not math.isfinite(raw):
        yield prefix, raw
    elif isinstance(raw, dict | list):
        items = raw.items() if isinstance(raw, dict) else enumerate(raw)
        for key, value in items:
            yield from _non_finite(value, f"{prefix}.{key}" if prefix else str(key))


# --- the config as a file ---------------------------------------------------------------------------------------------


def _comment(text: str, indent: str) -> str:
    return textwrap.fill(text, 118, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ") + "\n"


def _section(model: BaseModel, indent: str) -> Iterator[str]:
    """Yield the lines of one section: a comment and a value for each key, an empty line before each section."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield f"\n{_comment(field.description or section_description(type(value)), indent)}{indent}{name}:\n"
            yield from _section(value, indent + "  ")
        else:
            blank = "" if indent or name in ("images", "workspace", "seed") else "\n"
            yield f"{blank}{_comment(field.description or '', indent)}{indent}{name}: {yaml12.flow(to_plain(value))}\n"


def section_description(section: type[BaseModel]) -> str:
    """Return the first line of a section's docstring."""
    return (section.__doc__ or "").split("\n")[0]


def to_plain(value: Any) -> Any:
    """Return a value of the config as YAML has it, with a dict for each section in it."""
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value
