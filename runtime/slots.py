"""Slots: which adapters have one, who gets one next, and who leaves for them.

First asked, first served. Adapters that nobody holds, asks for or pinned leave first, in the order of `tier`. Whoever has
waited for `patience` seconds drains others, the lowest first: those are not ready any more, and leave once nobody holds
them.

Keeps the books. Does not attach, detach or read: whoever asks for `loads` does. Not thread-safe: Residency's lock is held.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from adapthub.adapters.errors import OutOfMemory
from adapthub.runtime.asks import Asks
from adapthub.runtime.registered import Registered
from adapthub.runtime.tier import Tier

# Seconds between "not ready any more" and being evicted: whoever was told "ready" before holds it by then.
_GRACE = 0.1
_ROOM = "Give the runtime more slots or slot_bytes, or unpin an adapter."


class Slots:
    """`count` slots of `size` bytes together, None for no bound, for `adapters` by digest; `asks` says who wants which."""

    def __init__(
        self,
        count: int | None,
        size: int | None,
        adapters: Mapping[str, Registered],
        asks: Asks,
        patience: float,
    ) -> None:
        self._tier = Tier(count, size)  # stages loading, slot, leaving
        self._adapters = adapters
        self._asks = asks
        self._patience = patience
        # Since when; these are not ready, and leave with their last holder.
        self._draining: dict[str, float] = {}
        self._drains_at = math.inf  # when a `want` is to look after them

    def is_ready(self, adapter: Registered) -> bool:
        """Whether it is in a slot, and stays there until it is held."""
        return adapter.stage == "slot" and adapter.digest not in self._draining

    def is_due(self, digests: Sequence[str], now: float) -> bool:
        """Whether who drains is to be decided again: patience ended, or one of these drains."""
        return now > self._drains_at or bool(self._draining.keys() & {*digests})

    def check_room(self, adapters: Sequence[Registered]) -> None:
        """Raise OutOfMemory where these can never be in slots at once, beside the pinned ones."""
        together = {*adapters, *(adapter for adapter in self._asks.pinned if adapter.failure is None)}
        if len(together) > self._tier.count:
            raise OutOfMemory(
                f"{len(together)} adapters at once need more than {self._tier.count} slots", hint=_ROOM
            )
        needed = sum(adapter.need for adapter in together if adapter.host or adapter.measured)
        if needed > self._tier.size:
            raise OutOfMemory(
                f"{len(together)} adapters at once need {needed} bytes; the slots have {self._tier.size}",
                hint=_ROOM,
            )

    def loads(self, now: float, *, may_drain: bool = False) -> Iterator[tuple[Registered, list[Registered]]]:
        """What is missing, read and gets a slot now, each with those whose slots it takes, which must be detached first."""
        earlier = self._draining if may_drain else None
        if may_drain:
            self._draining = {}
        self._drains_at = math.inf
        kept: set[str] = set()  # asked for as early or earlier: not to be evicted
        before: list[Registered] = []  # still being read: the room for them is not given away
        for ask in self._asks:
            kept.update(adapter.digest for adapter in ask.adapters)
            for adapter in ask.adapters:
                if not adapter.missing or adapter in before:
                    continue
                before.append(adapter)
                if adapter.host is None or adapter.stage == "leaving":
                    continue
                coming = [adapter.need for adapter in before]
                victims = self._tier.victims(coming, self._idle(kept, now))
                if victims is None and earlier is not None and now > ask.since + self._patience:
                    victims = self._drain(coming, kept, earlier, now)
                if victims is None:
                    ends = (ask.since + self._patience, *(t + _GRACE for t in self._draining.values()))
                    self._drains_at = min((end for end in ends if end >= now), default=now)
                    return
                before.remove(adapter)
                yield adapter, self._give(adapter, victims)

    def hold(self, adapter: Registered, now: float) -> None:
        """A request runs on it."""
        adapter.holders += 1
        adapter.uses += 1
        adapter.last_used = now
        self._tier.use(adapter.digest)

    def leave(self, adapter: Registered) -> None:
        """It is about to be detached, for another reason than room for others."""
        adapter.stage = "leaving"
        self._draining.pop(adapter.digest, None)

    def was_attached(self, adapter: Registered, size: int) -> bool:
        """It is in its slot and takes `size` bytes; False where binding took more than its tensors, and that is too much."""
        adapter.need, adapter.measured, adapter.stage = size, True, "slot"
        self._tier.put(adapter.digest, size)
        self._tier.use(adapter.digest)
        return not self._tier.lacks([])

    def was_detached(self, adapter: Registered) -> None:
        """It is in no slot any more, or never came into the one that it was given."""
        adapter.stage = "out"
        if adapter.digest in self._tier.held:
            self._tier.drop(adapter.digest)

    def _attached(self) -> list[Registered]:
        return [a for digest in self._tier.held if (a := self._adapters[digest]).stage == "slot"]

    def _idle(self, kept: Collection[str], now: float) -> list[str]:
        """What may be evicted: nobody holds it, and nobody asks for it or it is drained."""
        asked = {adapter for ask in self._asks for adapter in ask.adapters}
        idle = [a for a in self._attached() if a not in asked or a.digest in self._draining]
        return [a.digest for a in idle if a.digest not in kept and not a.pinned and self._is_done(a, now)]

    def _is_done(self, adapter: Registered, now: float) -> bool:
        since = self._draining.get(adapter.digest, -math.inf)
        return adapter.holders == 0 and now > since + _GRACE

    def _drain(
        self, coming: Sequence[int], kept: Collection[str], earlier: Mapping[str, float], now: float
    ) -> list[str] | None:
        """Make room whoever asks for what has it or holds it: the lowest drain, and once they are done they are returned.

        `earlier`: what drained till now.
        """
        among = [a.digest for a in self._attached() if a.digest not in kept and not a.pinned]
        victims = self._tier.victims(coming, among) or []
        self._draining = {digest: earlier.get(digest, now) for digest in victims}
        done = all(self._is_done(self._adapters[digest], now) for digest in victims)
        return victims if victims and done else None

    def _give(self, adapter: Registered, victims: Sequence[str]) -> list[Registered]:
        """Give `adapter` the slots of `victims`; returns those."""
        leaving = [self._adapters[digest] for digest in victims]
        for victim in leaving:
            self.leave(victim)
            self._tier.drop(victim.digest, evicted=True)
        adapter.stage = "loading"
        self._tier.put(adapter.digest, adapter.need)
        return leaving
