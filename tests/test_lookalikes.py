"""Names that look the same and are not."""

import pytest

from graftline import lookalikes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("café", "cafe\u0301"),
        ("Cats", "cats "),
        ("cat", "c\u0430t"),  # Cyrillic
        ("ΒΟΤ", "BOT"),  # Greek
        ("cat", "c\u200bat"),
        ("cat", "ｃａｔ"),
        ("red fox", "red\u00a0 fox"),
        ("Вода", "вода"),
        ("straße", "STRASSE"),
    ],
)
def test_names_that_look_alike_have_one_skeleton(one: str, other: str) -> None:
    assert one != other
    assert lookalikes.group([one, "another", other]) == [(one, other)]
    assert lookalikes.match([one, "x"], [other, "x"]) == [(one, other)]


@pytest.mark.parametrize(
    ("one", "other"), [("cat", "cats"), ("cafe", "café"), ("花", "草"), ("1", "l"), ("a-b", "a b")]
)
def test_other_names_do_not(one: str, other: str) -> None:
    assert lookalikes.group([one, other]) == []


def test_a_name_that_both_sides_have_is_no_lookalike() -> None:
    assert lookalikes.match(["Cat", "cat"], ["cat"]) == []
    assert lookalikes.match(["cat"], ["cat", "Cat"]) == []
