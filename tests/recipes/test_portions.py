"""Texts to tokenise, some at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.recipes import ner, qa
from adapthub.recipes import portions as portions_module
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.portions import portions
from tests.recipes.tokenizer_kinds import byte_level


@given(st.lists(st.text(max_size=12)))
def test_every_text_comes_once_in_order_and_portions_are_as_large_as_may_be(texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(portions_module, "_ITEMS", 3)
        patched.setattr(portions_module, "_CHARACTERS", 10)
        found = [*portions(texts, len)]
    assert [text for some in found for text in some] == texts
    for some, following in zip_longest(found, found[1:]):
        assert 0 < len(some) <= 3
        assert len(some) == 1 or sum(map(len, some)) <= 10
        if following is not None:
            assert len(some) == 3 or sum(map(len, some)) + len(following[0]) > 10


@pytest.mark.parametrize(
    ("name", "module", "encode"), [("ner", ner, "encode_words"), ("qa", qa, "encode_windows")]
)
def test_words_and_windows_are_tokenised_some_at_a_time(
    name: str, module: Any, encode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same rows."""
    tokenizer, real, asked = byte_level(), getattr(module, encode), []
    rows: Sequence[dict[str, Any]] = [
        {"tokens": ["ada", "slept"][: at % 2 + 1], "labels": ["B-PER", "O"][: at % 2 + 1]} for at in range(5)
    ]
    if name == "qa":
        answer = {"text": ["ada"], "answer_start": [0]}
        rows = [
            {"question": "who", "context": "ada was born " * (at + 1), "answers": answer} for at in range(5)
        ]
    recipe = find_recipe(name)
    data = recipe.read(rows)
    labels, settings = recipe.labels(data), recipe.resolve(tokenizer, data, max_length=16)
    whole = recipe.encode(tokenizer, data, labels, settings)

    def counted(tokenizer: Any, texts: Sequence[Any], *more: Any, **options: Any) -> Any:
        asked.append(len(texts))
        return real(tokenizer, texts, *more, **options)

    monkeypatch.setattr(module, encode, counted)
    monkeypatch.setattr(portions_module, "_ITEMS", 2)
    assert [*recipe.encode(tokenizer, data, labels, settings).rows] == [*whole.rows]
    assert asked == [2, 2, 1]
