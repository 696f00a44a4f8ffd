"""Of which examples texts are written: how many, which, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from adapthub.adapters.errors import InvalidSettings
from adapthub.recipes.answered import note, places, setting
from adapthub.recipes.data.dataset import Dataset, Example


def rows(count: int, answered: int | str) -> Dataset:
    examples = tuple(Example({"text": f"text {at}"}, "a.csv", at) for at in range(count))
    return Dataset(examples, "a.csv", {"text": "text"}, setting(answered))


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        (4, [0, 2, 5, 7]),  # spread over the data, which may be in some order
        ("3", [0, 3, 6]),
        (1, [0]),
        (0, []),
        (10, [*range(10)]),
        (11, [*range(10)]),
        ("all", [*range(10)]),
    ],
)
def test_as_many_as_are_asked_for_spread_evenly(answered: int | str, expected: list[int]) -> None:
    assert places(rows(10, answered)) == expected


def test_it_is_said_where_not_all_are_written() -> None:
    assert note(rows(2000, 1500)) == (
        "texts of 1,500 of 2,000 rows are written and measured (answered), the loss of all"
    )
    assert note(rows(4, 4)) is note(rows(4, "all")) is note(rows(4, 9)) is None


@pytest.mark.parametrize("answered", [-1, True, 1.5, None, "", "-1", "1.5", "²", "some"])
def test_what_is_no_number_of_examples(answered: Any) -> None:
    with pytest.raises(InvalidSettings, match=f"answered={answered!r} is no number of examples"):
        setting(answered)
