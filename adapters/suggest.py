"""Near names for an error's hint. Does not search anything itself: the caller brings the names."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from difflib import get_close_matches
from os.path import commonprefix

_LONGEST = 100  # characters that are compared
_MOST = 200  # names that are compared


def did_you_mean(wrong: str, names: Iterable[str]) -> str | None:
    """`Did you mean 'a' or 'b'?`, or the whole choice when it is short, or None."""
    known = sorted(set(names))
    near = get_close_matches(wrong, _candidates(wrong, known), n=3, cutoff=0.55)
    if near:
        return f"Did you mean {' or '.join(repr(name) for name in near)}?"
    if 0 < len(known) <= 12:
        return f"There is: {', '.join(known)}."
    return None


def _candidates(wrong: str, known: list[str]) -> list[str]:
    """The names worth comparing, which is slow: of many those that begin as `wrong` does, then those about as long."""
    if len(wrong) > _LONGEST:
        return []
    short = [name for name in known if len(name) <= 2 * _LONGEST]

    def distance(name: str) -> tuple[int, int]:
        return -len(commonprefix((name, wrong))), abs(len(name) - len(wrong))  # noqa: RUF071 - of characters

    return short if len(short) <= _MOST else heapq.nsmallest(_MOST, short, key=distance)
