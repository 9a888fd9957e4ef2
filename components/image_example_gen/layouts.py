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

from graftline import lookalikes, uri
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
    lookalikes: tuple[tuple[str, ...], ...] = ()  # class names that look alike, see `graftline.lookalikes`
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
            f"these class names look alike and are separate classes: {', '.join(map(lookalikes.show, names))}; if they "
            "are one class, give their folders, or their labels in the manifest, one name"
            for names in self.lookalikes
        ]
        warnings += [f"{path}: {reason}" for path, label, reason in self.refused if not label]
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
    inner: dict[str, set[str]] = field(default_factory=dict)  # names of the folders directly in each class folder
    left_out: list[str] = field(default_factory=list)  # folders that hold images and are left out by their names
    missing: str = ""  # how many files of a manifest are left out, and the first

    def add(self, other: "Contents") -> None:
        """Add the contents of another root."""
        self.files += other.files
        self.refused += other.refused
        self.stray += other.stray
        self.labels |= other.labels
        self.notes += other.notes
        for label, names in other.inner.items():
            self.inner.setdefault(label, set()).update(names)
        self.left_out += other.left_out

    def causes(self, classes: Collection[str], label: str = "") -> str:
        """Return a clause that says what was left out: of one class, or if `label` is "" of all but `classes`."""
        refused = [entry for entry in self.refused if (entry[1] == label if label else entry[1] not in classes)]
        causes = [self.missing] if self.missing else []
        if refused and not causes:
            more = f" and {len(refused) - 1:,} more" if len(refused) > 1 else ""
            causes.append(f"{refused[0][0]} is left out ({refused[0][2]}){more}")
        if not label:
            refused_labels = {entry[1] for entry in refused}
            empty = sorted(self.labels.difference(classes, refused_labels))
            causes += [f"the folder {empty[0]!r} holds no images"] if empty else []
            causes += [f"{self.left_out[0]!r} is left out because of its name"] if self.left_out else []
            stray = len(self.stray)
            causes += [f"{stray:,} image{'s lie' if stray > 1 else ' lies'} beside the class folders"] if stray else []
        return "".join(f"; {cause}" for cause in causes)


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
    _require_classes(root, classes, contents, ingested)
    return Layout(
        roots=roots,
        classes=tuple(classes),
        files=tuple(sorted(ingested)),
        refused=tuple(sorted(contents.refused)),
        stray=tuple(contents.stray),
        empty_classes=tuple(sorted(contents.labels.difference(classes))),
        lookalikes=tuple(lookalikes.group(classes)),
        notes=(*contents.notes, *_note_untested(classes, ingested)),
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


def _note_untested(classes: Sequence[str], ingested: Sequence[File]) -> Iterator[str]:
    """Yield a note on classes that a test split lacks."""
    tested = {file.label for file in ingested if file.split == TEST}
    if tested and (untested := [label for label in classes if label not in tested]):
        more = f" and {len(untested) - 5} more" if len(untested) > 5 else ""
        yield (
            f"the split test has no images of {', '.join(map(repr, untested[:5]))}{more}: the model is not judged on "
            "them"
        )


def _require_classes(root: str, classes: list[str], contents: Contents, ingested: list[File]) -> None:
    counts = Counter(file.label for file in ingested)
    if len(classes) == 1:
        (only,) = classes
        deeper = sorted(contents.inner.get(only, ()))
        hint = f"; if the folders in it ({', '.join(deeper[:5])}) are the classes, give that folder" if deeper else ""
        raise UserError(
            f"{root} holds images of one class only, '{only}' ({counts[only]} files); "
            f"a classifier needs at least two classes with images{hint}{contents.causes(classes)}"
        )
    lone = [label for label in classes if counts[label] < 2]
    if lone:
        raise UserError(
            f"{root}: class '{lone[0]}' has a single image{_and_others(lone)}; each class needs at least 2 images, "
            f"one to train on and one to evaluate on: add images or remove the folder{contents.causes((), lone[0])}"
        )
    splits: dict[str, set[str]] = defaultdict(set)
    for file in ingested:
        splits[file.label].add(file.split)
    one_sided = [label for label in classes if "" not in splits[label] and not splits[label].issuperset(SPLITS)]
    if one_sided:
        raise UserError(
            f"{root}: class '{one_sided[0]}' has images only in {' and '.join(sorted(splits[one_sided[0]]))}"
            f"{_and_others(one_sided)}; each class needs images to train on and images to evaluate on: add images or "
            f"remove the class{contents.causes((), one_sided[0])}"
        )


def _and_others(labels: list[str]) -> str:
    return f" (the same holds for {len(labels) - 1} other classes)" if len(labels) > 1 else ""
