"""Adapters side by side: what each says of itself, metrics with their intervals, and what any two do together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from adapthub.adapters.errors import AdaptHubError, InvalidReference, NotFound, RevisionNotFound
from adapthub.hub.access import Caller
from adapthub.hub.composing import companion
from adapthub.hub.composition import Composition
from adapthub.hub.facts import TRAINING_SPLIT
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Metric
from adapthub.hub.server.dependencies import TheServing
from adapthub.hub.server.pages.plots import Intervals, side_by_side
from adapthub.hub.server.pages.reading import Measured, read_repository
from adapthub.hub.server.pages.rendering import page
from adapthub.hub.server.pages.visitors import TheVisitor
from adapthub.hub.server.serving import Serving
from adapthub.hub.storage.tables import VersionRow

router = APIRouter(include_in_schema=False)

MOST = 6
_MOST_METRICS = 12


@dataclass(frozen=True)
class Compared:
    """An adapter that was found, under the reference that the visitor wrote."""

    reference: str
    key: int
    shown: Measured

    @property
    def title(self) -> str:
        """`namespace/name@vN`."""
        return f"{self.shown.version.name}@v{self.shown.version.number}"


@dataclass(frozen=True)
class Row:
    """One metric of all: `values` are in the order of the adapters, None where one was not measured. `unlike`: not all are
    of as many rows."""

    split: str
    name: str
    values: Sequence[Metric | None]
    plot: Intervals
    unlike: bool


@router.api_route("/compare", methods=["GET", "HEAD"])
def compare(
    request: Request,
    serving: TheServing,
    visitor: TheVisitor,
    ref: Annotated[list[str], Query(max_length=MOST)] = [],  # noqa: B006
) -> Response:
    """Up to MOST adapters; without any, the form for them."""
    wanted = list(dict.fromkeys(text.strip() for text in ref if text.strip()))
    found: list[Compared] = []
    wrong: list[str] = []
    for text in wanted:
        try:
            found.append(_find(serving, visitor, text))
        except AdaptHubError as error:
            wrong.append(str(error))
    return page(
        request,
        "compare.html",
        visitor,
        status=404 if wrong else 200,
        wanted=wanted,
        found=found,
        wrong=wrong,
        rows=_rows(found),
        pairs=_pairs(serving, found),
        most=MOST,
    )


def _find(serving: Serving, visitor: Caller, text: str) -> Compared:
    """Raises InvalidReference, AdapterNotFound, RevisionNotFound."""
    reference = Reference.parse(text)
    if reference.hub is not None:
        raise InvalidReference(f"{reference} names another hub", hint=f"Leave out {reference.hub}::.")
    repository = read_repository(serving.store, visitor, reference, reference.revision)
    if repository.shown is None or repository.version_key is None:
        raise RevisionNotFound(f"{reference} has no version yet", hint="Push an adapter.")
    return Compared(text, repository.version_key, repository.shown)


def _rows(found: Sequence[Compared]) -> list[Row]:
    metrics = [{(metric.split, metric.name): metric for metric in one.shown.facts.metrics} for one in found]
    keys = {key for each in metrics for key in each if key[0] != TRAINING_SPLIT}
    ordered = sorted(keys, key=lambda key: (-sum(key in each for each in metrics), key[0] != "test", key))
    rows = []
    for key in ordered[:_MOST_METRICS]:
        values = [each.get(key) for each in metrics]
        measured = [(one.title, value) for one, value in zip(found, values, strict=True) if value is not None]
        rows.append(Row(*key, values, side_by_side(measured), len({one.n for _, one in measured}) > 1))
    return rows


def _pairs(
    serving: Serving, found: Sequence[Compared]
) -> list[tuple[Compared, Compared, Composition | None]]:
    """Any two, and what they do together; None where one was published before that was kept."""
    with serving.store.database.reading() as session:
        return [
            (first, second, _together(session, first, second)) for first, second in combinations(found, 2)
        ]


def _together(session: Session, first: Compared, second: Compared) -> Composition | None:
    one, other = (session.get(VersionRow, each.key) for each in (first, second))
    if one is None or other is None:  # deleted meanwhile
        return None
    try:
        return companion(session, one, other).composition
    except NotFound:
        return None
