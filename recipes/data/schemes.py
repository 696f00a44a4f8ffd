"""Label schemes of named entities (BIO, BILOU, BIOES, and BMES and BMEWO, which are BIOES in other letters): which one a
label set is, where a sequence breaks it.

Also reads IOB1 and character spans into BIO. Does not read files and does not score (metrics does).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

Scheme = Literal["bio", "bilou", "bioes", "bmes", "bmewo"]

_DETECTED: tuple[Scheme, ...] = ("bio", "bilou", "bioes", "bmes", "bmewo")
_NAMES = ", ".join(_DETECTED).upper()

_LABEL = re.compile(r"([BIMLUESW])-(?!-)(.+)(?<!-)", re.DOTALL)  # seqeval strips hyphens around a type
LETTERS: Mapping[str, str] = {
    "bio": "OBI", "bilou": "OBILU", "bioes": "OBIES", "bmes": "OBMES", "bmewo": "OBMEW", "iob1": "OBI",
}  # fmt: skip
"""The prefixes that each scheme allows."""
_CONTINUES = frozenset("IMLE")  # needs an open entity of its type before it
_OPEN = frozenset("BIM")  # leaves the entity open, where a scheme has an end letter


def split_label(label: str) -> tuple[str, str]:
    """("B", "PER") of "B-PER"; ("O", "") of "O". Raises ValueError for anything else."""
    if label == "O":
        return "O", ""
    match = _LABEL.fullmatch(label)
    if match is None:
        raise ValueError(f"{label!r} is neither O nor a prefix, a hyphen and a type such as B-PER")
    return match[1], match[2]


def scheme_of(labels: Iterable[str]) -> Scheme:
    """The first of BIO, BILOU, BIOES, BMES, BMEWO that has all prefixes of a label set. Raises ValueError."""
    letters = {split_label(label)[0] for label in labels} - {"O"}
    for scheme in _DETECTED:
        if letters <= set(LETTERS[scheme]):
            return scheme
    raise ValueError(f"the prefixes {', '.join(sorted(letters))} belong to no one scheme ({_NAMES})")


def first_break(labels: Sequence[str], scheme: Scheme) -> tuple[int, str] | None:
    """Index and reason of the first label that cannot stand where it does. Raises as split_label does."""
    closes = scheme != "bio"
    before, kind = "O", ""
    for index, label in enumerate([*labels, "O"]):
        letter, this = split_label(label)
        is_open = before in _OPEN
        if letter in _CONTINUES and not (is_open and kind == this):
            return index, f"{label} cannot follow {_name(before, kind, index)}"
        if closes and is_open and letter not in _CONTINUES:
            last = "L" if scheme == "bilou" else "E"
            return index - 1, f"{before}-{kind} begins or continues an entity that no {last}-{kind} ends"
        before, kind = letter, this
    return None


def from_iob1(labels: Sequence[str]) -> list[str]:
    """BIO of an IOB1 sequence (B- only separates neighbours). Raises ValueError for other labels."""
    converted = []
    before, kind = "O", ""
    for label in labels:
        letter, this = split_label(label)
        if letter not in LETTERS["iob1"]:
            raise ValueError(f"{label} is not IOB1")
        starts = letter == "I" and (before == "O" or kind != this)
        converted.append(f"B-{this}" if starts else label)
        before, kind = letter, this
    return converted


def from_spans(words: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int, str]]) -> list[str]:
    """BIO labels of words [start, end) under entity spans (start, end, type), which may come in any order and stand twice.

    Raises ValueError where spans overlap, cut a word, or cover none.
    """
    labels = ["O"] * len(words)
    end_before = 0
    for start, end, kind in sorted(set(spans)):
        if start < end_before:
            raise ValueError(f"the {kind} at {start}-{end} overlaps the entity before it")
        inside = [index for index, word in enumerate(words) if word[0] < end and word[1] > start]
        if not inside:
            raise ValueError(f"the {kind} at {start}-{end} covers no word")
        if words[inside[0]][0] < start or words[inside[-1]][1] > end:
            raise ValueError(f"the {kind} at {start}-{end} begins or ends inside a word")
        for index in inside:
            labels[index] = f"{'B' if index == inside[0] else 'I'}-{kind}"
        end_before = end
    return labels


def _name(letter: str, kind: str, index: int) -> str:
    if index == 0:
        return "the start of a sentence"
    return letter if letter == "O" else f"{letter}-{kind}"
