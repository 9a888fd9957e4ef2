"""Push a model: a new numbered version under a TF Serving base path, which readers see complete or not at all.

The Pusher calls it. Standard library only, except for `models.config`.
"""

import os
from dataclasses import dataclass

from graftline.errors import UserError
from graftline.serving.versions import labels, withdrawals
from graftline.serving.versions.base_path import BasePath, content_digest
from graftline.serving.versions.locate import SAVED_MODEL


@dataclass(frozen=True)
class Published:
    """The outcome of a push: the version that now holds the model, its folder, and whether this push added it."""

    version: int
    path: str
    new: bool


def push(saved_model_dir: str, base: BasePath, keep: int | None = None, allow_withdrawn: bool = False) -> Published:
    """Push a SavedModel as the next version under `base`.

    When the highest version has the same bytes under the same names, none is added and `new` is False. A reader sees
    the new version complete or not at all, also if this process is killed. On a disk, several pushers take turns. An
    object store has no locks, so only one pusher at a time may use it.

    Args:
      saved_model_dir: the model's folder, on disk.
      base: where to push.
      keep: how many of the newest versions stay, besides those that `models.config` names; None keeps all.
      allow_withdrawn: also push a model that was rolled back from, and end its withdrawal.

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
                f"not pushed: {withdrawal}; train another model, or allow this one with --set push.allow_withdrawn=true"
            )
        highest = base.highest_number()
        new = highest not in base.versions() or base.digest(highest) != digest
        if new:
            highest = base.add(saved_model_dir, digest)
        if withdrawal:
            withdrawals.reinstate(base, digest)
        if labels.canary_version(base) != highest:  # an earlier push may have been killed before it set them
            labels.update(base, stable=_stable(base, highest), canary=highest)
        if keep is not None:
            _retain(base, keep)
        return Published(highest, base.versions()[highest], new)


def _retain(base: BasePath, keep: int) -> None:
    """Remove all but the `keep` highest versions and those that `models.config` names: a server may use them."""
    pinned = labels.pinned_versions(base)
    if pinned is None:
        return
    for version in sorted(base.versions())[:-keep]:
        if version not in pinned:
            base.remove(version)


def _stable(base: BasePath, newest: int) -> int:
    """Return the version that was served before the newest, without those that were rolled back from.

    Returns the newest itself when there is no other, or when it has an earlier one's content, as after a rollback.
    """
    withdrawn, newest_digest = withdrawals.withdrawn(base), base.digest(newest)
    for version in sorted(base.versions(), reverse=True)[1:]:
        digest = base.digest(version)
        if digest == newest_digest:
            return newest
        if digest not in withdrawn:
            return version
    return newest
