"""Whose turn it is within the engine: who may have one more row, which running rows a step computes first, how much of whose
prompts, and which row makes room for others.

Tenants that ask for much shall cost those that ask for little next to nothing: neither a row to wait for, nor steps that
take long because of others. What is fair is a tenant's share: of all 1, by weight (scheduler). Which waiting request
comes next is the scheduler's. Plain functions over rows; they change nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from adapthub.runtime.rows import Row

_KEPT = 8  # one of so many rows is kept for tenants that have few


def has_row(
    tenant: str, running: Iterable[Row], *, shares: Mapping[str, float], rows: int, brisk: float
) -> bool:
    """Whether a tenant may have one more of `rows`.

    One that has less than its share may while there is any. Others leave the last of them, and go on only as long as not
    more than `brisk` run, with which steps are still short.
    """
    of = [row.request.tenant for row in running]
    if of.count(tenant) < shares[tenant] * rows:
        return True
    return len(of) < min(rows - rows // _KEPT, brisk)


def in_turn(running: Iterable[Row]) -> list[Row]:
    """Decoding rows, then prompts: one of every tenant, then another of every one that has more, the oldest first. Those of
    nobody, "", come last where there are tenants."""
    turns: Counter[str] = Counter()
    decoding: list[Row] = []
    filling: list[tuple[bool, int, Row]] = []
    for row in running:
        if row.pending == 1:
            decoding.append(row)
            continue
        tenant = row.request.tenant
        filling.append((not tenant, turns[tenant], row))
        turns[tenant] += 1
    return decoding + [row for *_, row in sorted(filling, key=lambda item: item[:2])]


def divided(
    whole: float, needs: Mapping[str, float], shares: Mapping[str, float], least: Mapping[str, float]
) -> dict[str, float]:
    """`whole` among those who need some, by share; what one does not need is the others'. Nobody gets less than their
    `least`, so that it may be more together."""
    parts = {}
    left, sharing = max(0.0, whole), sum(shares[tenant] for tenant in needs)
    for tenant in sorted(needs, key=lambda tenant: needs[tenant] / shares[tenant]):
        part = min(needs[tenant], left * shares[tenant] / sharing)
        parts[tenant] = max(part, least[tenant])
        left -= part
        sharing -= shares[tenant]
    return parts


def first_to_yield(rows: Sequence[Row], shares: Mapping[str, float]) -> Row:
    """Of some running rows, in the order of their admission, the one that makes room: of the tenant that has most for its
    share, and came last, the latest of the lowest priority."""
    having = Counter(row.request.tenant for row in rows)
    last = {row.request.tenant: place for place, row in enumerate(rows)}
    tenant = max(having, key=lambda tenant: (having[tenant] / shares[tenant], last[tenant]))
    own = [row for row in rows if row.request.tenant == tenant]
    lowest = min(row.request.priority for row in own)
    return [row for row in own if row.request.priority == lowest][-1]
