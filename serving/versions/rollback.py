"""Roll back: an earlier version becomes the newest again, and the model that it replaces is withdrawn.

`graftline rollback` calls it. The earlier model is pushed again under the next number, since a server serves the
highest. No version that clients use is removed. Standard library only, except for `models.config`.
"""

import datetime
from dataclasses import dataclass

from graftline.errors import UserError
from graftline.serving.versions import labels, withdrawals
from graftline.serving.versions.base_path import BasePath


@dataclass(frozen=True)
class RolledBack:
    """The outcome of a rollback."""

    before: int  # the version that was the newest
    of: int  # the version that was copied
    version: int  # the copy's number
    path: str  # the copy's folder or URI
    digest: str  # of the copy's content
    withdrawn: str | None  # the digest of the withdrawn model; None when this rollback ended an earlier one


def roll_back(base: BasePath, to: int | None = None) -> RolledBack:
    """Publish an earlier version as the newest, and withdraw the model that was the newest.

    The withdrawal is written before the copy. So a rollback that is killed can be repeated, and at no moment can
    another rollback or a nightly run take the bad model up again. If `to` is served but withdrawn, as after a kill, it
    is not published again: its withdrawal ends.

    Args:
      base: where the versions lie.
      to: the version to go back to. If it was withdrawn, this rollback ends an earlier one: its withdrawal ends, and no
        other model is withdrawn. None stands for the last version that was not withdrawn and differs from the newest.

    Raises:
      UserError: no version, no such version, none to go back to, or `to` has the very content that is served.
    """
    with base.exclusive():
        versions = base.versions()
        if not versions:
            raise UserError(f"nothing to roll back: {base.path} holds no version; push a model first")
        newest = max(versions)
        served = base.digest(newest)
        target, digest = _find_earlier(base, newest, served) if to is None else _find_named(base, newest, served, to)
        is_undo = withdrawals.find(base, digest) is not None
        if digest == served:  # an earlier rollback was killed before it ended the withdrawal
            withdrawals.reinstate(base, digest)
            labels.update(base, stable=newest, canary=newest)
            return RolledBack(newest, target, newest, versions[newest], digest, None)
        if not is_undo:
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            withdrawals.withdraw(base, served, withdrawals.Withdrawal(newest, target, now))
        with base.local(target) as folder:
            version = base.add(folder, digest)
        if is_undo:
            withdrawals.reinstate(base, digest)
        labels.update(base, stable=version, canary=version)
        return RolledBack(newest, target, version, base.versions()[version], digest, None if is_undo else served)


def _find_earlier(base: BasePath, newest: int, served: str) -> tuple[int, str]:
    withdrawn = withdrawals.withdrawn(base)
    skipped = []
    for version in sorted(base.versions(), reverse=True)[1:]:
        digest = base.digest(version)
        if digest != served and digest not in withdrawn:
            return version, digest
        skipped.append(f"{version} ({'the same model' if digest == served else 'itself rolled back from'})")
    others = f"; there is {', '.join(skipped)}" if skipped else " and it is the only one"
    advice = "name one with --to VERSION, or train" if skipped else "train"
    raise UserError(
        f"nothing to go back to in {base.path}: version {newest} is served{others}; {advice} and push another model"
    )


def _find_named(base: BasePath, newest: int, served: str, to: int) -> tuple[int, str]:
    versions = base.versions()
    if to not in versions:
        numbers = ", ".join(str(version) for version in sorted(versions))
        raise UserError(f"--to {to}: {base.path} holds no such version; it holds {numbers}")
    digest = base.digest(to)
    if digest == served and withdrawals.find(base, digest) is None:
        same = "is the one that is served" if to == newest else f"is the model that is served, as version {newest}"
        raise UserError(f"--to {to}: version {to} {same}; name another, or leave --to out")
    return to, digest
