"""The list of adapters: searched, filtered, sorted, page by page; all of them, or a namespace's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy import and_, select
from sqlalchemy.orm import Session, contains_eager, joinedload, selectinload

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.tasks import PEFT_TASK_TYPES
from adapthub.hub import listing
from adapthub.hub.access import Caller
from adapthub.hub.records import entry_of
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Entry
from adapthub.hub.server.dependencies import Text, TheServing
from adapthub.hub.server.pages import links
from adapthub.hub.server.pages.rendering import page
from adapthub.hub.server.pages.visitors import TheVisitor
from adapthub.hub.server.serving import Serving
from adapthub.hub.storage.tables import AliasRow, RepoRow, VersionRow

router = APIRouter(include_in_schema=False)

PAGE = 30
METHODS = ("lora", "dora", "rslora", "ia3", "prefix", "prompt")
Place = Annotated[int | None, Query(ge=0, lt=2**63)]
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
    after: Place = None,
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
    after: Place = None,
) -> Response:
    """A namespace's adapters."""
    name = Reference(None, unquote(namespace), "any").namespace
    return _list(request, serving, visitor, {"namespace": name, "q": q}, after)


def _list(
    request: Request, serving: Serving, visitor: Caller, filters: Mapping[str, str], after: int | None
) -> Response:
    wrong, found, entries = "", listing.Page((), None), dict[int, Entry]()
    with serving.store.database.reading() as session:
        try:
            found = listing.list_repos(session, visitor, _query(filters, after))
        except InvalidSettings as error:  # of what was typed: the form stays
            wrong = str(error)
        else:
            entries = _newest(session, found.repos)
    return page(
        request,
        "browse.html",
        visitor,
        status=400 if wrong else 200,
        filters=filters,
        wrong=wrong,
        repos=[(repo, entries.get(repo.id)) for repo in found.repos],
        next=None if found.next is None else links.browse(**filters, after=found.next),
        first=links.browse(**filters) if after is not None else None,
        filtered=any(filters.values()),
        tasks=tuple(PEFT_TASK_TYPES),
        methods=METHODS,
    )


def _query(filters: Mapping[str, str], after: int | None) -> listing.Query:
    def given(name: str) -> str:
        return filters.get(name, "").strip()

    base = given("base")
    kinds = {
        "fingerprint" if base.startswith("sha256:") else "base": base,
        "task": given("task"),
        "method": given("method"),
        "label": given("label"),
    }
    metric = given("metric") or None
    sort = given("sort") or ("modified" if metric is None else "metric")
    return listing.Query(
        terms=[(kind, term) for kind, term in kinds.items() if term],
        text=given("q"),
        metric=metric,
        namespace=given("namespace") or None,
        sort="created" if sort == "created" else "metric" if sort == "metric" and metric else "modified",
        limit=PAGE,
        after=after,
    )


def _newest(session: Session, repos: Sequence[RepoRow]) -> dict[int, Entry]:
    """The newest version of each repository that has one."""
    newest = and_(VersionRow.repo_id == RepoRow.id, VersionRow.number == RepoRow.newest)
    query = (
        select(RepoRow, VersionRow)
        .join(VersionRow, newest)
        .where(RepoRow.id.in_([repo.id for repo in repos]))
        .options(
            contains_eager(VersionRow.repo),
            joinedload(VersionRow.commit),
            selectinload(RepoRow.aliases).options(joinedload(AliasRow.version)),
        )
    )
    return {repo.id: entry_of(repo, version) for repo, version in session.execute(query)}
