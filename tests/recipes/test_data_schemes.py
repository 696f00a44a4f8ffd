"""BIO, BILOU, BIOES, BMES, BMEWO: detection, breaks, conversions; seqeval is the oracle of what a whole entity is."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.recipes.data.schemes import (
    LETTERS,
    Scheme,
    first_break,
    from_iob1,
    from_spans,
    scheme_of,
    split_label,
)
from adapthub.recipes.metrics import entities

Span = tuple[int, int, str]
SCHEMES: tuple[Scheme, ...] = ("bio", "bilou", "bioes", "bmes", "bmewo")


@st.composite
def annotated(draw: st.DrawFn) -> tuple[int, list[Span]]:
    """A number of words and disjoint entities [start, end) over them, in order."""
    spans: list[Span] = []
    at = draw(st.integers(0, 3))
    for length, gap, kind in draw(
        st.lists(
            st.tuples(st.integers(1, 4), st.integers(0, 2), st.sampled_from(["PER", "LOC", "a-b"])),
            max_size=6,
        )
    ):
        spans.append((at, at + length, kind))
        at += length + gap
    return at + draw(st.integers(0, 2)), spans


def tagged(words: int, spans: list[Span], scheme: Scheme) -> list[str]:
    """The definition of each scheme, written out."""
    kinds = {"bio": "BII", "bilou": "UIL", "bioes": "SIE", "bmes": "SME", "bmewo": "WME"}[scheme]
    single, inner, last = [*kinds]
    labels = ["O"] * words
    for start, end, kind in spans:
        letters = single if end - start == 1 else "B" + inner * (end - start - 2) + last
        for offset, letter in enumerate(letters):
            labels[start + offset] = f"{letter}-{kind}"
    return labels


@given(annotated(), st.sampled_from(SCHEMES))
def test_whole_sequences_have_no_break_and_hold_their_entities(
    case: tuple[int, list[Span]], scheme: Scheme
) -> None:
    words, spans = case
    labels = tagged(words, spans, scheme)
    assert first_break(labels, scheme) is None
    assert entities([labels], scheme) == [{(kind, start, end) for start, end, kind in spans}]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_sequence_is_broken_exactly_when_no_annotation_gives_it(scheme: Scheme) -> None:
    """Of all sequences of up to four labels over two types, those that some set of entities produces."""
    alphabet = ["O", *(f"{prefix}-{kind}" for prefix in LETTERS[scheme][1:] for kind in "xy")]
    for words in range(1, 5):
        spans = [
            (start, end, kind)
            for start in range(words)
            for end in range(start + 1, words + 1)
            for kind in "xy"
        ]
        whole = {tuple(tagged(words, list(chosen), scheme)) for chosen in _disjoint(spans)}
        for labels in product(alphabet, repeat=words):
            assert (first_break(labels, scheme) is None) == (labels in whole), labels


def _disjoint(spans: list[Span]) -> list[tuple[Span, ...]]:
    sets: list[tuple[Span, ...]] = [()]
    for span in spans:
        sets += [
            (*chosen, span) for chosen in sets if all(span[0] >= o[1] or span[1] <= o[0] for o in chosen)
        ]
    return sets


@pytest.mark.parametrize(
    ("labels", "scheme", "index", "reason"),
    [
        (["O", "I-PER"], "bio", 1, "I-PER cannot follow O"),
        (["I-PER"], "bio", 0, "I-PER cannot follow the start of a sentence"),
        (["B-LOC", "I-PER"], "bio", 1, "I-PER cannot follow B-LOC"),
        (["B-PER", "O"], "bilou", 0, "B-PER begins or continues an entity that no L-PER ends"),
        (["O", "B-PER", "I-PER"], "bioes", 2, "I-PER begins or continues an entity that no E-PER ends"),
        (["U-PER", "L-PER"], "bilou", 1, "L-PER cannot follow U-PER"),
        (["B-PER", "M-PER"], "bmes", 1, "M-PER begins or continues an entity that no E-PER ends"),
        (["W-PER", "M-PER"], "bmewo", 1, "M-PER cannot follow W-PER"),
    ],
)
def test_the_break_is_named(labels: list[str], scheme: Scheme, index: int, reason: str) -> None:
    assert first_break(labels, scheme) == (index, reason)


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        (["O"], "bio"),
        (["B-X", "I-Y", "O"], "bio"),
        (["B-X", "I-X", "L-X", "O", "U-Y"], "bilou"),
        (["U-X"], "bilou"),
        (["S-X", "O"], "bioes"),
        (["B-X", "E-X"], "bioes"),
        (["B-X", "M-X", "E-X", "O"], "bmes"),
        (["B-X", "M-X", "E-X", "S-Y"], "bmes"),
        (["W-X"], "bmewo"),
        (["B-X", "M-X", "E-X", "W-Y"], "bmewo"),
    ],
)
def test_the_scheme_follows_from_the_prefixes(labels: list[str], scheme: str) -> None:
    assert scheme_of(labels) == scheme


def test_mixed_schemes_and_labels_without_prefix_are_refused() -> None:
    with pytest.raises(ValueError, match="prefixes S, U belong to no one scheme"):
        scheme_of(["U-X", "S-X"])
    with pytest.raises(ValueError, match="prefixes B, E, I, M belong to no one scheme"):
        scheme_of(["B-X", "I-X", "M-X", "E-X"])
    with pytest.raises(ValueError, match="prefixes S, W belong to no one scheme"):
        scheme_of(["S-X", "W-X"])
    for label in ("PER", "B-", "b-PER", "B_PER", "", "0", "B--PER", "X-PER"):
        with pytest.raises(ValueError, match="neither O nor a prefix"):
            split_label(label)


@given(annotated())
def test_iob1_becomes_the_bio_of_the_same_entities(case: tuple[int, list[Span]]) -> None:
    words, spans = case
    iob1 = tagged(words, spans, "bio")
    for start, _, kind in spans:
        touches = start > 0 and iob1[start - 1].endswith(f"-{kind}")
        iob1[start] = f"{'B' if touches else 'I'}-{kind}"
    assert from_iob1(iob1) == tagged(words, spans, "bio")


def test_iob1_has_no_other_prefixes() -> None:
    with pytest.raises(ValueError, match="U-X is not IOB1"):
        from_iob1(["U-X"])


@given(annotated())
def test_character_spans_become_bio_in_any_order(case: tuple[int, list[Span]]) -> None:
    words, spans = case
    cells = [(3 * word, 3 * word + 2) for word in range(words)]
    characters = [(cells[start][0], cells[end - 1][1], kind) for start, end, kind in reversed(spans)]
    assert from_spans(cells, characters) == tagged(words, spans, "bio")


@pytest.mark.parametrize(
    ("span", "reason"),
    [
        ((0, 2, "X"), "begins or ends inside a word"),
        ((3, 4, "X"), "covers no word"),
        ((4, 9, "X"), "overlaps"),
    ],
)
def test_spans_that_do_not_fit_the_words_are_refused(span: Span, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        from_spans([(0, 3), (4, 6), (7, 9)], [span, (7, 9, "Y")])
