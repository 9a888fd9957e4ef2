"""What error messages repeat of a client's JSON: at most 1,024 characters, whatever the value.

Only the characters that a message repeats are written. The words are those of RapidJSON, which TF Serving uses.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import rapidjson

from graftline.serving.server.http.json_answers import decimals
from graftline.serving.server.http.json_numbers import NUMBER_MODE, Numbers

_SHOWN = 1024


def cut(text: str) -> str:
    """Return a client's text as a message repeats it. Long texts are cut."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def show(value: Any) -> str:
    """Return a value as RapidJSON's PrettyWriter writes it. Long values are cut."""
    if isinstance(value, float):
        single = abs(value) <= 3.4028234e38
        return decimals(np.array([value], np.float32 if single else np.float64))[0]
    text = ""
    for part in _write(value, "\n"):
        text += part
        if len(text) > _SHOWN:
            break
    return cut(text)


def _write(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for place, (name, content) in enumerate(value.items()):
            yield f"{',' if place else ''}{indent}    {_write_scalar(name)}: "
            yield from _write(content, indent + "    ")
        yield indent + "}" if value else "}"
    elif isinstance(value, list | Numbers):
        yield "["
        for place, content in enumerate(value):
            yield f"{',' if place else ''}{indent}    "
            yield from _write(content, indent + "    ")
        yield indent + "]" if len(value) else "]"
    else:
        yield _write_scalar(value)


def _write_scalar(value: Any) -> str:
    if isinstance(value, str):
        # Half a surrogate pair stands for a byte that is not UTF-8.
        value = value[: _SHOWN + 1].encode("utf-8", "replace").decode()
    return str(rapidjson.dumps(value, number_mode=NUMBER_MODE, ensure_ascii=False))


def type_of(value: Any) -> str:
    """Return RapidJSON's name for the type of a value."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    kinds: dict[type, str] = {dict: "Object", list: "Array", Numbers: "Array", str: "String"}
    return kinds.get(type(value), "Number")
