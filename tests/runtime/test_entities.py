"""Served entities are measured entities: our decoding against seqeval's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.recipes.data.schemes import Scheme
from adapthub.recipes.metrics import entities
from adapthub.runtime.entities import decode_entities

LABELS = {"bio": "BI", "bilou": "BILU", "bioes": "BIES", "bmes": "BMES", "bmewo": "BMEW"}


@pytest.mark.parametrize("scheme", LABELS)
@given(data=st.data())
def test_any_sequence_decodes_as_seqeval_does(scheme: Scheme, data: st.DataObject) -> None:
    known = ["O", *(f"{letter}-{kind}" for letter in LABELS[scheme] for kind in ("PER", "LOC"))]
    row = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=12))
    ours = {(kind, start, stop) for start, stop, kind in decode_entities(row, known)}
    assert ours == entities([row], scheme)[0]


def test_labels_of_no_scheme_mark_runs() -> None:
    known = ["LABEL_0", "LABEL_1"]
    assert decode_entities(["LABEL_1", "LABEL_1", "LABEL_0"], known) == [(0, 2, "LABEL_1"), (2, 3, "LABEL_0")]
