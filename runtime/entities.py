"""Word labels to entities: BIO, BILOU and BIOES as served, tolerant of sequences that no scheme allows.

A model's labels need not form a legal sequence, so decoding is that of seqeval's default mode: an I- of another type, or
after O, begins an entity. Labels of no scheme (`LABEL_1`) mark runs of words. Does not know models or offsets.
"""

from __future__ import annotations

from collections.abc import Sequence

_BEGINS, _ENDS = frozenset("BUS"), frozenset("LEUS")
_PREFIXES = frozenset("BILOUES")


def decode_entities(labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """(first word, last word + 1, type) of every entity in a row's word labels, left to right."""
    entities: list[tuple[int, int, str]] = []
    start: int | None = None
    current = ""
    for index, label in enumerate([*labels, "O"]):
        prefix, kind = _split(label)
        if start is not None and (prefix in _BEGINS or prefix == "O" or kind != current):
            entities.append((start, index, current))
            start = None
        if prefix != "O" and start is None:
            start, current = index, kind
        if prefix in _ENDS and start is not None:
            entities.append((start, index + 1, current))
            start = None
    return entities


def _split(label: str) -> tuple[str, str]:
    """("B", "PER") of "B-PER"; ("O", "") of "O"; a label of no scheme continues itself."""
    if label == "O":
        return "O", ""
    prefix, separator, kind = label.partition("-")
    return (prefix, kind) if separator and prefix in _PREFIXES else ("I", label)
