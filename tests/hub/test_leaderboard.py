"""Ranks and ties, against the rule written down naively."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.metric_direction import lower_is_better
from adapthub.hub.leaderboard import Result, standings_of

TENTHS = st.integers(0, 10).map(lambda tenth: tenth / 10)
RESULT = st.tuples(TENTHS, st.none() | TENTHS, st.none() | TENTHS)


@given(st.lists(RESULT, max_size=8), st.booleans())
def test_those_that_cannot_be_told_apart_share_a_rank(
    results: list[tuple[float, float | None, float | None]], lower: bool
) -> None:
    results.sort(key=lambda result: result[0] if lower else -result[0])
    rows = [Result(f"acme/a{number}", 1, "0" * 64, *result, 100) for number, result in enumerate(results)]
    intervals = [
        (min(value, value if low is None else low), max(value, value if high is None else high))
        for value, low, high in results
    ]
    for standing, own in zip(standings_of(rows, lower=lower), intervals, strict=True):
        better = [its for its in intervals if (its[1] < own[0] if lower else its[0] > own[1])]
        overlapping = [its for its in intervals if its[0] <= own[1] and own[0] <= its[1]]
        assert (standing.rank, standing.ties) == (len(better) + 1, len(overlapping) - 1)


def test_what_is_better_when_it_is_less() -> None:
    less = ("loss", "loss/B-PER", "WER", "brier", "ece")
    assert [name for name in ("f1", *less, "accuracy", "f1/loss") if lower_is_better(name)] == [*less]
