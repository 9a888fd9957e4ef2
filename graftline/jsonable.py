"""JSON without NaN and infinity, which the JSON standard does not have."""

import json
import math
from typing import Any


def finite(value: Any) -> Any:
    """Return `value` with None in place of NaN and infinity, at any depth of dicts, lists and tuples."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = None) -> str:
    """Return `finite(value)` as JSON text, on one line unless `indent` is given."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)
