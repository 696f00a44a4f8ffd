"""Ids that stand twice: rows that were taken twice, often."""

from __future__ import annotations

from typing import Any

import pytest

from adapthub.recipes.catalog import find_recipe

ROWS: dict[str, dict[str, Any]] = {
    "ner": {"tokens": ["ada"], "labels": ["B-PER"]},
    "sentiment": {"text": "good", "label": "positive"},
    "embed": {"query": "who", "passage": "ada"},
    "chat": {"prompt": "who?", "completion": "ada"},
    "summarize": {"text": "ada was born", "summary": "ada"},
    "translate": {"source": "ada was born", "target": "ada"},
    "prefer": {"prompt": "who?", "chosen": "ada", "rejected": "bob"},
}


@pytest.mark.parametrize("name", ROWS)
def test_ids_that_stand_twice_are_said_by_every_reader(name: str) -> None:
    row = ROWS[name]
    rows = [{**row, "id": "a"}, {**row, "id": "b"}, {**row, "id": "a"}]
    note = "1 rows have the id of an earlier one: 'a' stands at data:row 1 and data:row 3"
    assert note in find_recipe(name).read(rows).notes
    assert find_recipe(name).read(rows[:2]).notes == ()
