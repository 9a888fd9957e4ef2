"""Rollback: an earlier version becomes the newest again, and the model that it replaces is withdrawn.

Called by `graftline rollback`. The earlier model is published once more under the next number, for a server follows the
highest: nothing that clients are using is taken away. Standard library only, but for `models.config`.
"""

import datetime
from dataclasses import dataclass

from graftline.errors import UserError
from graftline.serving.versions import labels, withdrawals
from graftline.serving.versions.base_path import BasePath


@dataclass(frozen=True)
class RolledBack:
    """From which version to a copy of which, and the number, place and content digest that the copy has now.

    `withdrawn` is the digest of the model that was withdrawn; None when the rollback took an earlier one back.
    """

    before: int
    of: int
    version: int
    path: str
    digest: str
    withdrawn: str | None


def roll_back(base: BasePath, to: int | None = None) -> RolledBack:
    """Publish an earlier version as the newest, and withdraw the model that was the newest.

    Without `to` it is the last version whose content differs from the newest's and that was not rolled back from
    itself. With `to` it is that one; if it had been withdrawn, this takes that rollback back: its withdrawal ends, and
    nothing else is withdrawn.

    The withdrawal is written first: killed before the copy is there and called again, it comes to the same, and no
    moment leaves the model that was rolled back from where a rollback or a nightly run would take it up again. A `to`
    whose content is served but withdrawn, as a kill leaves it, is not published again: its withdrawal ends.

    Raises:
      UserError: no version, no such version, none to go back to, or `to` has the very content that is served.
    """
    with base.exclusive():
        versions = base.versions()
        if not versions:
            raise UserError(f"nothing to roll back: {base.path} holds no version; push a model first")
        newest = max(versions)
        served = base.digest(newest)
        target, digest = _earlier(base, newest, served) if to is None else _named(base, newest, served, to)
        undone = withdrawals.find(base, digest) is not None
        if digest == served:  # killed earlier, between the copy and the end of its withdrawal: only that is left
            withdrawals.reinstate(base, digest)
            labels.update(base, stable=newest, canary=newest)
            return RolledBack(newest, target, newest, versions[newest], digest, None)
        if not undone:
            now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            withdrawals.withdraw(base, served, withdrawals.Withdrawal(newest, target, now))
        with base.local(target) as folder:
            version = base.add(folder, digest)
        if undone:
            withdrawals.reinstate(base, digest)
        labels.update(base, stable=version, canary=version)
        return RolledBack(newest, target, version, base.versions()[version], digest, None if undone else served)


def _earlier(base: BasePath, newest: int, served: str) -> tuple[int, str]:
    gone = withdrawals.withdrawn(base)
    passed = []
    for version in sorted(base.versions(), reverse=True)[1:]:
        digest = base.digest(version)
        if digest != served and digest not in gone:
            return version, digest
        passed.append(f"{version} ({'the same model' if digest == served else 'itself rolled back from'})")
    others = f"; there is {', '.join(passed)}" if passed else " and it is the only one"
    raise UserError(
        f"nothing to go back to in {base.path}: version {newest} is served{others}; name one with --to VERSION, or "
        "train and push another model"
    )


def _named(base: BasePath, newest: int, served: str, to: int) -> tuple[int, str]:
    versions = base.versions()
    if to not in versions:
        known = ", ".join(str(version) for version in sorted(versions))
        raise UserError(f"--to {to}: {base.path} holds no such version; it holds {known}")
    digest = base.digest(to)
    if digest == served and withdrawals.find(base, digest) is None:
        same = "is the one that is served" if to == newest else f"is the model that is served, as version {newest}"
        raise UserError(f"--to {to}: version {to} {same}; name another, or leave --to out")
    return to, digest
