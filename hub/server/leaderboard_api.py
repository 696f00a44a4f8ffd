"""Leaderboards: adapters of one base, compared on one task by the very same rows.

GET /api/leaderboards?base=&task=&dataset=       what boards there are, as `documents.board_record`
GET /api/leaderboard?base=&task=&dataset=&metric=  the one that fits, as `documents.ranking_record`:

{"base": "sha256:<hex>", "base_id": "org/base", "task": "...", "dataset": "sha256:<hex>", "rows": 500,
 "source": "test.conll", "metrics": ["f1", ...], "metric": "f1", "lower_is_better": false, "cut": false,
 "standings": [{"rank": 1, "ties": 0, "name": "acme/ner", "version": "v3", "digest": "sha256:<hex>",
                "value": 0.8, "low": 0.78, "high": 0.82, "n": 500}]}
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from adapthub.hub import leaderboard
from adapthub.hub.documents import board_record, ranking_record
from adapthub.hub.server.dependencies import TheCaller, TheServing

router = APIRouter(prefix="/api", tags=["leaderboards"])


@router.get("/leaderboards")
def boards(
    serving: TheServing,
    caller: TheCaller,
    base: str | None = None,
    task: str | None = None,
    dataset: str | None = None,
) -> list[dict[str, Any]]:
    """The boards that fit, the newest first."""
    with serving.store.database.reading() as session:
        found = leaderboard.boards(session, caller, base=base, task=task, dataset=dataset)
        return [board_record(board) for board in found]


@router.get("/leaderboard")
def ranking(
    serving: TheServing,
    caller: TheCaller,
    base: str | None = None,
    task: str | None = None,
    dataset: str | None = None,
    metric: str | None = None,
) -> dict[str, Any]:
    """The one board that fits, the best first."""
    with serving.store.database.reading() as session:
        found = leaderboard.ranking(session, caller, base=base, task=task, dataset=dataset, metric=metric)
        return ranking_record(found)
