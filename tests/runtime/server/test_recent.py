"""The last minute, on a clock of the test's: what is in it, and that it goes."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

from adapthub.runtime.requests import Usage
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.groups import Groups
from adapthub.runtime.server.observation import Observation
from adapthub.runtime.server.recent import SECONDS, Recent

SQL = Target("acme/sql", "acme/sql@0", "acme/sql@v1")
TONE = Target("acme/tone", "acme/tone@0", "acme/tone@v1")


class Clock:
    now = 1000.5

    def __call__(self) -> float:
        return self.now


def ended(
    tenant: str, target: Target, ttft: float | None, gaps: Sequence[float] = (), outcome: str = "stop"
) -> Observation:
    first = None if ttft is None else 50 + ttft
    return Observation("id", "chat", tenant, target, outcome, Usage(1, 0, 1), 50, 50, first, 60, gaps)


def test_tokens_stand_in_the_seconds_that_they_came_in() -> None:
    clock = Clock()
    recent = Recent(Groups(), clock)
    recent.count("a", SQL, 3)
    clock.now += 1
    recent.count("a", SQL, 5)
    recent.count("a", SQL, 1)
    clock.now += 1
    recent.count("a", SQL, 7)  # in a second that is not over
    [traffic] = recent.traffic()
    assert list(traffic.tokens[-3:]) == [0, 3, 6]
    assert len(traffic.tokens) == SECONDS
    clock.now += 1
    assert list(recent.traffic()[0].tokens[-3:]) == [3, 6, 7]


def test_quantiles_requests_and_errors_of_each_group() -> None:
    recent = Recent(Groups(), Clock())
    for number in range(1, 101):
        recent.observe(ended("a", SQL, number / 100, gaps=[0.5]))
    recent.observe(ended("b", TONE, None, outcome="error"))
    sql, tone = sorted(recent.traffic(), key=lambda traffic: traffic.tenant)
    assert (sql.requests, sql.errors) == (100, 0)
    assert sql.first_token is not None
    assert (round(sql.first_token.p50, 6), round(sql.first_token.p95, 6)) == (0.51, 0.96)
    assert sql.between_tokens is not None
    assert (sql.between_tokens.p50, sql.between_tokens.p95) == (0.5, 0.5)
    assert (tone.requests, tone.errors, tone.first_token, tone.between_tokens) == (1, 1, None, None)


def test_one_tenant_sees_its_own_and_the_busiest_comes_first() -> None:
    clock = Clock()
    recent = Recent(Groups(), clock)
    recent.count("a", SQL, 1)
    recent.count("a", TONE, 9)
    recent.count("b", SQL, 5)
    clock.now += 1
    assert [(one.tenant, one.adapter) for one in recent.traffic()] == [
        ("a", TONE.label),
        ("b", SQL.label),
        ("a", SQL.label),
    ]
    assert [one.adapter for one in recent.traffic("b")] == [SQL.label]


def test_what_is_counted_together_is_nobodys() -> None:
    clock = Clock()
    recent = Recent(Groups(tenants=1), clock)
    for tenant in ("a", "b", "other"):
        recent.count(tenant, SQL, 1)
    assert {one.tenant for one in recent.traffic()} == {"a", "other"}
    assert recent.traffic("b") == recent.traffic("other") == []


def test_a_minute_later_nothing_is_left() -> None:
    clock = Clock()
    recent = Recent(Groups(), clock)
    recent.count("a", SQL, 1)
    recent.observe(ended("a", SQL, 0.1, gaps=[0.1]))
    clock.now += SECONDS - 1
    assert [one.requests for one in recent.traffic()] == [1]
    clock.now += 3
    assert recent.traffic() == []


def test_hours_in_which_nobody_looks_take_no_more_than_minutes() -> None:
    clock = Clock()
    recent = Recent(Groups(clock=clock), clock)

    def minutes(count: int) -> int:
        for minute in range(count):
            for _ in range(SECONDS):
                recent.count("a", SQL, 10_000)
                clock.now += 1
            recent.count("a", Target(f"acme/{minute}", f"acme/{minute}@0", f"acme/{minute}@v1"), 1)
        return len(pickle.dumps(recent._groups))

    two = minutes(2)
    assert minutes(300) <= 1.5 * two
