"""Whose prompt is computed first, who may have one more row, and who makes room."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.runtime.turns import divided, first_to_yield, has_row, in_turn

EVEN = {"flood": 0.5, "calm": 0.5}


def rows(*of: tuple[str, int], priority: int = 0) -> list[Any]:
    return [
        cast(Any, SimpleNamespace(request=SimpleNamespace(tenant=tenant, priority=priority), pending=pending))
        for tenant, pending in of
    ]


def test_decoding_rows_go_first_then_a_prompt_of_every_tenant_the_oldest_first() -> None:
    running = rows(("flood", 40), ("flood", 30), ("flood", 1), ("calm", 50), ("calm", 1), ("calm", 9))
    order = [(row.request.tenant, row.pending) for row in in_turn(running)]
    assert order == [("flood", 1), ("calm", 1), ("flood", 40), ("calm", 50), ("flood", 30), ("calm", 9)]


def test_prompts_of_nobody_come_last() -> None:
    running = rows(("", 40), ("", 1), ("calm", 50), ("calm", 9))
    order = [(row.request.tenant, row.pending) for row in in_turn(running)]
    assert order == [("", 1), ("calm", 50), ("calm", 9), ("", 40)]


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(1, 99))))
def test_nobody_is_left_out(of: list[tuple[str, int]]) -> None:
    running = rows(*of)
    assert sorted(map(id, in_turn(running))) == sorted(map(id, running))


def test_less_than_a_share_may_always_start() -> None:
    running = rows(*[("flood", 1)] * 9)
    assert has_row("calm", running, shares=EVEN, rows=10, brisk=0)
    assert not has_row("flood", running, shares=EVEN, rows=10, brisk=math.inf)


def test_a_share_is_by_weight() -> None:
    shares = {"heavy": 0.8, "light": 0.2}
    running = rows(*[("heavy", 1)] * 7, *[("light", 1)] * 2)
    assert has_row("heavy", running, shares=shares, rows=10, brisk=0)
    assert not has_row("light", running, shares=shares, rows=10, brisk=0)


def test_more_than_a_share_leaves_rows_for_others() -> None:
    assert has_row("flood", rows(*[("flood", 1)] * 55), shares=EVEN, rows=64, brisk=math.inf)
    assert not has_row("flood", rows(*[("flood", 1)] * 56), shares=EVEN, rows=64, brisk=math.inf)


def test_more_than_a_share_only_while_steps_are_short() -> None:
    running = rows(*[("flood", 1)] * 33)
    assert has_row("flood", running, shares=EVEN, rows=64, brisk=34)
    assert not has_row("flood", running, shares=EVEN, rows=64, brisk=33)


def test_one_tenant_alone_has_all_rows() -> None:
    assert has_row("calm", rows(*[("calm", 1)] * 63), shares={"calm": 1.0}, rows=64, brisk=0)


def test_who_has_most_for_its_share_makes_room() -> None:
    shares = {"flood": 0.5, "calm": 0.4, "": 0.1}
    calm, flood = rows(("calm", 1)), rows(("flood", 1), ("flood", 1))
    last = rows(("calm", 1))
    assert first_to_yield([*calm, *flood, *last], shares) is last[0], "2 of .4 is more than 2 of .5"
    assert first_to_yield([*calm, *flood], shares) is flood[1]
    nobody = rows(("", 1))
    assert first_to_yield([*nobody, *calm, *flood], shares) is nobody[0]


def test_of_equals_the_latest_makes_room_and_priority_counts_within_a_tenant() -> None:
    first, second = rows(("flood", 1)), rows(("calm", 1))
    assert first_to_yield([*first, *second], EVEN) is second[0]
    high, low = rows(("flood", 1), priority=5), rows(("flood", 1), priority=-5)
    assert first_to_yield([*low, *high, *second], EVEN) is low[0]


def test_what_one_does_not_need_is_the_others() -> None:
    nothing, some = dict.fromkeys(EVEN, 0), {"flood": 32, "calm": 60}
    assert divided(100, {"flood": 1000, "calm": 20}, EVEN, nothing) == {"calm": 20, "flood": 80}
    assert divided(100, {"flood": 1000, "calm": 90}, EVEN, nothing) == {"calm": 50, "flood": 50}
    assert divided(10, {"flood": 1000, "calm": 60}, EVEN, some) == {"calm": 60, "flood": 32}
    assert divided(-5, {"flood": 1000}, EVEN, some) == {"flood": 32}


@given(
    whole=st.floats(0, 1000),
    needs=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 500), min_size=1),
    weights=st.lists(st.floats(0.01, 10), min_size=5, max_size=5),
)
def test_all_is_divided_by_share(whole: float, needs: dict[str, int], weights: list[float]) -> None:
    shares = dict(zip("abcde", (weight / sum(weights) for weight in weights), strict=True))
    parts = divided(whole, needs, shares, dict.fromkeys(needs, 0))
    assert sum(parts.values()) == pytest.approx(min(whole, sum(needs.values())))
    want = [tenant for tenant in needs if parts[tenant] < needs[tenant] - 1e-6]
    assert all(parts[tenant] <= needs[tenant] + 1e-9 for tenant in needs)
    for tenant in want:  # nobody has more for its share than one who wants more
        assert all(parts[tenant] / shares[tenant] >= parts[other] / shares[other] - 1e-6 for other in needs)
