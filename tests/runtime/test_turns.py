"""Whose prompt is computed first, and who may have one more row."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from adapthub.runtime.turns import has_row, in_turn


def rows(*of: tuple[str, int]) -> list[Any]:
    return [
        cast(Any, SimpleNamespace(request=SimpleNamespace(tenant=tenant), pending=pending))
        for tenant, pending in of
    ]


def test_decoding_rows_go_first_then_a_prompt_of_every_tenant() -> None:
    running = rows(("flood", 40), ("flood", 30), ("flood", 1), ("calm", 50), ("calm", 1), ("calm", 9))
    order = [(row.request.tenant, row.pending) for row in in_turn(running)]
    assert order == [("flood", 1), ("calm", 1), ("flood", 40), ("calm", 50), ("calm", 9), ("flood", 30)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 99))))
def test_nobody_is_left_out(of: list[tuple[str, int]]) -> None:
    running = rows(*of)
    assert sorted(map(id, in_turn(running))) == sorted(map(id, running))


def test_less_than_an_equal_share_may_always_start() -> None:
    running = rows(*[("flood", 1)] * 9)
    assert has_row("calm", running, tenants=2, rows=10, brisk=0)
    assert not has_row("flood", running, tenants=2, rows=10, brisk=math.inf)


def test_more_than_a_share_leaves_rows_for_others() -> None:
    assert has_row("flood", rows(*[("flood", 1)] * 55), tenants=2, rows=64, brisk=math.inf)
    assert not has_row("flood", rows(*[("flood", 1)] * 56), tenants=2, rows=64, brisk=math.inf)


def test_more_than_a_share_only_while_steps_are_short() -> None:
    running = rows(*[("flood", 1)] * 33)
    assert has_row("flood", running, tenants=2, rows=64, brisk=34)
    assert not has_row("flood", running, tenants=2, rows=64, brisk=33)
    assert has_row("flood", running, tenants=1, rows=64, brisk=0), "alone, all is its share"
