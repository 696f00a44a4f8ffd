"""Leaderboards: which there are, and one by one metric, with the intervals drawn on one axis. `hub/leaderboard` ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from adapthub.hub import leaderboard
from adapthub.hub.leaderboard import Ranking
from adapthub.hub.registry import Metric
from adapthub.hub.server.dependencies import Text, TheServing
from adapthub.hub.server.pages.plots import side_by_side
from adapthub.hub.server.pages.rendering import page
from adapthub.hub.server.pages.visitors import TheVisitor

router = APIRouter(include_in_schema=False)

MOST = 200
"""How many adapters of a leaderboard one page shows."""


@router.api_route("/leaderboard", methods=["GET", "HEAD"])
def show(
    request: Request,
    serving: TheServing,
    visitor: TheVisitor,
    base: Text = "",
    task: Text = "",
    dataset: Text = "",
    metric: Text = "",
) -> Response:
    """The leaderboard that base, task and dataset name; where none or several fit, a list. Raises NotFound for a metric that
    nothing was measured by there."""
    filters = {"base": base.strip(), "task": task.strip(), "dataset": dataset.strip()}
    wanted = {name: value or None for name, value in filters.items()}
    asked = any(filters.values())
    with serving.store.database.reading() as session:
        boards = leaderboard.boards(session, visitor, **wanted)
        found = (
            leaderboard.ranking(session, visitor, **wanted, metric=metric.strip() or None)
            if asked and len(boards) == 1
            else None
        )
    if found is not None:
        return page(request, "leaderboard.html", visitor, **_drawn(found))
    status = 404 if asked and not boards else 200
    return page(request, "leaderboards.html", visitor, status=status, boards=boards, asked=asked)


def _drawn(found: Ranking) -> Mapping[str, Any]:
    shown = found.standings[:MOST]
    measured = [(one.name, Metric("", found.metric, one.value, one.low, one.high, one.n)) for one in shown]
    return {
        "board": found.board,
        "metric": found.metric,
        "lower": found.lower_is_better,
        "standings": shown,
        "plot": side_by_side(measured),
        "more": len(found.standings) - len(shown),
        "cut": found.cut,
        "unlike": found.unlike,
    }
