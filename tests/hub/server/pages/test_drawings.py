"""Plots and graphs: every mark lies in its box, whatever was measured and whoever the parents are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from hypothesis import example, given
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
@example([Metric("test", "f1", 5e-324, 0.0, 1e-323, 1)])
@example([Metric("test", "f1", 1e-310, 1e-310, 1e-310, 1)])
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


def version(digest: str, parents: tuple[str, ...]) -> Ancestor:
    return Ancestor(digest, f"a/{digest}", 1, parents, found=True)


def lineage(
    parents: Mapping[str, tuple[str, ...]], came: Mapping[str, tuple[str, ...]] | None = None
) -> Lineage:
    """Of the first of `parents`, and what came of it."""
    before, after = (
        {digest: version(digest, above) for digest, above in one.items()} for one in (parents, came or {})
    )
    return Lineage(next(iter(parents)), before, (), cut=False, descendants=after)


def test_every_line_of_a_lineage_goes_one_way() -> None:
    graph = draw(
        lineage(
            {"d": ("b", "a"), "b": ("a", "c"), "a": ("c",), "c": ()},
            {"e": ("d",), "f": ("e", "d"), "g": ("d", "b", "elsewhere"), "h": ("f", "g")},
        )
    )
    x = {node.digest: node.x for node in graph.nodes}
    assert x["h"] < x["f"] < x["e"] == x["g"] < x["d"] < x["b"] < x["a"] < x["c"]
    assert [node.digest for node in graph.nodes if node.own] == ["d"]
    assert len(graph.lines) == 5 + 1 + 2 + 2 + 2
    for line in graph.lines:
        begin, *_, end = (float(one) for one in re.findall(r"[-\d.]+", line)[::2])
        assert begin < end
    assert len({(node.x, node.y) for node in graph.nodes}) == 8
    assert [node.x for node in graph.nodes] == sorted(node.x for node in graph.nodes)
    assert all(
        node.y >= 0 and node.x + graph.box[0] <= graph.width and node.y + graph.box[1] <= graph.height
        for node in graph.nodes
    )
    assert not graph.cut


def test_forty_are_drawn_on_each_side() -> None:
    parents = {"own": tuple(f"p{number}" for number in range(41))}
    whole = {**parents, **dict.fromkeys(parents["own"], ())}
    came = {f"c{number}": ("own",) for number in range(41)}
    cases: list[tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]], int, bool]] = [
        (whole, came, 81, True),
        (whole, {}, 41, True),
        ({"own": ()}, came, 41, True),
        ({"own": ()}, dict(list(came.items())[:40]), 41, False),
    ]
    for before, after, drawn, cut in cases:
        graph = draw(lineage(before, after))
        assert (len(graph.nodes), graph.cut) == (drawn, cut)
        assert sum(node.own for node in graph.nodes) == 1


def test_a_forged_circle_is_drawn_all_the_same() -> None:
    graph = draw(lineage({"a": ("b",), "b": ("a",)}, {"b": ("a",), "c": ("d",), "d": ("c", "a")}))
    assert sorted(node.digest for node in graph.nodes) == ["a", "b", "c", "d"]
    assert all(math.isfinite(node.x) for node in graph.nodes)
