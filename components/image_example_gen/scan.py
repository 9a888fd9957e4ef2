"""The scan of the roots: which files there are, and which class and split their folders or a manifest give them.

The command line calls this before any heavy import. Standard library only; Beam is imported for images at a URI.
The layouts are told apart by the names of the folders:
  <class>/**                    class folders; the content decides the split
  train|val|test/<class>/**     images that are already split
  span-<n>/...                  data that arrives in portions; each span has one of the two layouts above
  a CSV file                    see `manifest`
Several roots add up. If folders have some of these names and others not, such as `train` and `cats`, all are classes.
"""

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from graftline import folder_name, uri
from graftline.components.image_example_gen import half_recognised, layouts, manifest
from graftline.components.image_example_gen.layouts import SPAN, SPLIT_OF, Contents, File, Layout, Roots
from graftline.components.storage import files, listing
from graftline.components.storage.listing import Disk, Objects, Tree
from graftline.errors import UserError
from graftline.serving.images.formats import is_image_name
from graftline.uri import is_uri

if TYPE_CHECKING:
    from graftline.components.image_example_gen.settings import IngestSettings

_REMOTE_SAMPLE = 200  # files that `check_decodable` opens at a URI, where opening a file is a request
_CLASS_SAMPLE = 20  # files to open of a class without a file with an image's name
_ONE_FOLDER_EACH = "put the images in one folder per class, such as {root}/cats/1.jpg and {root}/dogs/2.jpg"
_GIVE_FOLDER = "give the folder that holds one folder of images per class"


def scan(
    root: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], settings: "IngestSettings | None" = None
) -> Layout:
    """Find the classes and files.

    No file is opened, except for the manifest and a few files of a class in which no file has an image's name.
    The classes of several roots add up. Of the settings `manifest` and `spans` are read.

    Raises:
        UserError: a root is missing, a file, empty, flat or unreadable; the manifest has a mistake; or the files cannot
            train and judge a classifier, see `layouts.judge`.
    """
    folders = [root] if isinstance(root, str | os.PathLike) else list(root)
    if settings is not None:
        layouts.check_settings(folders, settings)
    roots = _resolve(folders)
    if settings is not None and settings.manifest is not None:
        contents = _read_table(roots.folders[0], settings.manifest)
    else:
        contents = Contents()
        for folder, name in zip(roots.folders, roots.names, strict=True):
            contents.add(_read_folders(folder, name, settings.spans if settings else None))
    return layouts.judge(roots, contents, _find_labels_with_images(roots, contents.files))


def check_decodable(layout: Layout) -> None:
    """Check that at least one file begins like an image, before the user waits for the heavy imports.

    Of files at a URI some 200 are opened, spread over all classes.

    Raises:
        UserError: no file begins with the magic bytes of an image.
    """
    first = ""
    step = -(-len(layout.files) // _REMOTE_SAMPLE) if layout.roots.remote else 1
    for path, *_ in layout.files[::step]:
        try:
            head = files.head(layout.roots.locate(path))
        except OSError as error:
            first = first or f"{path} (unreadable: {error.strerror})"
            continue
        if files.sniff(head) in files.READABLE:
            return
        first = first or f"{path} (starts with {head[:12]!r})"
    sampled = "a sample of " if step > 1 else ""
    raise UserError(
        f"none of {sampled}the {len(layout.files)} files under {layout.root} is an image that can be decoded, first: "
        f"{first}; give JPEG, PNG, GIF, BMP, WebP or TIFF files"
    )


def _find_labels_with_images(roots: Roots, found: list[File]) -> set[str]:
    """Return the labels that have an image.

    A file is an image by its name. If no file of a label has an image's name, the first bytes of some files decide.
    """
    labels: set[str] = set()
    others: dict[str, list[str]] = defaultdict(list)
    for file in found:
        if is_image_name(file.path):
            labels.add(file.label)
        elif file.label not in labels and len(others[file.label]) < _CLASS_SAMPLE:
            others[file.label].append(file.path)
    for label in others.keys() - labels:
        if any(_begins_like_an_image(roots.locate(path)) for path in others[label]):
            labels.add(label)
    return labels


def _begins_like_an_image(location: str) -> bool:
    try:
        return files.sniff(files.head(location)) is not None
    except OSError:
        return False


def _resolve(roots: Sequence[str | os.PathLike[str]]) -> Roots:
    if not roots:
        raise UserError(f"no folder of images is given; {_GIVE_FOLDER}")
    folders = [_resolve_root(os.fspath(root)) for root in roots]
    for one, other in itertools.permutations(range(len(folders)), 2):
        if f"{folders[one]}/".startswith(f"{folders[other].rstrip('/')}/"):
            mistake = "is given twice" if folders[one] == folders[other] else f"lies inside {folders[other]}"
            raise UserError(f"{files.escape(folders[one])} {mistake}: its images would count twice; leave one out")
    if len(folders) == 1:
        return Roots(tuple(folders))
    names: list[str] = []
    for root in roots:
        base = files.escape(folder_name.of(os.fspath(root))) or "root"  # of a link its own name, which does not change
        candidates = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
        names.append(next(name for name in candidates if name not in names))
    return Roots(tuple(folders), tuple(names))


def _resolve_root(root: str) -> str:
    """Return the path of a folder without links in it, or a URI without "/" at its end."""
    if is_uri(root):
        return root.rstrip("/")
    escaped = files.escape(root)
    if not os.path.lexists(root):
        raise UserError(f"{escaped}: no such folder; {_GIVE_FOLDER}")
    if not os.path.isdir(root):
        raise UserError(f"{escaped} is not a folder; {_GIVE_FOLDER}")
    return os.path.realpath(root)


def _read_folders(root: str, prefix: str, spans: int | None) -> Contents:
    """Return everything under one root. The paths begin with `prefix`, which is "" for a single root."""
    tree: Tree = Objects(root) if is_uri(root) else Disk(root)
    escaped = files.escape(root)
    contents = Contents()
    top = _list_folders(tree, "", prefix, contents)
    if _all_are(SPAN.fullmatch, tree, "", top):
        for span in _skip_empty(tree, _latest(top, spans), prefix, contents):
            _read_splits(tree, span, _list_folders(tree, span, prefix, contents), prefix, contents)
    elif spans is not None:
        listed = ", ".join(map(repr, top[:5])) or "none"
        raise UserError(
            f"data.spans is {spans}, but the folders of {escaped} are not span-1, span-2 and so on: {listed}"
        )
    else:
        _read_splits(tree, "", top, prefix, contents)
    contents.left_out += [files.escape(_inside(prefix, folder)) for folder in tree.left_out()]
    if contents.left_out:
        names = ", ".join(map(repr, contents.left_out[:3]))
        more = f" and {len(contents.left_out) - 3:,} more" if len(contents.left_out) > 3 else ""
        contents.notes.append(f"these folders hold images and are left out because of their names: {names}{more}")
    contents.notes += half_recognised.notes(contents.inner)
    advice = _ONE_FOLDER_EACH.format(root=escaped)
    if not contents.labels and contents.stray:
        raise UserError(f"{escaped} is flat: {len(contents.stray)} images and no class folders; {advice}")
    if not contents.labels:
        raise UserError(f"{escaped} holds no class folders{_describe_refused(contents)}; {advice}")
    if not contents.files:
        raise UserError(
            f"{escaped}: its {len(contents.labels)} class folders hold no files{_describe_refused(contents)}; {advice}"
        )
    return contents


def _read_splits(tree: Tree, base: str, names: list[str], prefix: str, into: Contents) -> None:
    """Read the folders `names` in `base`: splits if all have names of splits, otherwise classes."""
    if not _all_are(SPLIT_OF.get, tree, base, names):
        _read_classes(tree, base, names, "", prefix, into)
        return
    for folder in _skip_empty(tree, [_inside(base, name) for name in names], prefix, into):
        split = folder.rpartition("/")[2].casefold()
        _read_classes(tree, folder, _list_folders(tree, folder, prefix, into), split, prefix, into)


def _read_classes(tree: Tree, base: str, labels: list[str], split: str, prefix: str, into: Contents) -> None:
    for label in labels:
        _check_class_name(uri.join(tree.root, base), label)
        into.labels.add(label)
        folder = _inside(base, label)
        for entry in tree.walk(folder):
            path = _inside(prefix, entry.path)
            inner, slash, _ = entry.path[len(folder) + 1 :].partition("/")
            into.inner.setdefault(label, set()).update([inner] if slash else ())
            if entry.reason:
                into.refused.append((files.escape(path), label, entry.reason))
            else:
                into.files.append(File(path, label, split))


def _list_folders(tree: Tree, folder: str, prefix: str, into: Contents) -> list[str]:
    """Return the names of the folders in `folder`, and record the images and the links to folders beside them."""
    names, others = tree.look(folder)
    for path, reason in others:
        escaped = files.escape(_inside(prefix, path))
        if reason.startswith("link to a folder"):
            into.refused.append((escaped, "", reason))
        elif is_image_name(path):
            into.stray.append(escaped)
    return names


def _all_are(is_kind: Callable[[str], object], tree: Tree, base: str, names: list[str]) -> bool:
    """Return whether all folders that hold files have names of one kind, and whether they hold folders.

    Folders with images directly in them are classes, whatever their names are.
    """
    of_kind = [name for name in names if is_kind(name.casefold())]
    return all(name in of_kind or not _holds_files(tree, _inside(base, name)) for name in names) and any(
        tree.look(_inside(base, name))[0] for name in of_kind
    )


def _skip_empty(tree: Tree, folders: list[str], prefix: str, into: Contents) -> Iterator[str]:
    """Yield the folders that hold files, and note the others."""
    for folder in folders:
        if _holds_files(tree, folder):
            yield folder
        else:
            into.notes.append(f"the folder '{files.escape(_inside(prefix, folder))}' is empty")


def _holds_files(tree: Tree, folder: str) -> bool:
    return next(iter(tree.walk(folder)), None) is not None


def _latest(names: list[str], spans: int | None) -> list[str]:
    """Return the folders of the latest spans by number: span-10 comes after span-9, and span-09 is span-9."""
    numbers = {name: int(match[1]) for name in names if (match := SPAN.fullmatch(name.casefold()))}
    latest = sorted(set(numbers.values()))[-spans:] if spans else numbers.values()
    return [name for name, number in numbers.items() if number in latest]


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name


def _check_class_name(folder: str, name: str) -> None:
    escaped = files.escape(name)
    if escaped != name:
        mistake = "a newline" if "\n" in name or "\r" in name else "bytes that are not printable UTF-8 text"
        raise UserError(
            f"{files.escape(folder)}: the name of the class folder '{escaped}' contains {mistake}; rename the folder, "
            "because its name becomes the label"
        )


def _describe_refused(contents: Contents) -> str:
    if not contents.refused:
        return f" besides '{contents.left_out[0]}', which is left out because of its name" if contents.left_out else ""
    path, _, reason = contents.refused[0]
    return f" that can be used ({len(contents.refused)} are left out, first: {path}: {reason})"


def _read_table(root: str, path: str) -> Contents:
    """Return the files that the manifest names.

    Files at a URI are not checked one by one. If one is missing, the ingest finds out when it reads the file.
    """
    table = manifest.read(path, tuple(SPLIT_OF))
    if is_uri(root):
        listing.require_reachable(root)
    check = listing.check_name if is_uri(root) else Disk(root).check
    contents = Contents(notes=list(table.warnings))
    first = ""
    for file, line in zip(table.files, table.lines, strict=True):
        contents.labels.add(file.label)
        if reason := check(file.path):
            first = first or f"line {line}: {files.escape(file.path)} ({reason}{_near(root, file.path)})"
            contents.refused.append((files.escape(file.path), file.label, reason))
        else:
            contents.files.append(file)
    if not contents.files:
        raise UserError(
            f"{files.escape(path)}: none of its {len(table.files)} files can be read, first in {first}; the paths are "
            f"relative to the folder of images, {files.escape(root)}"
        )
    if first:
        refused, of = len(contents.refused), len(table.files)
        contents.missing = f"{refused:,} of the {of:,} files of {files.escape(path)} are left out, first in {first}"
        contents.notes.append(contents.missing)
    return contents


def _near(root: str, path: str) -> str:
    """Return a hint for a file that is missing under this name and exists under one that looks alike."""
    near = "" if is_uri(root) else Disk(root).near(path)
    return f"; did you mean '{files.escape(near)}'?" if near else ""
