"""The base class of every section of the config."""

from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError


class Settings(BaseModel):
    """A section of the config: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def check_value(name: str, value: Any, kind: Any, strict: bool = True) -> Any:
    """Return a value as pydantic makes it of a type; raise ValueError, which says what the value `name` must be.

    It is for keys that hold arguments of others' functions, which no field of a section stands for.
    """
    try:
        return TypeAdapter(kind).validate_python(value, strict=strict)
    except ValidationError as error:
        fault = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise ValueError(f"with a {name} that is {fault}") from None
