"""Word labels to entities: BIO, BILOU, BIOES, BMES and BMEWO, by the rules that recipes measure with.

A model's labels need not form a legal sequence. As in seqeval: under BIO an I- that continues nothing begins an entity
(CoNLL's own script), under all others only a whole entity counts (seqeval's strict mode). Labels of no scheme
(`LABEL_1`) mark runs of words. Does not know models or offsets.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

_PREFIXES = frozenset("BILOUESMW")
_AS_BIOES = {"M": "I", "W": "S"}  # of BMES and BMEWO
_CLOSES, _SINGLE = frozenset("LE"), frozenset("US")


def decode_entities(labels: Sequence[str], known: Collection[str]) -> list[tuple[int, int, str]]:
    """(first word, last word + 1, type) of every entity in a row's word labels, left to right.

    `known` is the adapter's whole label set: it tells the scheme.
    """
    closed = any(_split(label)[0] in _CLOSES | _SINGLE for label in known)
    return _closed_entities(labels) if closed else _open_entities(labels)


def _open_entities(labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """BIO: an entity lasts while I- of its type follows."""
    entities: list[tuple[int, int, str]] = []
    start: int | None = None
    current = ""
    for index, label in enumerate([*labels, "O"]):
        prefix, kind = _split(label)
        if start is not None and (prefix != "I" or kind != current):
            entities.append((start, index, current))
            start = None
        if prefix != "O" and start is None:
            start, current = index, kind
    return entities


def _closed_entities(labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """BILOU, BIOES and their kin: an entity is one word marked so, or B, any I, and an end, all of one type."""
    entities: list[tuple[int, int, str]] = []
    start: int | None = None
    current = ""
    for index, label in enumerate(labels):
        prefix, kind = _split(label)
        if prefix in _SINGLE:
            entities.append((index, index + 1, kind))
        if prefix in _CLOSES and start is not None and kind == current:
            entities.append((start, index + 1, kind))
        if prefix == "B":
            start, current = index, kind
        elif prefix != "I" or kind != current:
            start = None
    return entities


def _split(label: str) -> tuple[str, str]:
    """("B", "PER") of "B-PER", ("I", "PER") of "M-PER"; ("O", "") of "O"; a label of no scheme continues itself."""
    if label == "O":
        return "O", ""
    prefix, separator, kind = label.partition("-")
    return (_AS_BIOES.get(prefix, prefix), kind) if separator and prefix in _PREFIXES else ("I", label)
