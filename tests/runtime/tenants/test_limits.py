"""Buckets against a naive one in exact numbers, and what accounts make of them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import InvalidSettings, QuotaExceeded, RateLimited
from adapthub.runtime.tenants.accounts import Accounts, next_month
from adapthub.runtime.tenants.gate import Allowance
from adapthub.runtime.tenants.limits import Bucket
from tests.runtime.tenants.helpers import NOW, Clock, tenant

_TOLERANCE = 1e-5


class Naive:
    """A bucket in fractions: fills with every second that passes, up to what it holds."""

    def __init__(self, capacity: int) -> None:
        self.capacity = self.level = Fraction(capacity)

    def pass_time(self, seconds: Fraction) -> None:
        self.level = min(self.capacity, self.level + seconds * self.capacity / 60)

    def put_back(self, amount: int) -> None:
        self.level = min(self.capacity, self.level + amount)

    def wait(self, amount: int) -> Fraction:
        return max(Fraction(0), (amount - self.level) * 60 / self.capacity)


_STEPS = st.lists(
    st.tuples(
        st.integers(0, 90_000).map(lambda ms: Fraction(ms, 1000)),
        st.sampled_from(["take", "take", "take", "put back", "overrun"]),
        st.floats(0, 1),
    ),
    max_size=40,
)


@given(capacity=st.integers(1, 10**7), steps=_STEPS)
def test_a_bucket_is_as_full_as_a_naive_one(capacity: int, steps: list[tuple[Fraction, str, float]]) -> None:
    bucket, naive, now = Bucket(capacity), Naive(capacity), Fraction(1_000_000)
    for seconds, what, share in steps:
        now += seconds
        naive.pass_time(seconds)
        amount = round(share * capacity)
        if what == "take":
            wait = bucket.wait(amount, float(now))
            assert wait == pytest.approx(float(naive.wait(amount)), abs=_TOLERANCE)
            if wait:  # exactly so long, and no shorter, is told
                assert bucket.wait(amount, float(now) + wait) == 0
                assert bucket.wait(amount, float(now) + wait * 0.99 - _TOLERANCE) > 0
                continue
            naive.level -= amount
        elif what == "put back":
            naive.put_back(amount)
            amount = -amount
        else:
            naive.level -= amount
        bucket.take(amount, float(now))
        assert bucket.level(float(now)) == pytest.approx(float(naive.level), abs=_TOLERANCE * capacity)


@given(capacity=st.integers(1, 1000), asks=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 1000))))
def test_no_time_sees_more_than_a_burst_and_its_share(capacity: int, asks: list[tuple[int, int]]) -> None:
    bucket, now, passed = Bucket(capacity), 0.0, []
    for seconds, asked in asks:
        now += seconds
        amount = min(asked, capacity)
        if not bucket.wait(amount, now):
            bucket.take(amount, now)
            passed.append((now, amount))
    for start, (begin, _) in enumerate(passed):
        for end, _ in passed[start:]:
            total = sum(amount for at, amount in passed[start:] if at <= end)
            assert total <= capacity + (end - begin) * capacity / 60 + 0.1


@given(old=st.integers(1, 1000), new=st.integers(1, 1000), taken=st.integers(0, 1000))
def test_another_size_forgets_nothing_that_was_taken(old: int, new: int, taken: int) -> None:
    bucket = Bucket(old)
    bucket.take(min(taken, old), 5.0)
    bucket.resize(new, 5.0)
    assert bucket.level(5.0) == pytest.approx(new - min(taken, old), abs=1e-6 * new)
    assert bucket.level(5.0 + 60 * old) == new


def accounts(clock: Clock) -> Accounts:
    return Accounts(clock=clock, now=clock.now)


def test_requests_a_minute() -> None:
    clock = Clock()
    acme, mine = tenant(requests_per_minute=3), accounts(clock)
    for _ in range(3):
        mine.count(acme)
    with pytest.raises(RateLimited, match="acme may use 3 requests a minute") as refused:
        mine.count(acme)
    assert refused.value.retry_after == pytest.approx(20)
    assert not isinstance(refused.value, QuotaExceeded)
    mine.count(tenant("zeta", requests_per_minute=1))  # nobody pays for others
    mine.admit(acme, 10)  # it was counted when it came
    clock.seconds += refused.value.retry_after
    mine.count(acme)
    with pytest.raises(RateLimited):
        mine.count(acme)


def test_tokens_a_minute_and_what_was_not_used_comes_back() -> None:
    clock = Clock()
    acme, mine = tenant(tokens_per_minute=600), accounts(clock)
    mine.admit(acme, 500)
    with pytest.raises(RateLimited, match="600 tokens a minute") as refused:
        mine.admit(acme, 200)
    assert refused.value.retry_after == pytest.approx(10)
    mine.settle("acme", 500, 400)
    mine.admit(acme, 200)
    mine.settle("acme", 200, 200)
    with pytest.raises(RateLimited) as refused:
        mine.admit(acme, 1)
    assert refused.value.retry_after == pytest.approx(0.1)


def test_what_is_left_of_a_minute() -> None:
    clock = Clock()
    acme, mine = tenant(requests_per_minute=3, tokens_per_minute=600), accounts(clock)
    assert mine.allowances(tenant("free")) == []
    assert mine.allowances(acme) == [Allowance("requests", 3, 3, 0.0), Allowance("tokens", 600, 600, 0.0)]
    mine.count(acme)
    mine.admit(acme, 150)
    clock.seconds += 5
    requests, tokens = mine.allowances(acme)
    assert (requests.remaining, tokens.remaining) == (2, 500)
    assert [requests.reset, tokens.reset] == pytest.approx([15, 10])


def test_what_is_refused_takes_nothing() -> None:
    clock = Clock()
    acme, mine = tenant(requests_per_minute=2, tokens_per_minute=60), accounts(clock)
    mine.admit(acme, 60)
    mine.count(acme)
    mine.count(acme)
    for _ in range(5):
        with pytest.raises(RateLimited):
            mine.admit(acme, 30)
        with pytest.raises(RateLimited):
            mine.count(acme)
    clock.seconds += 30
    mine.admit(acme, 30)
    mine.count(acme)


@pytest.mark.parametrize("limit", ["tokens_per_minute", "tokens_per_month"])
def test_what_can_never_pass_is_not_told_to_wait(limit: str) -> None:
    settings: dict[str, Any] = {limit: 100}
    with pytest.raises(InvalidSettings, match=r"may use 101 tokens.*It can never pass"):
        accounts(Clock()).admit(tenant(**settings), 101)


def test_a_limit_that_changes_changes_at_once() -> None:
    clock = Clock()
    mine = accounts(clock)
    mine.admit(tenant(tokens_per_minute=100), 100)
    mine.admit(tenant(tokens_per_minute=300), 200)
    with pytest.raises(RateLimited):
        mine.admit(tenant(tokens_per_minute=300), 1)
    mine.admit(tenant(), 10**6)


def test_a_quota_counts_what_is_recorded_and_what_runs() -> None:
    clock = Clock()
    acme, mine = tenant(tokens_per_month=1000), accounts(clock)
    mine.see("2026-11", {"acme": 700})
    mine.admit(acme, 200)
    with pytest.raises(RateLimited, match="still run") as refused:  # 100 or 300 will be left
        mine.admit(acme, 300)
    assert not isinstance(refused.value, QuotaExceeded)
    with pytest.raises(QuotaExceeded, match="300 of this month's 1,000 tokens left") as exceeded:
        mine.admit(acme, 301)
    assert exceeded.value.retry_after == (next_month(NOW) - NOW).total_seconds()
    assert "2026-12-01" in str(exceeded.value)
    mine.see("2026-11", {"acme": 750})
    mine.settle("acme", 200, 50)
    mine.admit(acme, 250)
    mine.see("2026-11", {"acme": 740})  # read before the last was written
    with pytest.raises(RateLimited):
        mine.admit(acme, 1)


def test_a_month_ends() -> None:
    clock = Clock()
    acme, mine = tenant(tokens_per_month=100), accounts(clock)
    mine.see("2026-11", {"acme": 100})
    with pytest.raises(QuotaExceeded) as exceeded:
        mine.admit(acme, 1)
    clock.seconds += exceeded.value.retry_after
    mine.admit(acme, 60)
    mine.see("2026-11", {"acme": 100})  # the old month's says nothing of this one
    mine.admit(acme, 40)


def test_december_ends_in_january() -> None:
    assert next_month(NOW.replace(month=12)).isoformat() == "2027-01-01T00:00:00+00:00"
