"""Names that look the same and are not: `café` in both Unicode forms, `Cats` and `cats`, a Cyrillic `а` in `cаt`.

Unicode Technical Standard 39 describes how such names are found: https://www.unicode.org/reports/tr39/#Confusable_Detection
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

# The small letters of Cyrillic and Greek that most fonts draw as Latin ones, or whose capitals they do; from the
# standard's confusables.txt.
_LATIN = str.maketrans(
    "авсеһніјкморԛѕтухԁԝ" + "αβεζηικμνορτυχϳ",
    "abcehhijkmopqstyxdw" + "abezhikmnoptyxj",
)


def skeleton(name: str) -> str:
    """Return a text that is the same for names that look alike: of other case, spaces, Unicode form or script."""
    visible = "".join(character for character in name if unicodedata.category(character) != "Cf")  # no zero-width ones
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())
    return " ".join(folded.translate(_LATIN).split())


def group(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of different names that look alike, each in the order of `names`."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[skeleton(name)].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def match(ours: Iterable[str], theirs: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of a name of ours and one of theirs that look alike, of the names that only one side has."""
    ours, theirs = set(ours), set(theirs)
    by_skeleton = {skeleton(name): name for name in sorted(theirs - ours)}
    return [(name, by_skeleton[key]) for name in sorted(ours - theirs) if (key := skeleton(name)) in by_skeleton]


def show(name: str) -> str:
    """Return the name in quotes, and after it its ASCII spelling where that shows what a reader cannot see."""
    spelled = name.encode("ascii", "backslashreplace").decode()
    return repr(name) if spelled == name else f"'{name}' ({spelled})"
