"""Pieces of text that are safe to print: names, labels and messages come from other people's files.

Does not print.
"""

from __future__ import annotations

import unicodedata

# left-to-right and right-to-left embeddings, overrides and isolates
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: str) -> str:
    """`text` with control and direction-changing characters replaced, so that it cannot drive a terminal."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if _drives_terminal(character) else character for character in text
    )


def one_line(text: str) -> str:
    """`text` on one line, safe to print."""
    return clean(" ".join(text.split()))


def width(text: str) -> int:
    """How many terminal columns `text` takes: wide East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def size(count: int) -> str:
    """`count` bytes for a person: `84.1 MB` (powers of 1000)."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def duration(seconds: float) -> str:
    """`seconds` for a person: `0.4 s`, `12 s`, `3 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def _drives_terminal(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in _BIDIRECTIONAL
