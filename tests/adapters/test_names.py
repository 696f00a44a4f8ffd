"""Names of modules that are saved whole, as PEFT reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.names import Saved

parts = st.text("ab_", max_size=4)
names = st.lists(parts, max_size=5).map(".".join)


@given(names, st.lists(names, max_size=4))
def test_by_the_end_of_a_name_or_of_one_around_it(name: str, saved: list[str]) -> None:
    around = [".".join(name.split(".")[: depth + 1]) for depth in range(name.count(".") + 1)]
    wanted = any(one.endswith(tuple(saved)) for one in around)
    assert (name in Saved(saved)) is wanted


def test_what_is_made_to_take_long_is_refused() -> None:
    saved = Saved("a" * length for length in range(1, 500))
    with pytest.raises(AdmissionError, match="modules_to_save"):
        assert all("." * 500 not in saved for _ in range(1000))


def test_where_nothing_is_saved_nothing_is_looked_up() -> None:
    saved = Saved(())
    assert not any("." * 1000 in saved for _ in range(10_000))
