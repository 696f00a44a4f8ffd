"""Plots and graphs: every mark lies in its box, whatever was measured and whoever the parents are."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from adapthub.hub.registry import Ancestor, Lineage, Metric
from adapthub.hub.server.pages.lineage_graph import draw
from adapthub.hub.server.pages.plots import over_versions, side_by_side

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def metrics(draw_: st.DrawFn) -> Metric:
    low, value, high = sorted(draw_(st.tuples(NUMBERS, NUMBERS, NUMBERS)))
    return Metric("test", "f1", value, low, high, 1)


@given(st.lists(metrics(), min_size=1, max_size=20))
def test_marks_lie_in_the_box(measured: list[Metric]) -> None:
    plot = over_versions("f1", [*enumerate(measured, 1)])
    assert len(plot.marks) == len(measured)
    for mark in plot.marks:
        assert plot.left <= mark.at <= plot.right
        for place in (mark.low, mark.value, mark.high):
            assert place is not None
            assert plot.top - 0.1 <= place <= plot.bottom + 0.1
        assert mark.low is not None
        assert mark.high is not None
        assert mark.high <= mark.value <= mark.low  # upwards is less
    for tick in plot.rows:
        assert plot.top - 0.1 <= tick.at <= plot.bottom + 0.1
    assert len(plot.columns) <= 11
    beside = side_by_side([(str(at), metric) for at, metric in enumerate(measured)])
    assert all(beside.left - 0.1 <= mark.value <= beside.right + 0.1 for mark in beside.marks)


def test_ticks_are_round_numbers() -> None:
    measured = [Metric("test", "f1", value, value - 0.01, value + 0.01, 1) for value in (0.81, 0.86, 0.9)]
    assert [tick.label for tick in over_versions("f1", [*enumerate(measured, 1)]).rows] == [
        "0.8",
        "0.85",
        "0.9",
    ]


def lineage(parents: dict[str, tuple[str, ...]]) -> Lineage:
    versions = {
        digest: Ancestor(digest, f"a/{digest}", 1, above, found=True) for digest, above in parents.items()
    }
    return Lineage(next(iter(parents)), versions, (), cut=False)


def test_every_line_of_a_lineage_goes_one_way() -> None:
    graph = draw(lineage({"d": ("b", "a"), "b": ("a", "c"), "a": ("c",), "c": ()}))
    x = {node.digest: node.x for node in graph.nodes}
    assert x["d"] < x["b"] < x["a"] < x["c"]
    assert len(graph.lines) == 5
    assert len({(node.x, node.y) for node in graph.nodes}) == 4
    assert all(
        node.x + graph.box[0] <= graph.width and node.y + graph.box[1] <= graph.height for node in graph.nodes
    )


def test_a_forged_circle_is_drawn_all_the_same() -> None:
    graph = draw(lineage({"a": ("b",), "b": ("a",)}))
    assert len(graph.nodes) == 2
    assert all(math.isfinite(node.x) for node in graph.nodes)
