"""Keeping the garbage collector off imported libraries."""

import gc
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from graftline import imports


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Begins and ends with nothing kept."""
    gc.unfreeze()
    yield
    gc.unfreeze()


def _looked_at(wanted: object) -> bool:
    """Whether the collector does."""
    return any(found is wanted for found in gc.get_objects())


def test_what_the_first_import_makes_is_out_of_the_collectors_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with imports.exempt_from_gc():
        assert not gc.isenabled()
        made: list[object] = [[]]
    assert gc.isenabled()
    assert not _looked_at(made)


def test_nothing_is_kept_where_tensorflow_has_been_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", sys.modules.get("tensorflow", ModuleType("tensorflow")))
    made: list[object] = [[]]
    with imports.exempt_from_gc():
        pass
    assert _looked_at(made)


def test_a_failed_import_leaves_the_collector_on_and_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(ImportError), imports.exempt_from_gc():
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
