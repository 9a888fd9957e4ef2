"""Models that were rolled back from: they are not served again unless somebody says so.

A withdrawal is a small file `<base path>/.withdrawn/<digest of the model's content>`. It is kept with the versions, and
not in ML Metadata alone, for Vertex lets nobody edit that. The Pusher, the serving validation before the gate and the
warm start look here. Standard library only.
"""

import json
import re
from dataclasses import asdict, dataclass

from graftline.errors import UserError
from graftline.serving.versions.base_path import BasePath
from graftline.withdrawn import FOLDER

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Withdrawal:
    """Which version was rolled back from, to which one, and when (ISO 8601, UTC)."""

    version: int
    replaced_by: int
    time: str

    def __str__(self) -> str:
        back = f"rolled back from, to version {self.replaced_by}, on {self.time}"
        return f"this very model was version {self.version} and was {back}"


class WithdrawnError(UserError):
    """A push of a model that was rolled back from."""


def _file(base: BasePath, digest: str) -> str:
    return f"{base.path}/{FOLDER}/{digest}"


def withdrawn(base: BasePath) -> set[str]:
    """Digests of all models that were withdrawn."""
    return {name for name in base.names(f"{base.path}/{FOLDER}") if _DIGEST.fullmatch(name)}


def find(base: BasePath, digest: str) -> Withdrawal | None:
    """The withdrawal of the model with this digest; None when there is none. Raises UserError for a broken file."""
    content = base.read(_file(base, digest))
    if content is None:
        return None
    try:
        told = json.loads(content)
        return Withdrawal(told["version"], told["replaced_by"], told["time"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{_file(base, digest)} says that a model was rolled back from, but is no withdrawal that Graftline wrote: "
            "remove it if the model may be served again, or else put back what was in it"
        ) from error


def withdraw(base: BasePath, digest: str, withdrawal: Withdrawal) -> None:
    """Withdraw a model; the caller holds the base path."""
    base.write(_file(base, digest), json.dumps(asdict(withdrawal)).encode())


def reinstate(base: BasePath, digest: str) -> None:
    """Take a withdrawal back; the caller holds the base path."""
    base.delete(_file(base, digest))
