"""Secrets in options and in the environment: kept out of logs and of compiled pipelines.

Standard library only.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import zip_longest

_SECRET = (
    r"(?:secret|token|passw|passphrase|(?<=[_-])pwd|credential|connection[_-]?string|authorization"
    r"|(?<!kms[_-])key(?!_name))"
)
_NAME = re.compile(_SECRET, re.IGNORECASE)
# `--name=value` and `--name value`; also in JSON and in text protos, where quotes or a backslash end the value.
_FLAG = re.compile(rf"(--[\w-]{{0,60}}{_SECRET}[\w-]{{0,60}}(?:=|\s+))[^\s\"'\\]+", re.IGNORECASE)
# `AccountKey=value` of connection strings and of URLs, and JSON. Short values, such as `tokens=77`, are figures.
_FIELD = re.compile(
    r"((?:(?:secret|token|passw|(?:api|access|account)[_-]?key|(?:amz|goog)-signature)[\w-]{0,60}|[?&]sig)"
    r"(?:=|[\"']\s*:\s*[\"']))[^\s\"'&;,\\]{8,}",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|token)\s+)?)[^\s\"',;]+", re.IGNORECASE)
# `user:password@`, or a long name without a password, which is a token. A password may hold an unescaped `@`.
_URL = re.compile(r"(://[^/\s:@\"']*:(?=[^/\s\"'@])|://(?=[\w.%~-]{20,}:?@))[^/\s\"']+@")
_MASK = "***"
_SHORTEST = 8  # characters of a secret of the environment; to mask "1" or "true" everywhere would spoil the log


def secret_flags(options: Sequence[str]) -> list[str]:
    """Return the names of the flags in Beam's options that hold a secret, by their names."""
    names = (option.partition("=")[0] for option in options if option.startswith("-"))
    return [name for name in names if _NAME.search(name)]


def secret_values(options: Sequence[str], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the secrets in Beam's options and in the environment, the longest first.

    A path, such as that of GOOGLE_APPLICATION_CREDENTIALS, is no secret, and messages about it need it.
    """
    values = {*_flag_values(options)}
    named = {value for name, value in environment.items() if _NAME.search(name) and len(value) >= _SHORTEST}
    values |= {value for value in named if not (os.path.isabs(value) and os.path.exists(value))}
    return sorted(filter(None, values), key=len, reverse=True)


def _flag_values(options: Sequence[str]) -> Iterator[str]:
    for option, following in zip_longest(options, options[1:], fillvalue=""):
        name, equals, value = option.partition("=")
        if name.startswith("-") and _NAME.search(name):
            yield value if equals else "" if following.startswith("-") else following


def mask(text: str, values: Collection[str] = ()) -> str:
    """Return a text without these values, and without the secrets in flags, headers, fields and URLs."""
    for value in values:
        text = text.replace(value, _MASK)
    for pattern in (_FLAG, _HEADER, _FIELD):
        text = pattern.sub(rf"\1{_MASK}", text)
    return _URL.sub(rf"\1{_MASK}@", text)
