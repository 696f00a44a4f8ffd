"""The last minute of a server, for people who look at it: tokens a second and times to tokens, by tenant and adapter.

Bounded in memory whatever comes. Keeps no texts; history beyond a minute is Prometheus' business.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.groups import Groups
from adapthub.runtime.server.observation import Observation
from adapthub.runtime.tenants.tenant import OTHER

SECONDS = 60
_SAMPLES = 512  # of each kind that one group keeps: enough for a 95th percentile


@dataclass(frozen=True)
class Quantiles:
    """Of what was measured within the last minute, in seconds."""

    p50: float
    p95: float


@dataclass(frozen=True)
class Traffic:
    """What one tenant did with one adapter within the last minute. `tokens`: generated in each of its complete seconds, the
    latest last; `requests` that ended, of them `errors`."""

    tenant: str
    adapter: str
    tokens: Sequence[int]
    requests: int
    errors: int
    first_token: Quantiles | None
    between_tokens: Quantiles | None


@dataclass
class _Group:
    requests: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    first: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    gaps: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    tokens: Counter[int] = field(default_factory=Counter)  # by second

    def forget(self, now: float) -> None:
        """What is older than a minute."""
        for samples in (self.requests, self.first, self.gaps):
            while samples and samples[0][0] < now - SECONDS:
                samples.popleft()
        for second in [second for second in self.tokens if second < int(now) - SECONDS]:
            del self.tokens[second]


class Recent:
    """The last minute of one server. Belongs to its event loop."""

    def __init__(self, groups: Groups, clock: Callable[[], float] = time.monotonic) -> None:
        self._labels = groups
        self._clock = clock
        self._groups: dict[tuple[str, str], _Group] = {}

    def count(self, tenant: str, target: Target, tokens: int) -> None:
        """Tokens were generated."""
        now = self._clock()
        group = self._group(tenant, target)
        if int(now) not in group.tokens:  # nobody may ever look
            group.forget(now)
        group.tokens[int(now)] += tokens

    def observe(self, seen: Observation) -> None:
        """A request ended."""
        now = self._clock()
        group = self._group(seen.tenant, seen.target)
        group.requests.append((now, seen.outcome == "error"))
        if seen.ttft is not None:
            group.first.append((now, seen.ttft))
        group.gaps.extend((now, gap) for gap in seen.gaps[-_SAMPLES:])

    def traffic(self, tenant: str | None = None) -> list[Traffic]:
        """By tokens, most first: everybody's, or one tenant's."""
        now = self._clock()
        self._forget(now)
        found = [
            _traffic(*labels, group, now)
            for labels, group in self._groups.items()
            if tenant is None or labels[0] == tenant != OTHER
        ]
        return sorted(found, key=lambda traffic: -sum(traffic.tokens))

    def _group(self, tenant: str, target: Target) -> _Group:
        labels = self._labels.of(tenant, target)
        if labels not in self._groups:
            self._forget(self._clock())  # those that are idle make room, whether anybody looks or not
            self._groups[labels] = _Group()
        return self._groups[labels]

    def _forget(self, now: float) -> None:
        for labels, group in list(self._groups.items()):
            group.forget(now)
            if not group.tokens and not group.requests:
                del self._groups[labels]


def _traffic(tenant: str, adapter: str, group: _Group, now: float) -> Traffic:
    return Traffic(
        tenant=tenant,
        adapter=adapter,
        tokens=[group.tokens[second] for second in range(int(now) - SECONDS, int(now))],
        requests=len(group.requests),
        errors=sum(failed for _, failed in group.requests),
        first_token=_quantiles([value for _, value in group.first]),
        between_tokens=_quantiles([value for _, value in group.gaps]),
    )


def _quantiles(values: Sequence[float]) -> Quantiles | None:
    """The nearest rank, upwards."""
    if not values:
        return None
    ordered = sorted(values)
    return Quantiles(*(ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in (0.5, 0.95)))
