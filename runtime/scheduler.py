"""Who runs next: fair shares for tenants, then what a tenant asks for first.

Fairness is the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): each
tenant's counter grows with the tokens it was served, by price and divided by its weight; the waiting tenant with the
lowest counter goes first. A tenant that starts to wait is lifted to the lowest counter among those that wait, so that
idling saves nothing up. Between two tenants that both wait all the time, served costs by weight differ by at most
2 * max(input price * longest prompt, output price * tokens that run at once) (their theorem 4.4), as long as nobody is kept
from starting by `may_start`.

Does not know pages, adapters, tensors or threads: its owner, the engine's thread, answers what fits and what is loaded,
and says what was served.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from adapthub.adapters.errors import Conflict, InvalidSettings, Overloaded

_RECENT = 60.0  # seconds for which a tenant that asked has its share


@dataclass(frozen=True)
class Waiting:
    """A request that waits. `cost`: prompt tokens; `priority`: higher goes first within the tenant; `deadline` and
    `arrived`: seconds on the scheduler's clock."""

    id: str
    tenant: str
    digests: tuple[str, ...]
    cost: int
    arrived: float
    priority: int = 0
    deadline: float | None = None


class Scheduler:
    """The queue of one engine. Not thread-safe.

    `weights`: a tenant's share, 1 where it is not named; looked up whenever it is needed, so that shares change with the
    mapping, whose owner keeps to positive numbers. `queue_limit`: requests that may wait, put-back ones not counted;
    half of them of one tenant, all of "", who is everybody where there are no tenants. The first one of a tenant is taken
    above it too, so that others keep nobody out, until twice as many wait. `patience`: seconds after which a request no
    longer yields to younger ones whose adapters are loaded.

    Raises InvalidSettings for a weight or price that is not a positive number, and for a queue that takes nothing.
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, float] | None = None,
        input_price: float = 1.0,
        output_price: float = 2.0,
        queue_limit: int = 1024,
        patience: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._weights: Mapping[str, float] = {} if weights is None else weights
        named = {f"the weight of tenant {tenant!r}": weight for tenant, weight in self._weights.items()}
        for name, value in (named | {"input_price": input_price, "output_price": output_price}).items():
            if not (value > 0 and math.isfinite(value)):
                raise InvalidSettings(f"{name} is {value}", hint="Give a positive number.")
        if not (isinstance(queue_limit, int) and queue_limit > 0):  # a caller would try again for ever
            raise InvalidSettings(f"queue_limit is {queue_limit!r}", hint="Give a whole number above 0.")
        self._input_price = input_price
        self._output_price = output_price
        self.queue_limit = queue_limit
        self._patience = patience
        self._clock = clock
        self._queues: dict[str, dict[str, Waiting]] = {}  # by tenant, then by id; no tenant without requests
        self._tenants: dict[str, str] = {}  # by id
        self._returned: set[str] = set()  # ids that ran already and were put back
        self._counters: dict[str, float] = {}
        self._asked: dict[str, float] = {}  # when each tenant's latest request came
        self._last_left: str | None = None  # the tenant whose request was the last to leave

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._tenants)

    @property
    def counters(self) -> Mapping[str, float]:
        """Each tenant's virtual token counter: a snapshot."""
        return dict(self._counters)

    def submit(self, waiting: Waiting) -> None:
        """Queue a request. Raises Overloaded when the queue or its tenant's part is full, Conflict for an id that waits
        already."""
        if waiting.id in self._tenants:
            raise Conflict(f"request {waiting.id!r} is waiting already")
        self._check_room(waiting.tenant)
        self._asked[waiting.tenant] = self._clock()
        self._add(waiting)

    def put_back(self, waiting: Waiting) -> None:
        """Queue a request again that was chosen and had to stop: first within its tenant, however full the queue is."""
        if waiting.id in self._tenants:
            raise Conflict(f"request {waiting.id!r} is waiting already")
        self._add(waiting)
        self._returned.add(waiting.id)

    def remove(self, id: str) -> bool:
        """Take a request out; False where no such request waits."""
        if id not in self._tenants:
            return False
        self._take(id)
        return True

    def expired(self) -> list[Waiting]:
        """Take out and return the requests whose deadline passed while they waited, oldest first."""
        now = self._clock()
        late = [w for w in self._waiting() if w.deadline is not None and w.deadline <= now]
        for waiting in late:
            self._take(waiting.id)
        return sorted(late, key=lambda waiting: waiting.arrived)

    def choose(
        self,
        admissible: Callable[[Waiting], bool],
        resident: Callable[[Waiting], bool],
        may_start: Callable[[str], bool] = lambda _: True,
    ) -> Waiting | None:
        """Take out and return the request that runs next; None where nothing can.

        `admissible`: whether it could start now. `resident`: whether its adapters are loaded. `may_start`: whether a tenant
        may have one more that runs; one that may not is passed over. What is not resident is passed over too, so that an
        adapter that loads holds nobody up. A resident request that lacks only room ends the search, as in the paper: small
        requests would else take its room for ever, and its tenant's share. So a resident request must be admissible when
        nothing runs.

        Charge the answer's input before the next call: its tenant would else be chosen again and again.
        """
        now = self._clock()
        for tenant in sorted(self._queues, key=self._counters.__getitem__):
            if not may_start(tenant):
                continue
            for waiting, loaded in self._ordered(tenant, resident, now):
                if admissible(waiting):
                    self._take(waiting.id)
                    return waiting
                if loaded:
                    return None
        return None

    def shares(self, running: Iterable[str]) -> dict[str, float]:
        """What is fair for each tenant, of all 1, by weight: for those that wait, run, or asked within the last minute."""
        recent = self._clock() - _RECENT
        self._asked = {tenant: when for tenant, when in self._asked.items() if when > recent}
        weights = {
            tenant: self._weights.get(tenant, 1.0) for tenant in {*self._queues, *self._asked, *running}
        }
        whole = sum(weights.values())
        return {tenant: weight / whole for tenant, weight in weights.items()}

    def charge(self, tenant: str, *, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Tokens that a tenant was served: computed anew for its prompts, and generated."""
        cost = self._input_price * input_tokens + self._output_price * output_tokens
        self._counters[tenant] = self._counters.get(tenant, 0.0) + cost / self._weights.get(tenant, 1.0)

    def upcoming(self, count: int) -> list[Waiting]:
        """The `count` requests that would be chosen next if all could start: whose adapters to fetch."""
        now = self._clock()
        queues = {tenant: self._ordered(tenant, lambda _: False, now) for tenant in self._queues}
        counters = {tenant: self._counters[tenant] for tenant in queues}
        result: list[Waiting] = []
        while counters and len(result) < count:
            tenant = min(counters, key=counters.__getitem__)
            found = next(queues[tenant], None)
            if found is None:
                del counters[tenant]
                continue
            result.append(found[0])
            counters[tenant] += self._input_price * found[0].cost / self._weights.get(tenant, 1.0)
        return result

    def _ordered(
        self, tenant: str, resident: Callable[[Waiting], bool], now: float
    ) -> Iterator[tuple[Waiting, bool]]:
        """A tenant's requests and whether they are resident: put-back ones, then by priority, then residents and old
        ones, then by age."""
        keyed = []
        for place, waiting in enumerate(self._queues[tenant].values()):
            loaded = resident(waiting)
            yields = not loaded and not self._is_old(waiting, now)
            key = (waiting.id not in self._returned, -waiting.priority, yields, waiting.arrived, place)
            keyed.append((key, waiting, loaded))
        keyed.sort(key=lambda item: item[0])
        return iter([(waiting, loaded) for _, waiting, loaded in keyed])

    def _check_room(self, tenant: str) -> None:
        count = len(self._tenants) - len(self._returned)
        own = sum(id not in self._returned for id in self._queues.get(tenant, ()))
        if count >= (self.queue_limit if own else 2 * self.queue_limit):
            raise Overloaded(
                f"the queue holds {count} requests, as many as it takes",
                hint="Send it again later, or raise queue_limit.",
            )
        if tenant and own >= max(1, self.queue_limit // 2):
            raise Overloaded(
                f"{own} requests of this caller wait already, as many as may",
                hint="Send more once they are answered.",
            )

    def _is_old(self, waiting: Waiting, now: float) -> bool:
        return now - waiting.arrived > self._patience

    def _waiting(self) -> Iterator[Waiting]:
        return (waiting for queue in self._queues.values() for waiting in queue.values())

    def _add(self, waiting: Waiting) -> None:
        tenant = waiting.tenant
        if tenant not in self._queues:
            self._counters[tenant] = max(self._counters.get(tenant, 0.0), self._level())
        self._queues.setdefault(tenant, {})[waiting.id] = waiting
        self._tenants[waiting.id] = tenant

    def _level(self) -> float:
        """What a tenant that starts to wait has at least: the lowest counter of those that wait, or where nobody does,
        that of the last who did."""
        if self._queues:
            return min(self._counters[tenant] for tenant in self._queues)
        return self._counters[self._last_left] if self._last_left is not None else 0.0

    def _take(self, id: str) -> Waiting:
        tenant = self._tenants.pop(id)
        waiting = self._queues[tenant].pop(id)
        self._returned.discard(id)
        if not self._queues[tenant]:
            del self._queues[tenant]
        self._last_left = tenant
        return waiting
