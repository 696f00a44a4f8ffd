"""Hashes of Xet as text; their values are tested by what the real client calls its xorbs (test_client)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import InvalidData
from adapthub.hub.server.xet.hashes import from_hex, to_hex, xorb_hash


def test_the_documented_example() -> None:
    assert to_hex(bytes(range(32))) == "07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918"


@given(st.binary(min_size=32, max_size=32))
def test_text_and_back(value: bytes) -> None:
    assert from_hex(to_hex(value)) == value


@pytest.mark.parametrize(
    "text", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n", "../" * 21 + "a"]
)
def test_what_is_no_hash(text: str) -> None:
    with pytest.raises(InvalidData, match="not a hash of Xet"):
        from_hex(text)


def test_a_xorb_of_one_chunk_has_its_hash() -> None:
    assert xorb_hash([(b"\x07" * 32, 5)]) == b"\x07" * 32
