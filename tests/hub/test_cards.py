"""The metadata of cards from strangers: plain data, no more of it than was sent, or refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapthub.adapters.errors import AdmissionError
from adapthub.hub.cards import card_metadata

MARKS = ["- ", "[", "]", "{", "}", ": ", ", ", "\n", "  ", "&a ", "*a ", "<<", "!!int ", "!!timestamp ", "? "]
SCALARS = ["a", "1", "1:1", "1:1.5", "0x_", "0b", "1e999", ".nan", "2026-02-30", "9999-12-31 23:59:59 -23:00"]


def card(front: str) -> str:
    return f"---\n{front}\n---\n# Card\n"


@given(st.lists(st.sampled_from(MARKS + SCALARS) | st.text(max_size=5), max_size=40).map("".join))
@example("a: &a [1]\nb: *a")
@example("a: 1" + ":1" * 1_000 + ".5")
@example("a: !!timestamp noon")
@example("a: !!int ''")
@example("a: " + "9" * 5_000)
def test_what_is_kept_is_plain_and_as_small_as_it_was(front: str) -> None:
    try:
        metadata = card_metadata(card(front))
    except AdmissionError:
        return
    assert json.loads(json.dumps(metadata, allow_nan=False)) == metadata
    assert len(json.dumps(metadata)) <= 64 + 8 * len(front)


@pytest.mark.parametrize(
    ("front", "named"),
    [
        ("a: " + "[" * 100_000, "in more than 64"),
        ("a: " + "{b: " * 10_000, "in more than 64"),
        ("- " * 10_000, "in more than 64"),
        ("a: [" + "1," * 100_000 + "]", "more than 10,000"),
        ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "aliases"),
        ("a: !!binary aGk=", "tags"),
        ("a: " + "9" * 5_000, "not plain data"),
        ("a", "must be a map"),
    ],
)
def test_what_is_refused(front: str, named: str) -> None:
    with pytest.raises(AdmissionError, match=named):
        card_metadata(card(front))


def test_what_cards_have() -> None:
    front = "license: mit\nbase_model: org/base\ntags: [ner, 2]\nf1: 0.5\nat: 2026-01-02\nrun: 1:30\nnone:"
    assert card_metadata(card(front)) == {
        "license": "mit",
        "base_model": "org/base",
        "tags": ["ner", 2],
        "f1": 0.5,
        "at": "2026-01-02",
        "run": "1:30",
        "none": None,
    }
    assert card_metadata(card("a: " + "[" * 60 + "]" * 60)) != {}
