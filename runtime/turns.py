"""Whose turn it is within the engine: which running rows a step computes first, and who may have one more.

Tenants that ask for much shall cost those that ask for little next to nothing: neither a row to wait for, nor a step that
takes long because of others' prompts. Which waiting request comes next is the scheduler's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from adapthub.runtime.rows import Row

_KEPT = 8  # one of so many rows is kept for tenants that have few


def in_turn(running: Iterable[Row]) -> list[Row]:
    """Decoding rows, then prompts: one of every tenant, then another of every one that has more; short ones first."""
    turns: Counter[str] = Counter()
    keyed = []
    for place, row in enumerate(running):
        if row.pending == 1:
            keyed.append((-1, 0, place, row))
            continue
        keyed.append((turns[row.request.tenant], row.pending, place, row))
        turns[row.request.tenant] += 1
    return [row for *_, row in sorted(keyed, key=lambda item: item[:3])]


def has_row(tenant: str, running: Iterable[Row], *, tenants: int, rows: int, brisk: float) -> bool:
    """Whether `tenant`, one of so many, may have one more of `rows`.

    One that has less than an equal share may while there is any. Others leave the last of them, and go on only as long as
    not more than `brisk` run, with which steps are still short.
    """
    of = [row.request.tenant for row in running]
    if of.count(tenant) * max(1, tenants) < rows:
        return True
    return len(of) < min(rows - rows // _KEPT, brisk)
