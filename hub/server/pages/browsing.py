"""The list of adapters: searched, filtered, sorted, page by page; all of them, or a namespace's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Path, Query, Request, Response

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.tasks import PEFT_TASK_TYPES
from adapthub.hub import listing
from adapthub.hub.access import Caller
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Entry
from adapthub.hub.search import entries_of
from adapthub.hub.server.dependencies import Text, TheServing
from adapthub.hub.server.pages import links
from adapthub.hub.server.pages.rendering import page
from adapthub.hub.server.pages.visitors import TheVisitor
from adapthub.hub.server.serving import Serving
from adapthub.hub.storage.tables import RepoRow

router = APIRouter(include_in_schema=False)

PAGE = 30
METHODS = ("lora", "dora", "rslora", "ia3", "prefix", "prompt")
Cursor = Annotated[str | None, Query(max_length=80, pattern=r"^-?[0-9][0-9.e+-]*(:[0-9]+)?$")]
Sort = Literal["", "modified", "created", "metric"]


@router.api_route("/", methods=["GET", "HEAD"])
def index(
    request: Request,
    serving: TheServing,
    visitor: TheVisitor,
    q: Text = "",
    namespace: Text = "",
    base: Text = "",
    task: Text = "",
    method: Text = "",
    label: Text = "",
    metric: Text = "",
    sort: Sort = "",
    after: Cursor = None,
) -> Response:
    """Every adapter that the visitor may see."""
    filters = {
        "q": q,
        "namespace": namespace,
        "base": base,
        "task": task,
        "method": method,
        "label": label,
        "metric": metric,
        "sort": sort,
    }
    return _list(request, serving, visitor, filters, after)


@router.api_route("/{namespace}", methods=["GET", "HEAD"])
def in_namespace(
    request: Request,
    serving: TheServing,
    visitor: TheVisitor,
    namespace: Annotated[str, Path()],
    q: Text = "",
    after: Cursor = None,
) -> Response:
    """A namespace's adapters."""
    name = Reference(None, unquote(namespace), "any").namespace
    return _list(request, serving, visitor, {"namespace": name, "q": q}, after)


def _list(
    request: Request, serving: Serving, visitor: Caller, filters: Mapping[str, str], after: str | None
) -> Response:
    wrong, found = "", listing.Page((), None)
    repos, entries = list[RepoRow](), dict[int, Entry]()
    with serving.store.database.reading() as session:
        try:
            found = listing.list_repos(session, visitor, _query(filters, after))
        except InvalidSettings as error:  # of what was typed: the form stays
            wrong = str(error)
        else:
            repos, entries = listing.rows_of(session, found.ids), entries_of(session, found.ids)
    return page(
        request,
        "browse.html",
        visitor,
        status=400 if wrong else 200,
        filters=filters,
        wrong=wrong,
        repos=[(repo, entries.get(repo.id)) for repo in repos],
        next=None if found.next is None else links.browse(**filters, after=found.next),
        first=links.browse(**filters) if after is not None else None,
        filtered=any(filters.values()),
        tasks=tuple(PEFT_TASK_TYPES),
        methods=METHODS,
    )


def _query(filters: Mapping[str, str], after: str | None) -> listing.Query:
    def given(name: str) -> str:
        return filters.get(name, "").strip()

    terms = [(kind, given(kind)) for kind in ("task", "method", "label")]
    metric = given("metric") or None
    sort = given("sort") or ("modified" if metric is None else "metric")
    return listing.Query(
        terms=[(kind, term) for kind, term in terms if term],
        base=given("base") or None,
        text=given("q"),
        metric=metric,
        namespace=given("namespace") or None,
        sort="created" if sort == "created" else "metric" if sort == "metric" and metric else "modified",
        limit=PAGE,
        after=after,
    )
