"""The error that a user sees. Any room raises it; `pipeline.command` turns it into one line and an exit status."""


class UserError(Exception):
    """A mistake in the user's input: usage, config or data. It is shown as one message without traceback; status 2.

    The message names the file or key at fault, what it holds, and what to do.
    """


def not_installed(package: str, extra: str) -> UserError:
    """Return the error that a package of an optional installation is missing. No package index has a release yet."""
    pinned = "-c constraints.txt " if extra == "pipeline" else ""
    command = f"pip install {pinned}'.[{extra}]'"
    return UserError(f"this needs {package}, which is not installed: run `{command}` in Graftline's repository")


def did_you_mean(name: str, known: "list[str] | tuple[str, ...]") -> str:
    """Return `"; did you mean 'x'?"` for the known name nearest to `name`, or `""` if none is near."""
    import difflib

    if not (near := difflib.get_close_matches(name, known, n=1, cutoff=0.5)):
        by_lower_case = {candidate.lower(): candidate for candidate in known}
        matches = difflib.get_close_matches(name.lower(), list(by_lower_case), n=1, cutoff=0.5)
        near = [by_lower_case[match] for match in matches]
    return f"; did you mean '{near[0]}'?" if near else ""
