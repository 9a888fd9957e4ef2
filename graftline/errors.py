"""The errors that a user sees. Raised by any room; `pipeline.cli` turns them into one line and an exit status."""


class UserError(Exception):
    """A mistake in what the user gave: usage, config or data. Shown as one message without traceback; exit status 2.

    The message names the thing at fault (file or key), what was found, and what to do.
    """


def did_you_mean(found: str, known: "list[str] | tuple[str, ...]") -> str:
    """`"; did you mean 'x'?"` for the known name nearest to `found`, or `""` when none is near."""
    import difflib

    near = difflib.get_close_matches(found, known, n=1, cutoff=0.5)
    if not near:
        folded = {name.lower(): name for name in known}
        near = [folded[hit] for hit in difflib.get_close_matches(found.lower(), list(folded), n=1, cutoff=0.5)]
    return f"; did you mean '{near[0]}'?" if near else ""
