"""What is learned from steps of known cost, and how many tokens that lets a step compute."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.runtime.pace import Pace


def test_nothing_is_known_at_first() -> None:
    assert Pace().tokens(0.001) == math.inf


def test_of_steps_of_one_size_all_is_taken_for_the_tokens() -> None:
    pace = Pace()
    for _ in range(50):
        pace.seen(32, 0.16)
    assert pace.tokens(0.1) == pytest.approx(20)
    assert pace.fixed_tokens == pytest.approx(0)


def test_larger_steps_that_took_less_time_say_nothing_of_what_a_token_costs() -> None:
    pace = Pace()
    pace.seen(10, 2.0)
    pace.seen(100, 1.9)
    assert 0 < pace.tokens(0.25) < 15


def test_a_cold_first_step_is_not_believed_once_steps_are_fast() -> None:
    pace = Pace()
    pace.seen(300, 5.0)
    for _ in range(200):
        pace.seen(1, 0.001)
    assert pace.tokens(0.25) == pytest.approx(250)


@given(
    fixed=st.floats(0, 1),
    per_token=st.floats(1e-5, 1e-1),
    sizes=st.lists(st.integers(1, 512), min_size=2, max_size=40),
    fitting=st.integers(1, 10_000),
)
def test_a_straight_line_is_found(fixed: float, per_token: float, sizes: list[int], fitting: int) -> None:
    pace = Pace()
    for size in [1, 100, *sizes]:
        pace.seen(size, fixed + per_token * size)
    if max(sizes) < 50:  # the early ones are forgotten: what they said of a token is kept
        return
    assert pace.tokens(fixed + per_token * fitting) == pytest.approx(fitting, rel=1e-3, abs=1e-3)
    assert pace.fixed_tokens == pytest.approx(fixed / per_token, rel=1e-3, abs=1e-2)


def test_what_a_token_costs_is_kept_while_all_steps_are_alike() -> None:
    pace = Pace()
    for size in (10, 100, 50):
        pace.seen(size, 0.1 + 0.01 * size)
    for _ in range(300):
        pace.seen(32, 0.1 + 0.32)
    assert pace.tokens(1.1) == pytest.approx(100)


def test_a_machine_that_becomes_slower_is_noticed() -> None:
    pace = Pace()
    for size in (10, 100) * 20:
        pace.seen(size, 0.001 * size)
    for size in (10, 100) * 40:
        pace.seen(size, 0.01 * size)
    assert pace.tokens(1.0) == pytest.approx(100, rel=0.01)


def test_no_token_fits_where_every_step_takes_longer() -> None:
    pace = Pace()
    for size in (10, 100):
        pace.seen(size, 1.0 + 0.01 * size)
    assert pace.tokens(0.5) == 0
