"""Withdrawals: models that were rolled back from, and are not served again unless a user allows it.

A withdrawal is a small file `<base path>/.withdrawn/<digest of the model's content>`. It lies with the versions, and
not in ML Metadata alone, since Vertex does not let anyone edit that. The Pusher, the serving validation before the gate
and the warm start read it. Standard library only.
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
        """Return a sentence for a user."""
        back = f"rolled back from, to version {self.replaced_by}, on {self.time}"
        return f"this very model was version {self.version} and was {back}"


class WithdrawnError(UserError):
    """A push of a model that was rolled back from."""


def _file(base: BasePath, digest: str) -> str:
    return f"{base.path}/{FOLDER}/{digest}"


def withdrawn(base: BasePath) -> set[str]:
    """Return the digests of all withdrawn models."""
    return {name for name in base.names(f"{base.path}/{FOLDER}") if _DIGEST.fullmatch(name)}


def find(base: BasePath, digest: str) -> Withdrawal | None:
    """Return the withdrawal of the model with this digest, or None. Raises UserError for a damaged file."""
    content = base.read(_file(base, digest))
    if content is None:
        return None
    try:
        fields = json.loads(content)
        return Withdrawal(fields["version"], fields["replaced_by"], fields["time"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{_file(base, digest)} marks a model that was rolled back from, but Graftline did not write its content: "
            "remove the file if the model may be served again, or restore its content"
        ) from error


def withdraw(base: BasePath, digest: str, withdrawal: Withdrawal) -> None:
    """Withdraw a model. The caller holds the base path's lock."""
    base.write(_file(base, digest), json.dumps(asdict(withdrawal)).encode())


def reinstate(base: BasePath, digest: str) -> None:
    """End a withdrawal. The caller holds the base path's lock."""
    base.delete(_file(base, digest))
