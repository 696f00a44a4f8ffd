"""Which adapters are asked for, together and in the order of asking; what nobody asks for again is dropped.

Does not load anything or make room. Not thread-safe: Residency's lock is held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adapthub.runtime.registered import Registered

_LAPSE = 3  # in units of patience: an ask that nobody repeats for longer is dropped


@dataclass
class Ask:
    """Somebody wants these together; gone once they are held. `last` is infinite for what is pinned."""

    adapters: list[Registered]
    since: float
    last: float


class Asks:
    """Asks by what they ask for, in the order of `since`."""

    def __init__(self, patience: float) -> None:
        self._lapse = _LAPSE * patience
        self._asks: dict[tuple[str, ...], Ask] = {}

    def __len__(self) -> int:
        return len(self._asks)

    def __iter__(self) -> Iterator[Ask]:
        return iter(self._asks.values())

    def __contains__(self, digests: Sequence[str]) -> bool:
        return _key(digests) in self._asks

    def add(self, adapters: Sequence[Registered], now: float, *, pinned: bool = False) -> None:
        """These are asked for, or asked for again; what is `pinned` is, until `unpin`."""
        key = _key([adapter.digest for adapter in adapters])
        last = math.inf if pinned else now
        ask = self._asks.setdefault(key, Ask([*adapters], now, last))
        ask.last = max(ask.last, last)

    def drop(self, digests: Sequence[str]) -> None:
        """Nobody asks for these together any more; a pinned adapter stays asked for."""
        ask = self._asks.get(_key(digests))
        if ask is not None and not math.isinf(ask.last):
            del self._asks[_key(digests)]

    def unpin(self, digest: str) -> None:
        """A pinned adapter is not asked for any more."""
        self._asks.pop(_key([digest]), None)

    def drop_all_with(self, adapter: Registered) -> None:
        """All that can no longer be served; a pinned adapter stays asked for."""
        for key, ask in [*self._asks.items()]:
            if adapter in ask.adapters and not (adapter.pinned and math.isinf(ask.last)):
                del self._asks[key]

    def lapse(self, now: float) -> None:
        """Drop what nobody repeated."""
        for key, ask in [*self._asks.items()]:
            if now - ask.last > self._lapse:
                del self._asks[key]

    def clear(self) -> None:
        self._asks.clear()

    @property
    def pinned(self) -> list[Registered]:
        """What is pinned."""
        return [ask.adapters[0] for ask in self if math.isinf(ask.last)]

    @property
    def missing(self) -> list[Registered]:
        """What has yet to be loaded, the first first."""
        asked = (adapter for ask in self for adapter in ask.adapters)
        return list(dict.fromkeys(adapter for adapter in asked if adapter.missing))


def _key(digests: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({*digests}))
