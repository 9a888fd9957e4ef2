"""Secrets in options and in the environment: kept out of logs and of compiled pipelines.

Standard library only.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import zip_longest

_SECRET = r"(?:secret|token|passw|credential|connection_string|apikey|(?<!kms_)key(?!_name))"
_NAME = re.compile(_SECRET, re.IGNORECASE)
# `--name=value` and `--name value`; also in JSON and in text protos, where quotes or a backslash end the value.
_FLAG = re.compile(rf"(--[\w-]*{_SECRET}[\w-]*(?:=|\s+))[^\s\"'\\]+", re.IGNORECASE)
_URL = re.compile(r"(://[^/\s:@\"']*:)[^/\s@\"']+@")
_MASK = "***"
_SHORTEST = 8  # characters of a secret of the environment; to mask "1" or "true" everywhere would spoil the log


def secret_flags(options: Sequence[str]) -> list[str]:
    """Return the names of the flags in Beam's options that hold a secret, by their names."""
    names = (option.partition("=")[0] for option in options if option.startswith("-"))
    return [name for name in names if _NAME.search(name)]


def secret_values(options: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the secrets in Beam's options and in the environment, the longest first."""
    values = {*_flag_values(options)}
    values |= {value for name, value in environment.items() if _NAME.search(name) and len(value) >= _SHORTEST}
    return sorted(filter(None, values), key=len, reverse=True)


def _flag_values(options: Sequence[str]) -> Iterator[str]:
    for option, following in zip_longest(options, options[1:], fillvalue=""):
        name, equals, value = option.partition("=")
        if name.startswith("-") and _NAME.search(name):
            yield value if equals else "" if following.startswith("-") else following


def mask(text: str, values: Collection[str] = ()) -> str:
    """Return a text without these values, the values of flags that hold secrets, and the passwords in URLs."""
    for value in values:
        text = text.replace(value, _MASK)
    return _URL.sub(rf"\1{_MASK}@", _FLAG.sub(rf"\1{_MASK}", text))
