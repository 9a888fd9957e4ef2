"""The push: a new numbered version under a TF Serving base path, seen whole or not at all.

Called by the Pusher; `serving.versions.rollback` shares its parts. Standard library only, but for `models.config`.
"""

import os
from dataclasses import dataclass

from graftline.errors import UserError
from graftline.serving.versions import labels, withdrawals
from graftline.serving.versions.base_path import BasePath, Disk, content_digest
from graftline.serving.versions.locate import SAVED_MODEL

__all__ = ["Published", "content_digest", "publish", "push"]


@dataclass(frozen=True)
class Published:
    """What a push came to: the version that now holds the model, its directory, and whether this push added it."""

    version: int
    path: str
    new: bool


def publish(saved_model_dir: str, base_path: str, keep: int | None = None, allow_withdrawn: bool = False) -> Published:
    """`push` to a folder on disk, which is made if need be. Raises UserError also when `base_path` is a URI."""
    return push(saved_model_dir, Disk(base_path), keep, allow_withdrawn)


def push(saved_model_dir: str, base: BasePath, keep: int | None = None, allow_withdrawn: bool = False) -> Published:
    """Push a SavedModel as the next version under `base`.

    When the highest version there has the same bytes under the same names, none is added and `new` is False.
    A reader sees the new version whole or not at all, also if this process is killed. Several pushers may call at
    once: they take turns (on a disk; an object store has no locks and wants one pusher at a time).

    Args:
      saved_model_dir: on disk.
      base: where to.
      keep: so many versions stay, the newest, and those that `models.config` names; None: all.
      allow_withdrawn: push also a model that was rolled back from, which takes its withdrawal back.

    Raises:
      UserError: `saved_model_dir` holds no SavedModel.
      WithdrawnError: the model was rolled back from.
      RuntimeError: the model changes while it is being copied.
      OSError: disk full, permission; nothing is pushed.
    """
    if keep is not None and keep < 1:
        raise ValueError(f"keep={keep}: at least the newest version is kept")
    if not os.path.isfile(os.path.join(saved_model_dir, SAVED_MODEL)):
        raise UserError(f"nothing to push: {saved_model_dir} holds no {SAVED_MODEL}; name the folder of a SavedModel")
    digest = content_digest(saved_model_dir)
    with base.exclusive():
        withdrawal = withdrawals.find(base, digest)
        if withdrawal and not allow_withdrawn:
            raise withdrawals.WithdrawnError(
                f"not pushed: {withdrawal}; train another, or allow it with --set push.allow_withdrawn=true"
            )
        highest = base.highest_number()
        new = highest not in base.versions() or base.digest(highest) != digest
        if new:
            highest = base.add(saved_model_dir, digest)
        if withdrawal:
            withdrawals.reinstate(base, digest)
        if labels.canary(base) != highest:  # also after a push that was killed just before this
            labels.update(base, stable=_stable(base, highest), canary=highest)
        if keep is not None:
            _retain(base, keep)
        return Published(highest, base.versions()[highest], new)


def _retain(base: BasePath, keep: int) -> None:
    """Remove all but the `keep` highest versions and those that `models.config` names, which a server may hold."""
    pinned = labels.pinned(base)
    if pinned is None:
        return
    for version in sorted(base.versions())[:-keep]:
        if version not in pinned:
            base.remove(version)


def _stable(base: BasePath, newest: int) -> int:
    """The version that was served before the newest, passing over those that were rolled back from.

    The newest itself when there is none, or when it has the content of an earlier one, as after a rollback.
    """
    gone, newest_digest = withdrawals.withdrawn(base), base.digest(newest)
    for version in sorted(base.versions(), reverse=True)[1:]:
        digest = base.digest(version)
        if digest == newest_digest:
            return newest
        if digest not in gone:
            return version
    return newest
