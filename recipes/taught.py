"""Which encoded rows something can be learnt of: those with a target that was not cut off, and has a token.

A batch of others has a loss that is no number. Does not encode or cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from adapthub.recipes.batches import IGNORED
from adapthub.recipes.recipe import Encoded, Row, Rows


def taught(encoded: Encoded) -> Sequence[Row]:
    """The rows with a target, in their order."""
    nothing = set(untaught(encoded))
    if not nothing:
        return encoded.rows
    return Rows(encoded.rows, [at for at in range(len(encoded.rows)) if at not in nothing])


def untaught(encoded: Encoded) -> list[int]:
    """The places of the others. Rows that know them say so by `untaught`, without being made."""
    if encoded.supervised >= encoded.targets:
        return []
    known: list[int] | None = getattr(encoded.rows, "untaught", None)
    if known is not None:
        return known
    return [at for at, row in enumerate(encoded.rows) if not _has_target(row)]


def _has_target(row: Row) -> bool:
    labels = row.get("labels")
    return not isinstance(labels, list) or not labels or max(labels) != IGNORED
