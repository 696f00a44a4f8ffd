"""The scheduler against a naive one that follows the paper's pseudo-code, and the paper's bound on random traces."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adapthub.adapters.errors import Conflict, InvalidSettings, Overloaded
from adapthub.runtime.scheduler import Scheduler, Waiting

PATIENCE = 2.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def always(_: Waiting) -> bool:
    return True


def never(_: Waiting) -> bool:
    return False


def request(
    id: str,
    tenant: str = "t",
    *,
    digests: Sequence[str] = (),
    cost: int = 1,
    arrived: float = 0.0,
    priority: int = 0,
    deadline: float | None = None,
) -> Waiting:
    return Waiting(id, tenant, tuple(digests), cost, arrived, priority, deadline)


def drained(scheduler: Scheduler, resident: Callable[[Waiting], bool] = always) -> list[str]:
    """All that wait, in the order in which they are chosen, each charged as it is."""
    order = []
    while (chosen := scheduler.choose(always, resident)) is not None:
        scheduler.charge(chosen.tenant, input_tokens=chosen.cost)
        order.append(chosen.id)
    return order


def test_a_tenant_gets_its_requests_in_order_of_arrival() -> None:
    scheduler = Scheduler(clock=Clock())
    for id, arrived in (("late", 3.0), ("early", 1.0), ("middle", 2.0)):
        scheduler.submit(request(id, arrived=arrived))
    assert drained(scheduler) == ["early", "middle", "late"]
    assert scheduler.choose(always, always) is None


def test_tenants_share_however_many_requests_each_sends() -> None:
    scheduler = Scheduler(clock=Clock())
    for i in range(6):
        scheduler.submit(request(f"many{i}", "many", cost=10))
    for i in range(2):
        scheduler.submit(request(f"few{i}", "few", cost=10))
    order = [id[:-1] for id in drained(scheduler)]
    assert order == ["many", "few", "many", "few", "many", "many", "many", "many"]


def test_a_weight_is_a_share() -> None:
    scheduler = Scheduler(weights={"paying": 3.0}, clock=Clock())
    for i in range(40):
        for tenant in ("paying", "free"):
            scheduler.submit(request(f"{tenant}{i}", tenant, cost=5))
    served = Counter(id.rstrip("0123456789") for id in drained(scheduler)[:40])
    assert served == {"paying": 30, "free": 10}


def test_a_weight_that_changes_changes_the_share_from_then_on() -> None:
    weights: dict[str, float] = {}  # an empty one too
    scheduler = Scheduler(weights=weights, clock=Clock())
    for i in range(40):
        for tenant in ("first", "second"):
            scheduler.submit(request(f"{tenant}{i}", tenant, cost=5))

    def served(count: int) -> Counter[str]:
        tenants = []
        for _ in range(count):
            chosen = scheduler.choose(always, always)
            assert chosen
            scheduler.charge(chosen.tenant, input_tokens=5)
            tenants.append(chosen.tenant)
        return Counter(tenants)

    assert served(10) == {"first": 5, "second": 5}
    weights["second"] = 4.0
    assert served(20) == {"first": 4, "second": 16}
    del weights["second"]
    assert served(10) == {"first": 5, "second": 5}


def test_prices_and_weights_make_the_counter() -> None:
    scheduler = Scheduler(weights={"t": 4.0}, input_price=3.0, output_price=5.0)
    scheduler.charge("t", input_tokens=2, output_tokens=6)
    assert scheduler.counters == {"t": (3 * 2 + 5 * 6) / 4}


def test_idling_saves_nothing_up() -> None:
    """A tenant that comes back is lifted to the least of those that wait: it does not take the engine for itself."""
    scheduler = Scheduler(clock=Clock())
    for i in range(20):
        scheduler.submit(request(f"busy{i}", "busy", cost=10))
    for _ in range(10):
        chosen = scheduler.choose(always, always)
        assert chosen
        scheduler.charge("busy", input_tokens=10)
    for i in range(10):
        scheduler.submit(request(f"idle{i}", "idle", cost=10))
    assert [id[:4] for id in drained(scheduler)[:6]] == ["busy", "idle", "busy", "idle", "busy", "idle"]


def test_idling_while_nobody_waits_saves_nothing_up_either() -> None:
    scheduler = Scheduler(clock=Clock())
    scheduler.submit(request("a", "first", cost=100))
    assert drained(scheduler) == ["a"]
    scheduler.submit(request("b", "second"))
    assert scheduler.counters["second"] == scheduler.counters["first"] == 100


def test_running_is_not_a_debt_that_idling_forgives() -> None:
    """The lift never lowers a counter: who was served much waits for the others, also after a pause."""
    scheduler = Scheduler(clock=Clock())
    scheduler.charge("greedy", output_tokens=50)
    scheduler.submit(request("m", "modest", cost=10))
    scheduler.submit(request("g", "greedy", cost=10))
    assert drained(scheduler) == ["m", "g"]
    assert scheduler.counters["greedy"] == 110


def test_priority_goes_first_within_its_tenant_only() -> None:
    scheduler = Scheduler(clock=Clock())
    scheduler.charge("urgent", output_tokens=10)
    scheduler.submit(request("calm", "calm"))
    scheduler.submit(request("low", "urgent", arrived=0))
    scheduler.submit(request("high", "urgent", arrived=1, priority=5))
    assert drained(scheduler) == ["calm", "high", "low"]


def test_loaded_adapters_go_first_until_patience_ends() -> None:
    clock = Clock()
    scheduler = Scheduler(patience=PATIENCE, clock=clock)
    scheduler.submit(request("cold", digests=["cold"], arrived=0))
    scheduler.submit(request("warm1", digests=["warm"], arrived=1))
    scheduler.submit(request("warm2", digests=["warm"], arrived=1.5))

    def resident(waiting: Waiting) -> bool:
        return waiting.digests == ("warm",)

    clock.now = 1.9
    first = scheduler.choose(always, resident)
    assert first
    assert first.id == "warm1"
    clock.now = 2.1
    second = scheduler.choose(always, resident)
    assert second
    assert second.id == "cold"


def test_a_request_whose_adapter_loads_holds_nobody_up() -> None:
    clock = Clock()
    scheduler = Scheduler(patience=PATIENCE, clock=clock)
    scheduler.submit(request("cold", "a", digests=["cold"]))
    scheduler.submit(request("warm", "a", arrived=1))
    scheduler.charge("b", output_tokens=5)
    scheduler.submit(request("other", "b", arrived=1))
    clock.now = 100.0  # however old it is

    def loaded(waiting: Waiting) -> bool:
        return not waiting.digests

    chosen = [
        scheduler.choose(loaded, loaded),
        scheduler.choose(loaded, loaded),
        scheduler.choose(loaded, loaded),
    ]
    assert [w and w.id for w in chosen] == ["warm", "other", None]
    assert [w.id for w in scheduler.upcoming(5)] == ["cold"]


def test_a_large_request_is_not_overtaken_for_ever() -> None:
    """What lacks only room keeps its place: small requests of others do not take the room that it waits for."""
    scheduler = Scheduler(clock=Clock())
    scheduler.submit(request("large", "a", cost=100))
    scheduler.charge("b", output_tokens=1)
    scheduler.submit(request("small", "b", cost=1))
    assert scheduler.choose(lambda waiting: waiting.cost < 100, always) is None
    assert drained(scheduler) == ["large", "small"]


def test_a_full_queue_refuses_and_says_so() -> None:
    scheduler = Scheduler(queue_limit=2, clock=Clock())
    scheduler.submit(request("a", ""))
    scheduler.submit(request("b", ""))
    with pytest.raises(Overloaded, match="the queue holds 2 requests"):
        scheduler.submit(request("c", ""))
    chosen = scheduler.choose(always, always)
    assert chosen
    scheduler.submit(request("c", ""))
    scheduler.put_back(chosen)  # has been let in before
    assert len(scheduler) == 3
    assert drained(scheduler) == ["a", "b", "c"]
    scheduler.submit(request("d", ""))
    scheduler.submit(request("e", ""))
    assert len(scheduler) == 2


def test_no_tenant_fills_the_queue_alone_or_keeps_another_out() -> None:
    scheduler = Scheduler(queue_limit=4, clock=Clock())
    for number in range(2):
        scheduler.submit(request(f"a{number}", "a"))
    with pytest.raises(Overloaded, match="2 requests of this caller wait already"):
        scheduler.submit(request("a2", "a"))
    for number in range(2):
        scheduler.submit(request(f"b{number}", "b"))
    for tenant in "cdef":  # the queue is full, and they have nothing in it
        scheduler.submit(request(f"{tenant}0", tenant))
        with pytest.raises(Overloaded, match="the queue holds"):
            scheduler.submit(request(f"{tenant}1", tenant))
    with pytest.raises(Overloaded, match="the queue holds 8 requests"):  # however many names there are
        scheduler.submit(request("g0", "g"))
    assert len(scheduler) == 8


def test_what_is_put_back_does_not_take_the_place_of_others() -> None:
    scheduler = Scheduler(queue_limit=1, clock=Clock())
    scheduler.put_back(request("preempted"))
    scheduler.submit(request("new"))
    with pytest.raises(Overloaded):
        scheduler.submit(request("newer"))


def test_put_back_goes_first_within_its_tenant() -> None:
    scheduler = Scheduler(clock=Clock())
    scheduler.submit(request("urgent", arrived=0, priority=9))
    scheduler.put_back(request("preempted", arrived=1))
    assert drained(scheduler) == ["preempted", "urgent"]


def test_an_id_waits_once() -> None:
    scheduler = Scheduler(clock=Clock())
    scheduler.submit(request("a"))
    with pytest.raises(Conflict, match="'a'"):
        scheduler.submit(request("a"))
    with pytest.raises(Conflict, match="'a'"):
        scheduler.put_back(request("a"))
    assert scheduler.remove("a")
    assert not scheduler.remove("a")
    assert len(scheduler) == 0


def test_deadlines_end_waiting() -> None:
    clock = Clock()
    scheduler = Scheduler(clock=clock)
    scheduler.submit(request("late", deadline=3.0, arrived=1))
    scheduler.submit(request("later", deadline=2.0, arrived=2))
    scheduler.submit(request("patient"))
    scheduler.put_back(request("preempted", "u", deadline=2.5, arrived=0))
    clock.now = 1.9
    assert scheduler.expired() == []
    clock.now = 3.0
    assert [w.id for w in scheduler.expired()] == ["preempted", "late", "later"]
    assert scheduler.expired() == []
    assert drained(scheduler) == ["patient"]


def test_upcoming_is_what_would_be_chosen() -> None:
    scheduler = Scheduler(weights={"b": 2.0}, clock=Clock())
    for i in range(6):
        for tenant in "abc":
            scheduler.submit(request(f"{tenant}{i}", tenant, cost=3 + i, arrived=i, priority=i % 2))
    before = scheduler.counters
    ahead = [w.id for w in scheduler.upcoming(100)]
    assert scheduler.counters == before
    assert len(ahead) == 18
    assert [w.id for w in scheduler.upcoming(7)] == ahead[:7]
    assert drained(scheduler, never) == ahead


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_and_prices_are_positive_numbers(value: float) -> None:
    with pytest.raises(InvalidSettings, match="tenant 'acme'"):
        Scheduler(weights={"acme": value})
    with pytest.raises(InvalidSettings, match="output_price"):
        Scheduler(output_price=value)


@pytest.mark.parametrize("limit", [0, -1, 0.5])
def test_a_queue_takes_one_request_at_least(limit: Any) -> None:
    with pytest.raises(InvalidSettings, match=f"queue_limit is {limit}") as refused:
        Scheduler(queue_limit=limit)
    assert refused.value.hint == "Give a whole number above 0."


# The paper's bound, on an engine that keeps `room` tokens and gives every running request one token a step.


@dataclass
class Trace:
    """Served cost of each tenant, by weight, and who had requests waiting, after every step."""

    served: list[dict[str, float]] = field(default_factory=list)
    waiting: list[set[str]] = field(default_factory=list)
    spread: float = 0.0


@dataclass
class Load:
    tenants: int
    weights: dict[str, float]
    room: int
    longest: int
    arrivals: list[list[tuple[str, int, int]]]  # a step's (tenant, prompt tokens, output tokens)


@st.composite
def loads(draw: st.DrawFn) -> Load:
    tenants = draw(st.integers(2, 4))
    names = [f"t{i}" for i in range(tenants)]
    room = draw(st.integers(20, 60))
    longest = draw(st.integers(1, 15))
    randomness = random.Random(draw(st.integers(0, 2**32)))
    rates = [randomness.choice((0.05, 0.3, 1.0, 3.0)) for _ in names]
    arrivals = []
    for _ in range(draw(st.integers(20, 60))):
        step = []
        for name, rate in zip(names, rates, strict=True):
            count = int(rate) + (randomness.random() < rate % 1)
            step += [(name, randomness.randint(1, longest), randomness.randint(1, 5)) for _ in range(count)]
        arrivals.append(step)
    weights = {name: randomness.choice((1.0, 1.0, 2.0)) for name in names}
    return Load(tenants, weights, room, longest, arrivals)


def simulated(load: Load, scheduler: Scheduler, outputs: dict[str, int]) -> tuple[Trace, set[str]]:
    """Runs all arrivals, then until nothing is left; returns the trace and the ids that finished."""
    trace, finished = Trace(), set()
    served: dict[str, float] = defaultdict(float)
    running: dict[str, tuple[Waiting, int]] = {}  # and the tokens still to give
    ids = itertools.count()

    def pay(tenant: str, input_tokens: int, output_tokens: int) -> None:
        scheduler.charge(tenant, input_tokens=input_tokens, output_tokens=output_tokens)
        served[tenant] += (input_tokens + 2.0 * output_tokens) / load.weights[tenant]

    def fits(waiting: Waiting) -> bool:
        used = sum(other.cost + outputs[other.id] for other, _ in running.values())
        return used + waiting.cost + outputs[waiting.id] <= load.room

    for step in itertools.count():
        for tenant, prompt, output in load.arrivals[step] if step < len(load.arrivals) else ():
            id = str(next(ids))
            outputs[id] = output
            scheduler.submit(request(id, tenant, cost=prompt, arrived=step))
        while (chosen := scheduler.choose(fits, always)) is not None:
            assert chosen.id not in running
            running[chosen.id] = (chosen, outputs[chosen.id])
            pay(chosen.tenant, chosen.cost, 0)
        assert running or not len(scheduler), "work conservation: nothing runs and something waits"
        waiting = {w.tenant for w in scheduler.upcoming(10**6)}
        if waiting:
            counters = [scheduler.counters[tenant] for tenant in waiting]
            trace.spread = max(trace.spread, max(counters) - min(counters))
        for id, (request_, left) in list(running.items()):
            pay(request_.tenant, 0, 1)
            running[id] = (request_, left - 1)
            if left == 1:
                del running[id]
                finished.add(id)
        trace.served.append(dict(served))
        trace.waiting.append(waiting)
        if step >= len(load.arrivals) and not running and not len(scheduler):
            return trace, finished
    raise AssertionError


@settings(max_examples=60)
@given(loads())
def test_the_fairness_bound_of_the_paper_holds(load: Load) -> None:
    outputs: dict[str, int] = {}
    trace, finished = simulated(
        load, Scheduler(weights=load.weights, queue_limit=10**6, clock=Clock()), outputs
    )
    assert finished == set(outputs), "nothing is lost and nobody starves"
    lightest = min(load.weights.values())
    bound = max(load.longest, 2.0 * load.room) / lightest
    assert trace.spread <= bound + 1e-9  # lemma 4.3
    for one, other in itertools.combinations(load.weights, 2):
        start = None
        for step, waiting in enumerate(trace.waiting):
            if not {one, other} <= waiting:
                start = None
                continue
            start = step if start is None else start
            for earlier in range(start, step):
                costs = [
                    trace.served[step].get(tenant, 0.0) - trace.served[earlier].get(tenant, 0.0)
                    for tenant in (one, other)
                ]
                assert abs(costs[0] - costs[1]) <= 2 * bound + 1e-9  # theorem 4.4


def test_first_come_first_served_breaks_the_bound() -> None:
    """The trace above can tell: a scheduler that knows no tenants is found out."""

    class Fifo(Scheduler):
        def charge(self, tenant: str, *, input_tokens: int = 0, output_tokens: int = 0) -> None:
            return

    names = {"greedy": 1.0, "modest": 1.0}
    arrivals = [[("greedy", 5, 5)] * 40 + [("modest", 5, 5)] * 40]
    load = Load(2, names, 20, 5, arrivals)
    trace, _ = simulated(load, Fifo(queue_limit=10**6, clock=Clock()), {})
    gap = max(
        abs(served.get("greedy", 0) - served.get("modest", 0))
        for served, waiting in zip(trace.served, trace.waiting, strict=True)
        if waiting == set(names)
    )
    assert gap > 2 * max(5, 2 * 20)


def test_an_endless_stream_on_a_loaded_adapter_starves_nobody() -> None:
    """Of one tenant: an old request goes first in the very step in which its adapter is there."""
    clock = Clock()
    scheduler = Scheduler(patience=PATIENCE, clock=clock)
    scheduler.submit(request("cold", digests=["cold"], arrived=0.0))
    loaded = {"warm"}

    def resident(waiting: Waiting) -> bool:
        return set(waiting.digests) <= loaded

    for step in range(100):
        clock.now = step / 10
        scheduler.submit(request(f"warm{step}", digests=["warm"], arrived=clock.now))
        if step == 50:
            loaded.add("cold")
        chosen = scheduler.choose(resident, resident)
        assert chosen
        assert (chosen.id == "cold") == (step == 50)
        scheduler.charge("t", input_tokens=1)


class Naive:
    """The paper's algorithm 2 with the order within a tenant, written for reading: lists, no indices."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.queue: list[tuple[Waiting, bool]] = []  # and whether it was put back
        self.weights = weights
        self.counters: dict[str, float] = {}
        self.last: str | None = None

    def add(self, waiting: Waiting, returned: bool) -> None:
        tenants = {w.tenant for w, _ in self.queue}
        own = self.counters.setdefault(waiting.tenant, 0.0)
        if waiting.tenant not in tenants:
            if tenants:
                own = max(own, min(self.counters[tenant] for tenant in tenants))
            elif self.last is not None:
                own = max(own, self.counters[self.last])
            self.counters[waiting.tenant] = own
        self.queue.append((waiting, returned))

    def take(self, id: str) -> Waiting:
        (found,) = [entry for entry in self.queue if entry[0].id == id]
        self.queue.remove(found)
        self.last = found[0].tenant
        return found[0]

    def order(self, tenant: str, loaded: set[str], now: float) -> list[Waiting]:
        rest = [entry for entry in self.queue if entry[0].tenant == tenant]
        result = []
        for returned in (True, False):
            some = [w for w, r in rest if r == returned]
            for priority in sorted({w.priority for w in some}, reverse=True):
                level = sorted((w for w in some if w.priority == priority), key=lambda w: w.arrived)
                early = [w for w in level if set(w.digests) <= loaded or now - w.arrived > PATIENCE]
                result += early + [w for w in level if w not in early]
        return result

    def choose(self, fitting: set[str], loaded: set[str], now: float) -> set[str] | None:
        """The id that must be chosen; several where tenants are equal; None for nothing."""
        tenants = {w.tenant for w, _ in self.queue}
        for counter in sorted({self.counters[tenant] for tenant in tenants}):
            answers: set[str] = set()
            for tenant in (t for t in tenants if self.counters[t] == counter):
                for waiting in self.order(tenant, loaded, now):
                    if set(waiting.digests) <= loaded:
                        answers.add(waiting.id if waiting.id in fitting else "")
                        break
            if answers:
                return answers
        return None


class SchedulerMachine(RuleBasedStateMachine):
    """Random calls, in step with the naive scheduler."""

    limit = 4

    @initialize(weights=st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.5, 1.0, 2.0])))
    def start(self, weights: dict[str, float]) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler(
            weights=weights, queue_limit=self.limit, patience=PATIENCE, clock=self.clock
        )
        self.naive = Naive(weights)
        self.running: dict[str, Waiting] = {}
        self.submitted: set[str] = set()
        self.ended: set[str] = set()

    @rule(
        tenant=st.sampled_from(["", *"abc"]),
        digests=st.lists(st.sampled_from("xyz"), max_size=2, unique=True),
        cost=st.integers(1, 9),
        priority=st.integers(-1, 1),
        patience=st.one_of(st.none(), st.floats(0, 5)),
    )
    def submit(
        self, tenant: str, digests: list[str], cost: int, priority: int, patience: float | None
    ) -> None:
        self.clock.now += 0.01  # no two arrive at once: their order would be open
        now = self.clock.now
        deadline = None if patience is None else now + patience
        waiting = Waiting(str(len(self.submitted)), tenant, tuple(digests), cost, now, priority, deadline)
        new = [one.tenant for one, returned in self.naive.queue if not returned]
        full = len(new) >= (self.limit if tenant in new else 2 * self.limit)
        if full or (tenant != "" and new.count(tenant) >= self.limit // 2):
            with pytest.raises(Overloaded):
                self.scheduler.submit(waiting)
            return
        self.scheduler.submit(waiting)
        self.naive.add(waiting, returned=False)
        self.submitted.add(waiting.id)

    @rule(loaded=st.sets(st.sampled_from("xyz")), room=st.integers(0, 9))
    def choose(self, loaded: set[str], room: int) -> None:
        fitting = {w.id for w, _ in self.naive.queue if w.cost <= room and set(w.digests) <= loaded}
        expected = self.naive.choose(fitting, loaded, self.clock.now)
        chosen = self.scheduler.choose(lambda w: w.id in fitting, lambda w: set(w.digests) <= loaded)
        assert (chosen.id if chosen else "") in (expected or {""})
        if chosen:
            self.running[chosen.id] = self.naive.take(chosen.id)
            self.charge(chosen.tenant, chosen.cost, 0)

    @rule(tenant=st.sampled_from("abc"), weight=st.sampled_from([0.5, 1.0, 2.0, 8.0]))
    def weigh(self, tenant: str, weight: float) -> None:
        self.naive.weights[tenant] = weight  # the mapping that the scheduler looks at too

    @rule(tenant=st.sampled_from("abc"), tokens=st.integers(0, 9))
    def generate(self, tenant: str, tokens: int) -> None:
        self.charge(tenant, 0, tokens)

    def charge(self, tenant: str, input_tokens: int, output_tokens: int) -> None:
        self.scheduler.charge(tenant, input_tokens=input_tokens, output_tokens=output_tokens)
        cost = (input_tokens + 2 * output_tokens) / self.naive.weights.get(tenant, 1.0)
        self.naive.counters[tenant] = self.naive.counters.get(tenant, 0.0) + cost

    @precondition(lambda self: self.running)
    @rule(data=st.data(), preempted=st.booleans())
    def stop(self, data: st.DataObject, preempted: bool) -> None:
        waiting = self.running.pop(data.draw(st.sampled_from(sorted(self.running))))
        if preempted:
            self.scheduler.put_back(waiting)
            self.naive.add(waiting, returned=True)
        else:
            self.ended.add(waiting.id)

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.submitted)))
        waits = id in {w.id for w, _ in self.naive.queue}
        assert self.scheduler.remove(id) == waits
        if waits:
            self.naive.take(id)
            self.ended.add(id)

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        late = [w for w, _ in self.naive.queue if w.deadline is not None and w.deadline <= self.clock.now]
        # The level of an empty queue depends on who leaves last.
        expired = self.scheduler.expired()
        assert expired == sorted(late, key=lambda w: w.arrived)
        for waiting in sorted(late, key=self.leaving_order):
            self.naive.take(waiting.id)
            self.ended.add(waiting.id)

    def leaving_order(self, waiting: Waiting) -> bool:
        return waiting.tenant == self.scheduler._last_left

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "naive"):
            return
        waiting = {w.id for w, _ in self.naive.queue}
        assert {w.id for w in self.scheduler.upcoming(10**6)} == waiting
        assert len(self.scheduler) == len(waiting)
        assert waiting | set(self.running) | self.ended == self.submitted  # nothing is lost
        assert self.scheduler.counters == self.naive.counters


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
