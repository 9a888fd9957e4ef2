"""Notes on layouts that a user may have meant otherwise: splits below the classes, and splits of unknown names."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Set

from graftline.components.image_example_gen.layouts import SPAN, SPLIT_OF

# Words that name splits in other data sets and languages. They are looked for only where folders look like splits.
_WORDS = frozenset(
    {
        *SPLIT_OF,
        *("trainset", "valset", "testset", "trn", "tst", "holdout", "hold", "evaluation", "validate", "unseen"),
        *("entrenamiento", "validacion", "validación", "prueba", "pruebas", "treino", "treinamento", "validacao"),
        *("validação", "teste", "entrainement", "entraînement", "apprentissage", "addestramento", "validazione"),
        *("trainingsdaten", "testdaten", "validierung", "обучение", "проверка", "тест", "训练", "训练集", "验证"),
        *("验证集", "测试", "测试集", "訓練", "検証", "テスト", "학습", "검증", "테스트"),
    }
)
_SHOWN = 5
_ONE = ("the folder", "has a name", "is used as a class", "it", "it is one of the")
_SEVERAL = ("the folders", "have names", "are used as classes", "them", "they are")


def is_like_split(name: str) -> bool:
    """Return whether a name is that of a split or holds a word for one: `train`, `test_set`, `val2017`, `holdout`."""
    return not _WORDS.isdisjoint(re.split(r"[\W\d_]+", name.casefold()))


def notes(inner: Mapping[str, Set[str]]) -> Iterator[str]:
    """Yield what to do where the folders of the classes, or those in them, look like splits.

    `inner` are the names of the folders directly in each class folder.
    """
    below = {label: sorted(filter(is_like_split, names)) for label, names in inner.items()}
    parted = [label for label, names in below.items() if names]
    if parted and (any(len(names) > 1 for names in below.values()) or len(parted) == len(inner)):
        label = max(parted, key=lambda label: len(below[label]))
        shown = ", ".join(f"'{label}/{name}'" for name in below[label][:_SHOWN])
        first = below[label][0]
        yield (
            f"the folders {shown} have names of splits, but lie below the classes and are not read as splits: the "
            f"content of each image decides its split. If they are splits, put them above the classes, as in "
            f"'{SPLIT_OF.get(first.casefold(), first)}/{label}', or name the split of each image in a manifest "
            "(data.manifest)"
        )
    yield from _mixed(inner)


def _mixed(inner: Mapping[str, Set[str]]) -> Iterator[str]:
    """Yield a note on splits or spans that are used as classes because of other folders beside them."""
    counts = Counter(name for names in inner.values() for name in names)
    shared = {name for name, count in counts.items() if count > 1}
    splits = [label for label in inner if label.casefold() in SPLIT_OF]
    for kind, names in (
        ("splits", splits if len(splits) > 1 else [label for label in splits if inner[label]]),
        ("spans", [label for label in inner if SPAN.fullmatch(label)]),
    ):
        others = [label for label in inner if label not in names]
        if names and others and (kind == "splits" or len(names) > 1):
            who, called, used, them, are = _ONE if len(names) == 1 else _SEVERAL
            yield (
                f"{who} {_quoted(names)} {called} of {kind}, but {used} because of the folder {others[0]!r} beside "
                f"{them}: if {are} {kind}, move that folder elsewhere{_rename(others, kind)}"
            )
            return
    # Folders of the same names in two folders, of which one is called like a split: classes below splits.
    alike = [label for label in inner if len(shared & inner[label]) > 1]
    if len(alike) > 1 and any(map(is_like_split, alike)):
        yield (
            f"the folders {_quoted(alike)} are used as classes, but hold folders of the same names "
            f"({_quoted(sorted(shared))}): if they are splits, name them train, val and test"
        )


def _rename(others: list[str], kind: str) -> str:
    if kind != "splits" or not is_like_split(others[0]):
        return ""
    return ", or name it train, val or test if it is a split, too"


def _quoted(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
