"""The layout of a data set: which file has which class, split and group, and whether a classifier can learn from it.

`scan` collects the `Contents` of the roots, and `judge` makes the `Layout` of them. Standard library only, no file is
opened: the command line imports this module before any heavy import.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from graftline import uri
from graftline.components.storage import files
from graftline.errors import UserError
from graftline.features import EVAL, SPLITS, TEST, TRAIN
from graftline.uri import is_uri

if TYPE_CHECKING:
    from graftline.components.image_example_gen.settings import IngestSettings

SPLIT_OF = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "eval", "dev"), EVAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
SPAN = re.compile(r"span-(\d+)")


class File(NamedTuple):
    """One file to read."""

    path: str  # relative to the layout's root, with "/" between its parts
    label: str
    split: str = ""  # "train", "eval" or "test" if the layout gives the split; "" if the content decides
    group: str = ""  # files of one group go to one split; "" is no group


@dataclass(frozen=True)
class Roots:
    """The folders or URIs of a layout, and the name of each at the beginning of its files' paths."""

    folders: tuple[str, ...]
    names: tuple[str, ...] = ("",)  # the paths under a single folder begin with no name

    def locate(self, path: str) -> str:
        """Return the path on disk, or the URI, of a file of the layout."""
        if self.names == ("",):
            return uri.join(self.folders[0], path)
        name, _, inside = path.partition("/")
        return uri.join(self.folders[self.names.index(name)], inside)

    @property
    def remote(self) -> bool:
        """Whether a root is a URI."""
        return any(map(is_uri, self.folders))

    def __str__(self) -> str:
        """Return the roots as a message names them."""
        return ", ".join(map(files.escape, self.folders))


@dataclass(frozen=True)
class Layout:
    """Everything under the roots, sorted. Paths are relative to a root; with several roots they begin with its name."""

    roots: Roots
    classes: tuple[str, ...]  # classes with at least one image, as far as names tell
    files: tuple[File, ...]  # regular files, and links to regular files inside the root
    refused: tuple[tuple[str, str, str], ...] = ()  # (escaped path, label, reason); these files must not be opened
    stray: tuple[str, ...] = ()  # images beside the class folders; they are reported and not ingested
    empty_classes: tuple[str, ...] = ()
    lookalikes: tuple[tuple[str, ...], ...] = ()  # class names that differ only by case or space
    notes: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """The root or roots, as a message names them."""
        return str(self.roots)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before a run, one sentence each."""
        warnings = list(self.notes)
        if self.stray:
            plural = "s" if len(self.stray) > 1 else ""
            warnings.append(
                f"{len(self.stray)} image{plural} beside the class folders of {self.root} will not be used, "
                f"first: {self.stray[0]}"
            )
        if self.empty_classes:
            names = ", ".join(map(repr, self.empty_classes))
            warnings.append(f"these class folders hold no images and will not be used: {names}")
        warnings += [
            f"these class names differ only by case or space and stay separate classes: {', '.join(map(repr, names))}"
            for names in self.lookalikes
        ]
        warnings += [f"{path}: {reason}" for path, label, reason in self.refused if not label]
        warnings += _warn_of_mixed_names(self.classes)
        return tuple(warnings)


@dataclass
class Contents:
    """What the roots hold, before it is judged as a whole.

    The split of a file is the name that its folder or the manifest gives: "valid" for example, not yet "eval".
    """

    files: list[File] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)  # of all class folders, also of the empty ones
    notes: list[str] = field(default_factory=list)

    def add(self, other: "Contents") -> None:
        """Add the contents of another root."""
        self.files += other.files
        self.refused += other.refused
        self.stray += other.stray
        self.labels |= other.labels
        self.notes += other.notes


def check_settings(folders: Sequence[str | os.PathLike[str]], settings: "IngestSettings") -> None:
    """Raise UserError if a manifest is given together with several folders or with spans."""
    if settings.manifest is not None and (len(folders) > 1 or settings.spans is not None):
        other = "data.spans" if settings.spans is not None else "several folders of images"
        raise UserError(
            f"data.manifest is {settings.manifest}, but a manifest needs a single folder of images and cannot be "
            f"combined with {other}"
        )


def judge(roots: Roots, contents: Contents, with_images: Collection[str]) -> Layout:
    """Make the layout of what the roots hold.

    Notes are added to `contents`. If there are no labels `with_images`, every label with a file is a class.

    Raises:
        UserError: the files cannot train and judge a classifier, because a second class, a second file of a class or
            a split is missing.
    """
    root = str(roots)
    ingested = _resolve_splits(root, contents)
    counts = Counter(file.label for file in ingested)
    classes = sorted(with_images or counts)
    _require_classes(root, classes, counts, ingested)
    return Layout(
        roots=roots,
        classes=tuple(classes),
        files=tuple(sorted(ingested)),
        refused=tuple(sorted(contents.refused)),
        stray=tuple(contents.stray),
        empty_classes=tuple(sorted(contents.labels.difference(classes))),
        lookalikes=_find_lookalikes(classes),
        notes=tuple(contents.notes),
    )


def _resolve_splits(root: str, contents: Contents) -> list[File]:
    """Return the files with "train", "eval" or "test" in place of their splits' names.

    A test split counts as the eval split if there is no other eval split. A train split alone is split by content.
    """
    names = {file.split for file in contents.files}
    given = {SPLIT_OF[name] for name in names if name}
    by_content = "" in names
    if given and TRAIN not in given and not by_content:
        raise UserError(
            f"{root} is already split, but has no images to train on: its splits are {', '.join(sorted(names))}; add a "
            "split called train, or give one folder per class and Graftline splits the images by content"
        )
    meaning = {"": "", **SPLIT_OF}
    if given == {TRAIN} and not by_content:
        contents.notes.append(
            f"{root} has only the split train: data.eval_fraction of its images, chosen by content, are held back to "
            "evaluate the model"
        )
        meaning = dict.fromkeys(meaning, "")
    elif EVAL not in given and not by_content:
        meaning = {name: EVAL if split == TEST else split for name, split in meaning.items()}
    return [file._replace(split=meaning[file.split]) for file in contents.files] if given else contents.files


def _require_classes(root: str, classes: list[str], counts: Counter[str], ingested: list[File]) -> None:
    if len(classes) == 1:
        (only,) = classes
        deeper = sorted(
            {path.split("/")[1] for path, *_ in ingested if path.startswith(f"{only}/") and path.count("/") > 1}
        )
        hint = f"; if the folders in it ({', '.join(deeper[:5])}) are the classes, give that folder" if deeper else ""
        raise UserError(
            f"{root} holds images of one class only, '{only}' ({counts[only]} files); "
            f"a classifier needs at least two classes with images{hint}"
        )
    lone = [label for label in classes if counts[label] < 2]
    if lone:
        raise UserError(
            f"{root}: class '{lone[0]}' has a single image{_and_others(lone)}; each class needs at least 2 images, "
            "one to train on and one to evaluate on: add images or remove the folder"
        )
    splits: dict[str, set[str]] = defaultdict(set)
    for file in ingested:
        splits[file.label].add(file.split)
    one_sided = [label for label in classes if "" not in splits[label] and not splits[label].issuperset(SPLITS)]
    if one_sided:
        raise UserError(
            f"{root}: class '{one_sided[0]}' has images only in {' and '.join(sorted(splits[one_sided[0]]))}"
            f"{_and_others(one_sided)}; each class needs images to train on and images to evaluate on: add images or "
            "remove the class"
        )


def _and_others(labels: list[str]) -> str:
    return f" (the same holds for {len(labels) - 1} other classes)" if len(labels) > 1 else ""


def _warn_of_mixed_names(classes: Sequence[str]) -> Iterator[str]:
    """Warn of classes with the names of splits or spans beside classes with other names."""
    for kind, names in (
        ("splits", [name for name in classes if name.casefold() in SPLIT_OF]),
        ("spans", [name for name in classes if SPAN.fullmatch(name)]),
    ):
        others = [name for name in classes if name not in names]
        if len(names) > 1 and others:
            yield (
                f"the folders {', '.join(map(repr, names))} have names of {kind}, but are used as classes because of "
                f"the folder {others[0]!r} beside them: if they are {kind}, move that folder elsewhere"
            )


def _find_lookalikes(labels: list[str]) -> tuple[tuple[str, ...], ...]:
    groups = defaultdict(list)
    for label in labels:
        groups[" ".join(label.casefold().split())].append(label)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
