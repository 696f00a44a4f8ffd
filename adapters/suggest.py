"""Near names for an error's hint. Does not search anything itself: the caller brings the names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(wrong: str, names: Iterable[str]) -> str | None:
    """`Did you mean 'a' or 'b'?`, or the whole choice when it is short, or None."""
    known = sorted(set(names))
    near = get_close_matches(wrong, known, n=3, cutoff=0.55)
    if near:
        return f"Did you mean {' or '.join(repr(name) for name in near)}?"
    if 0 < len(known) <= 12:
        return f"There is: {', '.join(known)}."
    return None
