"""JSON as data files have it: what Python's parser reads, but no object that has a key twice, of which one would be lost.

Does not know rows or files. Documents of strangers, which two parsers must read alike, are for adapters.strict_json.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


class RepeatedKey(ValueError):
    """An object has a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise RepeatedKey(f"the key {key!r} stands twice in one object")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_unique)
"""Raises RepeatedKey, other ValueErrors for what is no JSON, RecursionError."""
