"""Adapters as `Registry` lists and searches them: repositories that have a version, by what their newest one says.

    GET /api/adapters?namespace=&text=&base=&task=&method=&label=&metric=f1>=0.8&limit=&cursor=

answers a page as a JSON list of `documents.entry_record`, the objects that `adapt search --json` prints:

    {"name": "acme/ner", "version": "v3", "digest": "sha256:<hex>", "created": "<ISO 8601>", "message": "", "size": 1234,
     "task": "token-classification", "method": "lora", "rank": 8, "labels": ["O", "B-PER"], "base": "org/base",
     "base_fingerprint": "sha256:<hex>", "metrics": [{"split", "name", "value", "low", "high", "n"}],
     "versions": 3, "aliases": {"prod": "v1"}}

Every condition means what `Registry.search` says. Pages come newest first; with `metric`, best first. The header Link has
the next page.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from adapthub.hub import listing
from adapthub.hub.documents import entry_record
from adapthub.hub.search import entries_of
from adapthub.hub.server.dependencies import TheCaller, TheServing, Words, origin

router = APIRouter(tags=["adapters"])

_DEFAULT_PAGE = 100


@router.get("/api/adapters")
def adapters(
    request: Request,
    response: Response,
    serving: TheServing,
    caller: TheCaller,
    namespace: str | None = None,
    text: Words = "",
    base: str | None = None,
    task: str | None = None,
    method: str | None = None,
    label: str | None = None,
    metric: str | None = None,
    limit: Annotated[int, Query(ge=1)] = _DEFAULT_PAGE,
    cursor: str | None = None,
) -> list[dict[str, Any]]:
    """A page of the adapters that meet every condition given; the header Link has the next one."""
    terms = (("task", task), ("method", method), ("label", label))
    query = listing.Query(
        terms=[(kind, term) for kind, term in terms if term is not None],
        base=base,
        text=text,
        metric=metric,
        namespace=namespace,
        adapters=True,
        sort="modified" if metric is None else "metric",
        limit=min(limit, serving.limits.page),
        after=cursor,
    )
    with serving.store.database.reading() as session:
        page = listing.list_repos(session, caller, query)
        entries = entries_of(session, page.ids)
        records = [entry_record(entries[id]) for id in page.ids]
    if page.next is not None:
        response.headers["Link"] = next_link(request, page.next)
    return records


def next_link(request: Request, cursor: str) -> str:
    """The header Link to the same list from `cursor` on."""
    given = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
    return f'<{origin(request)}{request.url.path}?{urlencode([*given, ("cursor", cursor)])}>; rel="next"'
