"""Texts to tokenise, some at a time."""

from __future__ import annotations

from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.recipes import portions as portions_module
from adapthub.recipes.portions import portions


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
