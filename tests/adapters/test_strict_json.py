"""Documents that two parsers could read differently are refused; others are read as Python reads them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.strict_json import parse_json, parse_json_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=10,
)


@given(VALUES, st.booleans())
def test_ordinary_documents_are_read_as_they_are(value: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode(), "it") == value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a": 1, "a": 1}', "'a' appears twice"),
        (b'[{"b": {"a": 1, "\\u0061": 2}}]', "'a' appears twice"),
        (b"[Infinity]", "Infinity"),
        (b"[-Infinity]", "-Infinity"),
        (b"[NaN]", "NaN"),
        (b"[-0]", "-0"),
        (b'"\\ud800"', "UTF-8"),
        (b'{"\\udfff": 1}', "UTF-8"),
        (b'"\xff"', "UTF-8"),
        ("[1]".encode("utf-16"), "UTF-8"),
        ("\ufeff[1]".encode(), "not valid JSON"),
        (b"", "not valid JSON"),
        (b"[1,]", "not valid JSON"),
        (b"1 2", "not valid JSON"),
        (b'"a\nb"', "not valid JSON"),
        (b"9" * 10_000, "not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_what_parsers_may_read_differently_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(AdmissionError, match=words) as refused:
        parse_json(data, "it")
    assert "it" in str(refused.value)


def test_a_key_among_half_a_million_is_found_at_once() -> None:
    """Each compared with all before it would take a quarter of an hour."""
    keys = ",".join(f'"{number}": 0' for number in range(500_000))
    with pytest.raises(AdmissionError, match="'x' appears twice"):
        parse_json(f'{{{keys}, "x": 0, "x": 0}}'.encode(), "it")


@pytest.mark.parametrize("data", [b"[]", b"1", b"null", b'"{}"'])
def test_a_document_that_is_not_an_object_is_refused(data: bytes) -> None:
    with pytest.raises(AdmissionError, match="one JSON object"):
        parse_json_object(data, "it")
