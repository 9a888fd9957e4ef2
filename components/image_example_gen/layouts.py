"""Which image is of which class, and in which split if that is given: told from how the files lie, or from a table.

Called by the command line before any heavy import. Standard library only, but for Beam where the images are at a URI.
The layouts, told apart by what is there:
  <class>/**                    the class folders; the split follows from the content
  train|val|test/<class>/**     split already
  span-<n>/...                  data that arrives in portions, each laid out in either of these ways
  a CSV file                    `manifest`
Several folders add up. Folders that mix these names with others, such as `train` and `cats`, are classes.
"""

import hashlib
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from graftline import uri
from graftline.components.image_example_gen import manifest
from graftline.components.storage import files, listing
from graftline.components.storage.listing import Disk, Objects, Tree
from graftline.errors import UserError
from graftline.features import EVAL, SPLITS, TEST, TRAIN
from graftline.uri import is_uri

if TYPE_CHECKING:
    from graftline.components.image_example_gen.settings import IngestSettings

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".avif")
_SPLIT_OF = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "eval", "dev"), EVAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
_SPAN = re.compile(r"span-(\d+)")
_LOOKED_AT = 200  # files opened before the heavy imports, where opening one is a request
_SNIFFED = 20  # files of a class without an image's name
_ONE_FOLDER_EACH = "put the images in one folder per class, such as {root}/cats/1.jpg and {root}/dogs/2.jpg"
_GIVE_FOLDER = "give the folder that holds one folder of images per class"


class File(NamedTuple):
    """One file that is to be read. `path` is relative to the layout's root, with "/" between its parts."""

    path: str
    label: str
    split: str = ""  # "train", "eval" or "test" where the layout decides it; "" leaves it to the content
    group: str = ""  # files of one group go to one split; "" is no group


@dataclass(frozen=True)
class Roots:
    """The folders or URIs of a layout, and what stands for each at the beginning of its files' paths."""

    folders: tuple[str, ...]
    names: tuple[str, ...] = ("",)  # a single folder's files need none

    def locate(self, path: str) -> str:
        """Where the file of this path lies: a path on disk, or a URI."""
        if self.names == ("",):
            return uri.join(self.folders[0], path)
        name, _, inside = path.partition("/")
        return uri.join(self.folders[self.names.index(name)], inside)

    @property
    def remote(self) -> bool:
        """Whether one of them is a URI."""
        return any(map(is_uri, self.folders))

    def __str__(self) -> str:
        return ", ".join(map(files.escape, self.folders))


@dataclass(frozen=True)
class Layout:
    """Everything found, sorted. Paths are relative to a root, and with several roots begin with its name."""

    roots: Roots
    classes: tuple[str, ...]  # those with at least one image, as far as names tell
    files: tuple[File, ...]  # regular files, or links to such inside the root
    refused: tuple[tuple[str, str, str], ...] = ()  # (path, label, reason); not to be opened; the path is escaped
    stray: tuple[str, ...] = ()  # images beside the class folders: reported, not ingested
    empty_classes: tuple[str, ...] = ()
    lookalikes: tuple[tuple[str, ...], ...] = ()  # class names that differ by case or space alone
    notes: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """The root, or the roots, as a message names them."""
        return str(self.roots)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should hear of before a run, a sentence each."""
        told = list(self.notes)
        if self.stray:
            told.append(
                f"left out, as they lie beside the class folders of {self.root}: {len(self.stray)} image"
                f"{'s' * (len(self.stray) > 1)}, first: {self.stray[0]}"
            )
        if self.empty_classes:
            told.append(f"class folders without images are left out: {', '.join(map(repr, self.empty_classes))}")
        told += [
            f"class names differ only by case or space: {', '.join(map(repr, names))}; they stay separate classes"
            for names in self.lookalikes
        ]
        told += [f"{path}: {reason}" for path, label, reason in self.refused if not label]
        told += _half_a_layout(self.classes)
        return tuple(told)


@dataclass
class _Gathered:
    """What the roots hold, before it is judged as a whole. A file's `split` is still as its folder is called."""

    files: list[File] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)  # of all class folders, the empty ones too
    notes: list[str] = field(default_factory=list)

    def add(self, other: "_Gathered") -> None:
        self.files += other.files
        self.refused += other.refused
        self.stray += other.stray
        self.labels |= other.labels
        self.notes += other.notes


def scan(
    root: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], settings: "IngestSettings | None" = None
) -> Layout:
    """Find the classes and files. Opens no file, but the manifest, and a few of a class without an image's name.

    Args:
        root: a folder or a URI; or several, whose classes add up.
        settings: `manifest` and `spans` are read.

    Raises:
        UserError: the root is missing, a file, empty, flat or unreadable; it can't train and judge a classifier, for
            want of a second class, of two files of a class, or of a split; or the manifest has a mistake.
    """
    folders = [root] if isinstance(root, str | os.PathLike) else list(root)
    if settings is not None:
        check_settings(folders, settings)
    roots = _resolve(folders)
    shown = str(roots)
    table = settings.manifest if settings else None
    spans = settings.spans if settings else None
    if table is not None:
        gathered = _gather_table(roots.folders[0], table)
    else:
        gathered = _Gathered()
        for folder, name in zip(roots.folders, roots.names, strict=True):
            gathered.add(_gather_folders(folder, name, spans))
    found = _with_splits(shown, gathered)
    counts = Counter(file.label for file in found)
    classes = sorted(_with_images(roots, found) or counts)
    _require_classes(shown, classes, counts, found)
    return Layout(
        roots=roots,
        classes=tuple(classes),
        files=tuple(sorted(found)),
        refused=tuple(sorted(gathered.refused)),
        stray=tuple(gathered.stray),
        empty_classes=tuple(sorted(gathered.labels.difference(classes))),
        lookalikes=_lookalikes(classes),
        notes=tuple(gathered.notes),
    )


def check_settings(folders: Sequence[str | os.PathLike[str]], settings: "IngestSettings") -> None:
    """Raises UserError for settings that no folder can suit. Looks at no file."""
    if settings.manifest is not None and (len(folders) > 1 or settings.spans is not None):
        other = "data.spans" if settings.spans is not None else "several folders of images"
        raise UserError(
            f"data.manifest is {settings.manifest}, which goes with one folder of images and not with {other}"
        )


def check_decodable(layout: Layout) -> None:
    """Refuse a folder in which no file begins like an image, before anybody waits for the heavy imports.

    Of files at a URI some hundreds are tried, from all classes.

    Raises:
        UserError: not one file begins with the magic bytes of an image.
    """
    first = ""
    step = -(-len(layout.files) // _LOOKED_AT) if layout.roots.remote else 1
    for path, *_ in layout.files[::step]:
        try:
            head = files.head(layout.roots.locate(path))
        except OSError as error:
            first = first or f"{path} (unreadable: {error.strerror})"
            continue
        if files.sniff(head) in files.READABLE:
            return
        first = first or f"{path} (starts with {head[:12]!r})"
    tried = "of those that were tried " if step > 1 else ""
    raise UserError(
        f"none {tried}of the {len(layout.files)} files under {layout.root} is an image that can be decoded, first: "
        f"{first}; give JPEG, PNG, GIF, BMP, WebP or TIFF files"
    )


def fingerprint(layout: Layout, threads: int | None = None) -> str:
    """A hex sha256 over every path and every file's content, whatever sizes and times say. Memory: a chunk a thread.

    At a URI the checksum that the filesystem keeps of a file stands for its content, where there is one. A file that
    can't be read counts with its error, so that mending it changes the fingerprint.
    """
    digest = hashlib.sha256()
    with ThreadPoolExecutor(threads or (files.REMOTE_THREADS if layout.roots.remote else files.cpus())) as pool:
        contents = pool.map(lambda file: _content_id(layout.roots.locate(file.path)), layout.files)
        for file, content in zip(layout.files, contents, strict=True):
            digest.update(("\0".join(file) + f"\0{content}\n").encode())
    for path, label, reason in layout.refused:
        digest.update(f"{path}\0{label}\0refused: {reason}\n".encode())
    return digest.hexdigest()


def _content_id(location: str) -> str:
    try:
        return files.content_id(location)
    except OSError as error:
        return f"unreadable: {error.strerror}"


# --- roots ------------------------------------------------------------------------------------------------------------


def _resolve(given: Sequence[str | os.PathLike[str]]) -> Roots:
    if not given:
        raise UserError(f"no folder of images is given; {_GIVE_FOLDER}")
    folders = [_checked_root(os.fspath(root)) for root in given]
    for one, other in itertools.permutations(range(len(folders)), 2):
        if f"{folders[one]}/".startswith(f"{folders[other].rstrip('/')}/"):
            how = "is given twice" if folders[one] == folders[other] else f"lies inside {folders[other]}"
            raise UserError(f"{files.escape(folders[one])} {how}, so that its images would count twice; leave one out")
    if len(folders) == 1:
        return Roots(tuple(folders))
    names: list[str] = []
    for folder in folders:
        base = files.escape(folder.rstrip("/").rpartition("/")[2]) or "root"
        tries = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
        names.append(next(name for name in tries if name not in names))
    return Roots(tuple(folders), tuple(names))


def _checked_root(root: str) -> str:
    """The root without links in it; a URI without "/" at its end."""
    if is_uri(root):
        return root.rstrip("/")
    shown = files.escape(root)
    if not os.path.lexists(root):
        raise UserError(f"{shown}: no such folder; {_GIVE_FOLDER}")
    if not os.path.isdir(root):
        raise UserError(f"{shown} is not a folder; {_GIVE_FOLDER}")
    return os.path.realpath(root)


# --- folders ----------------------------------------------------------------------------------------------------------


def _gather_folders(root: str, name: str, spans: int | None) -> _Gathered:
    """Everything under one root. `name` is what its files' paths begin with, "" where it is the only one."""
    tree: Tree = Objects(root) if is_uri(root) else Disk(root)
    shown = files.escape(root)
    gathered = _Gathered()
    top = _folders(tree, "", name, gathered)
    if _all_are(_SPAN.fullmatch, tree, "", top):
        for span in _not_empty(tree, _latest(top, spans), name, gathered):
            _gather_splits(tree, span, _folders(tree, span, name, gathered), name, gathered)
    elif spans is not None:
        listed = ", ".join(map(repr, top[:5])) or "none"
        raise UserError(f"data.spans is {spans}, but the folders of {shown} are not span-1, span-2 and so on: {listed}")
    else:
        _gather_splits(tree, "", top, name, gathered)
    how = _ONE_FOLDER_EACH.format(root=shown)
    if not gathered.labels and gathered.stray:
        raise UserError(f"{shown} is flat: {len(gathered.stray)} images and no class folders; {how}")
    if not gathered.labels:
        raise UserError(f"{shown} holds no class folders{_but_refused(gathered)}; {how}")
    if not gathered.files:
        raise UserError(
            f"{shown}: its {len(gathered.labels)} class folders hold no files{_but_refused(gathered)}; {how}"
        )
    return gathered


def _gather_splits(tree: Tree, base: str, names: list[str], prefix: str, into: _Gathered) -> None:
    """The folders `names` in `base`, which are splits, or else classes."""
    if not _all_are(_SPLIT_OF.get, tree, base, names):
        _gather_classes(tree, base, names, "", prefix, into)
        return
    for folder in _not_empty(tree, [_inside(base, name) for name in names], prefix, into):
        split = folder.rpartition("/")[2].casefold()
        _gather_classes(tree, folder, _folders(tree, folder, prefix, into), split, prefix, into)


def _gather_classes(tree: Tree, base: str, names: list[str], split: str, prefix: str, into: _Gathered) -> None:
    for label in names:
        _check_class_name(uri.join(tree.root, base), label)
        into.labels.add(label)
        for path, reason in tree.walk(_inside(base, label)):
            path = _inside(prefix, path)
            if reason:
                into.refused.append((files.escape(path), label, reason))
            else:
                into.files.append(File(path, label, split))


def _folders(tree: Tree, folder: str, prefix: str, into: _Gathered) -> list[str]:
    """The names of the folders in `folder`; the images and links that lie beside them are noted."""
    names, others = tree.look(folder)
    for path, reason in others:
        shown = files.escape(_inside(prefix, path))
        if reason.startswith("link to a folder"):
            into.refused.append((shown, "", reason))
        elif path.lower().endswith(_IMAGE_SUFFIXES):
            into.stray.append(shown)
    return names


def _all_are(kind: Callable[[str], object], tree: Tree, base: str, names: list[str]) -> bool:
    """Whether all folders with files in them have names of that kind, and folders in them: classes have images."""
    of_kind = [name for name in names if kind(name.casefold())]
    return all(name in of_kind or not _holds_files(tree, _inside(base, name)) for name in names) and any(
        tree.look(_inside(base, name))[0] for name in of_kind
    )


def _not_empty(tree: Tree, folders: list[str], prefix: str, into: _Gathered) -> Iterator[str]:
    """The folders with files in them; the others are noted."""
    for folder in folders:
        if _holds_files(tree, folder):
            yield folder
        else:
            into.notes.append(f"the folder '{files.escape(_inside(prefix, folder))}' is empty")


def _holds_files(tree: Tree, folder: str) -> bool:
    return next(iter(tree.walk(folder)), None) is not None


def _latest(names: list[str], spans: int | None) -> list[str]:
    """The folders of the latest so many spans, by number: span-10 comes after span-9, and span-09 is span-9."""
    numbers = {name: int(match[1]) for name in names if (match := _SPAN.fullmatch(name.casefold()))}
    wanted = sorted(set(numbers.values()))[-spans:] if spans else numbers.values()
    return [name for name, number in numbers.items() if number in wanted]


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name


def _check_class_name(folder: str, name: str) -> None:
    escaped = files.escape(name)
    if escaped != name:
        wrong = "a newline" if "\n" in name or "\r" in name else "bytes that are not printable UTF-8 text"
        raise UserError(
            f"{files.escape(folder)}: the name of the class folder '{escaped}' has {wrong} in it; rename the folder, "
            "its name becomes the label"
        )


# --- a table ----------------------------------------------------------------------------------------------------------


def _gather_table(root: str, table: str) -> _Gathered:
    """The files that the manifest names. Those at a URI are not asked for one by one: reading them will tell."""
    read = manifest.read(table, tuple(_SPLIT_OF))
    if is_uri(root):
        listing.require_reachable(root)
    judge = listing.wrong_name if is_uri(root) else Disk(root).judge
    gathered = _Gathered(notes=list(read.warnings))
    for row in read.rows:
        gathered.labels.add(row.label)
        if reason := judge(row.path):
            gathered.refused.append((files.escape(row.path), row.label, reason))
        else:
            gathered.files.append(File(*row))
    if not gathered.files:
        path, _, reason = gathered.refused[0]
        raise UserError(
            f"{files.escape(table)}: none of the {len(read.rows)} files that it names can be read, first: {path} "
            f"({reason}); its paths are relative to the folder of images, {files.escape(root)}"
        )
    return gathered


# --- the whole --------------------------------------------------------------------------------------------------------


def _with_splits(root: str, gathered: _Gathered) -> list[File]:
    """The files with what their splits' names mean. A test split is one only where others judge the training."""
    named = {file.split for file in gathered.files}
    given = {_SPLIT_OF[name] for name in named if name}
    by_content = "" in named
    if given and TRAIN not in given and not by_content:
        raise UserError(
            f"{root} is split already, but has nothing to train on: its splits are {', '.join(sorted(named))}; add a "
            "split called train, or give one folder per class and let Graftline split by content"
        )
    meaning = {"": "", **_SPLIT_OF}
    if given == {TRAIN} and not by_content:
        gathered.notes.append(
            f"{root} has the split train alone, so data.eval_fraction of its images, chosen by content, are held back "
            "to judge the model by"
        )
        meaning = dict.fromkeys(meaning, "")
    elif EVAL not in given and not by_content:
        meaning = {name: EVAL if split == TEST else split for name, split in meaning.items()}
    return [file._replace(split=meaning[file.split]) for file in gathered.files] if given else gathered.files


def _with_images(roots: Roots, found: list[File]) -> set[str]:
    """The classes that have an image, by its name or, where none is called like one, by how the first files begin."""
    classes: set[str] = set()
    others: dict[str, list[str]] = defaultdict(list)
    for file in found:
        if file.path.lower().endswith(_IMAGE_SUFFIXES):
            classes.add(file.label)
        elif file.label not in classes and len(others[file.label]) < _SNIFFED:
            others[file.label].append(file.path)
    for label in others.keys() - classes:
        if any(_begins_like_an_image(roots.locate(path)) for path in others[label]):
            classes.add(label)
    return classes


def _begins_like_an_image(location: str) -> bool:
    try:
        return files.sniff(files.head(location)) is not None
    except OSError:
        return False


def _require_classes(root: str, classes: list[str], counts: Counter[str], found: list[File]) -> None:
    if len(classes) == 1:
        (only,) = classes
        deeper = sorted(
            {path.split("/")[1] for path, *_ in found if path.startswith(f"{only}/") and path.count("/") > 1}
        )
        hint = f"; if the folders in it ({', '.join(deeper[:5])}) are the classes, give that folder" if deeper else ""
        raise UserError(
            f"{root} holds images of one class only, '{only}' ({counts[only]} files); "
            f"a classifier needs at least two classes with images{hint}"
        )
    lone = [label for label in classes if counts[label] < 2]
    if lone:
        raise UserError(
            f"{root}: class '{lone[0]}' has a single image{_and_others(lone)}; each class needs at least 2, "
            "so that one can train and one can evaluate: add images or remove the folder"
        )
    splits: dict[str, set[str]] = defaultdict(set)
    for file in found:
        splits[file.label].add(file.split)
    one_sided = [label for label in classes if "" not in splits[label] and not splits[label].issuperset(SPLITS)]
    if one_sided:
        raise UserError(
            f"{root}: class '{one_sided[0]}' is in {' and '.join(sorted(splits[one_sided[0]]))} only"
            f"{_and_others(one_sided)}; each class needs images to train and images to evaluate on: add them or remove "
            "the class"
        )


def _but_refused(gathered: _Gathered) -> str:
    if not gathered.refused:
        return ""
    path, _, reason = gathered.refused[0]
    return f" that can be used ({len(gathered.refused)} are left out, first: {path}: {reason})"


def _half_a_layout(classes: Sequence[str]) -> Iterator[str]:
    """What to say of classes that are called like splits or spans beside others that are not."""
    for kind, names in (
        ("splits", [name for name in classes if name.casefold() in _SPLIT_OF]),
        ("spans", [name for name in classes if _SPAN.fullmatch(name)]),
    ):
        others = [name for name in classes if name not in names]
        if len(names) > 1 and others:
            yield (
                f"{', '.join(map(repr, names))} are called like {kind} and are taken for classes, because of "
                f"{others[0]!r} beside them: if they are {kind}, move that elsewhere"
            )


def _and_others(names: list[str]) -> str:
    return f" (so have {len(names) - 1} other classes)" if len(names) > 1 else ""


def _lookalikes(names: list[str]) -> tuple[tuple[str, ...], ...]:
    groups = defaultdict(list)
    for name in names:
        groups[" ".join(name.casefold().split())].append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
