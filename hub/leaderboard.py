"""Leaderboards: adapters of one base, compared on one task by what they came to on the very same rows.

A board is the fingerprint of a base, a task, and the data fingerprint of the split that was measured, whatever the split is
called; what was measured on other rows is on another board. An adapter is there once, with its newest version that was
measured there (results). A board is called what the hub knows its base as, or else what one of the results on it says that
the caller may see. All comes from manifests: nothing is measured here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, ScalarSelect, and_, func, literal, or_, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from adapthub.adapters.errors import InvalidSettings, NotFound
from adapthub.adapters.metric_direction import lower_is_better
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub.access import Caller, visible
from adapthub.hub.conditions import is_fingerprint, looked_up
from adapthub.hub.records import bare_digest
from adapthub.hub.storage.knowledge_tables import BaseModelRow, BoardRow, ResultRow
from adapthub.hub.storage.tables import RepoRow, VersionRow
from adapthub.hub.storage.types import hex_range

_Column = ColumnElement[int] | InstrumentedAttribute[int]

MOST_ENTRIES = 1000
"""How many adapters a board shows."""
_MOST_BOARDS = 100
_MOST_METRICS = 200
_WHOLE = len("sha256:") + 64


@dataclass(frozen=True)
class Board:
    """What is compared: `base` ("sha256:<hex>") and the id that it is known by, `task`, `dataset` (a data fingerprint), its
    `rows` and `source`; `metrics` by name."""

    base: str
    base_id: str
    task: str
    dataset: str
    rows: int
    source: str | None
    metrics: tuple[str, ...]


class Result(NamedTuple):
    """What one version came to: its name and number, its bare digest, the value, the interval, and over how many rows."""

    name: str
    number: int
    digest: str
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Standing:
    """One adapter on a board.

    `rank`: one more than the adapters that are certainly better, whose whole interval is above this one's; so those that
    cannot be told apart share it. `ties`: how many others' intervals have a value in common with this one's. Where no
    interval was recorded the value is all of it.
    """

    rank: int
    ties: int
    name: str
    number: int
    digest: str
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Ranking:
    """A board by one metric, the best value first; `cut` where there are more than MOST_ENTRIES."""

    board: Board
    metric: str
    lower_is_better: bool
    standings: tuple[Standing, ...]
    cut: bool

    @property
    def unlike(self) -> str | None:
        """In words, that not all values are of as many rows, as where texts were written of fewer; None where all are."""
        counts = [one.n for one in self.standings]
        if not counts or min(counts) == max(counts):
            return None
        return (
            f"Not all values are of the same rows: they are of {min(counts):,} to {max(counts):,} of {self.board.rows:,}."
            " Of fewer rows less is known, as the intervals say; adapt compare measures two adapters on the same."
        )


@dataclass(frozen=True)
class Place:
    """Where an adapter is on the board of `base` ("sha256:<hex>"), `task` and `dataset`, by one metric: with its version
    `number`, at `rank` as in Standing, `among` so many, itself one of them; neither counts beyond MOST_ENTRIES."""

    base: str
    task: str
    dataset: str
    source: str | None
    metric: str
    number: int
    value: float
    rank: int
    among: int


def boards(
    session: Session,
    caller: Caller,
    *,
    base: str | None = None,
    task: str | None = None,
    dataset: str | None = None,
) -> list[Board]:
    """The boards that fit, the newest first, at most 100: `base` is an id, or a fingerprint's digest or its beginning,
    `dataset` a data fingerprint or its beginning. Those without a result that `caller` may see are not there."""
    found = _fitting(session, caller, base, task, dataset)
    metrics = _metrics(session, caller, [one.row.id for one in found])
    return [_shown(one, metrics[one.row.id]) for one in found]


def ranking(
    session: Session,
    caller: Caller,
    *,
    base: str | None,
    task: str | None,
    dataset: str | None,
    metric: str | None,
) -> Ranking:
    """The one board that fits, by `metric`, or the first of its metrics by name. Raises NotFound where there is none,
    InvalidSettings where several fit."""
    found = _fitting(session, caller, base, task, dataset)
    if not found:
        raise NotFound("no adapter was measured so", hint="The list of leaderboards says what there is.")
    if len(found) > 1:
        choices = "; ".join(
            f"{one.name}, {one.row.task}, {one.source} {one.row.dataset[:19]}" for one in found[:5]
        )
        raise InvalidSettings(
            f"{len(found)} leaderboards fit: {choices}", hint="Name base, task and dataset."
        )
    key = found[0].row.id
    board = _shown(found[0], _metrics(session, caller, [key])[key])
    name = metric or board.metrics[0]
    if name not in board.metrics:
        raise NotFound(f"nothing was measured by {name[:80]!r} there", hint=did_you_mean(name, board.metrics))
    lower = lower_is_better(name)
    value = ResultRow.value.asc() if lower else ResultRow.value.desc()
    query = (
        select(
            RepoRow.namespace,
            RepoRow.name,
            VersionRow.number,
            VersionRow.digest,
            ResultRow.value,
            ResultRow.low,
            ResultRow.high,
            ResultRow.n,
        )
        .join(RepoRow, RepoRow.id == ResultRow.repo_id)
        .join(VersionRow, VersionRow.id == ResultRow.version_id)
        .where(ResultRow.board_id == key, ResultRow.metric == name, visible(caller))
        .order_by(value, ResultRow.repo_id)
        .limit(MOST_ENTRIES + 1)
    )
    rows = [
        Result(f"{row.namespace}/{row.name}", row.number, row.digest, row.value, row.low, row.high, row.n)
        for row in session.execute(query)
    ]
    standings = tuple(standings_of(rows[:MOST_ENTRIES], lower=lower))
    return Ranking(board, name, lower, standings, cut=len(rows) > MOST_ENTRIES)


def places(session: Session, caller: Caller, repo: RepoRow, *, limit: int) -> list[Place]:
    """Where `repo` is on its boards, the newest first, by each metric, among those that `caller` may see."""
    query = (
        select(BoardRow, ResultRow, VersionRow.number)
        .join(ResultRow, ResultRow.board_id == BoardRow.id)
        .join(VersionRow, VersionRow.id == ResultRow.version_id)
        .where(ResultRow.repo_id == repo.id)
        .order_by(BoardRow.id.desc(), ResultRow.metric)
        .limit(limit)
    )
    return [
        Place(
            base=f"sha256:{board.base}",
            task=board.task,
            dataset=board.dataset,
            source=result.source,
            metric=result.metric,
            number=number,
            value=result.value,
            rank=1 + _count(session, caller, result, _certainly_better(result)),
            among=_count(session, caller, result, true()),
        )
        for board, result, number in session.execute(query)
    ]


def standings_of(results: Sequence[Result], *, lower: bool) -> Iterator[Standing]:
    """The standings of a board's results, which are the best in their order. Whoever is certainly better has a better value,
    so the first of a board are enough to rank them."""
    intervals = [_interval(one, lower=lower) for one in results]
    lows = sorted(low for low, _ in intervals)
    highs = sorted(high for _, high in intervals)
    for one, (low, high) in zip(results, intervals, strict=True):
        better = len(lows) - bisect_right(lows, high)
        worse = bisect_left(highs, low)
        yield Standing(
            rank=better + 1,
            ties=len(results) - better - worse - 1,
            name=one.name,
            number=one.number,
            digest=f"sha256:{one.digest}",
            value=one.value,
            low=one.low,
            high=one.high,
            n=one.n,
        )


def _count(session: Session, caller: Caller, result: ResultRow, condition: ColumnElement[bool]) -> int:
    """How many results of the same board and metric fit, up to MOST_ENTRIES."""
    fit = (
        select(ResultRow.repo_id)
        .join(RepoRow, RepoRow.id == ResultRow.repo_id)
        .where(
            ResultRow.board_id == result.board_id,
            ResultRow.metric == result.metric,
            condition,
            visible(caller),
        )
        .limit(MOST_ENTRIES)
    )
    return session.scalar(select(func.count()).select_from(fit.subquery())) or 0


def _certainly_better(result: ResultRow) -> ColumnElement[bool]:
    """The results whose whole interval is better than that of `result`, as `standings_of` has it."""
    bounds = [bound for bound in (result.value, result.low, result.high) if bound is not None]
    if lower_is_better(result.metric):
        best = min(bounds)
        return and_(ResultRow.value < best, or_(ResultRow.high.is_(None), ResultRow.high < best))
    best = max(bounds)
    return and_(ResultRow.value > best, or_(ResultRow.low.is_(None), ResultRow.low > best))


def _interval(row: Result, *, lower: bool) -> tuple[float, float]:
    """The interval, widened to its own value, mirrored where less is better."""
    low = min(row.value, row.value if row.low is None else row.low)
    high = max(row.value, row.value if row.high is None else row.high)
    return (-high, -low) if lower else (low, high)


class _Found(NamedTuple):
    """A board that fits, and what it is called."""

    row: BoardRow
    name: str
    source: str | None
    rows: int


def _fitting(
    session: Session, caller: Caller, base: str | None, task: str | None, dataset: str | None
) -> list[_Found]:
    source, rows = _first(caller, ResultRow.source), _first(caller, ResultRow.rows)
    query = (
        select(BoardRow, _name(caller), source, rows)
        .where(_is_seen(caller, BoardRow.id), *_conditions(caller, base, task, dataset))
        .order_by(BoardRow.id.desc())
        .limit(_MOST_BOARDS)
    )
    return [_Found(*one) for one in session.execute(query)]


def _name(caller: Caller) -> ColumnElement[str]:
    recorded = select(BaseModelRow.name).where(BaseModelRow.digest == BoardRow.base).scalar_subquery()
    return func.coalesce(recorded, _first(caller, VersionRow.base), "")


def _first(caller: Caller, column: Any) -> ScalarSelect[Any]:
    """A column of the first result on a board that `caller` may see, in the order of their key."""
    return (
        select(column)
        .select_from(ResultRow)
        .join(RepoRow, RepoRow.id == ResultRow.repo_id)
        .join(VersionRow, VersionRow.id == ResultRow.version_id)
        .where(ResultRow.board_id == BoardRow.id, visible(caller))
        .order_by(ResultRow.metric, ResultRow.repo_id)
        .limit(1)
        .correlate(BoardRow)
        .scalar_subquery()
    )


def _conditions(
    caller: Caller, base: str | None, task: str | None, dataset: str | None
) -> Iterator[ColumnElement[bool]]:
    if base is not None and is_fingerprint(base):
        yield BoardRow.base.between(*hex_range(bare_digest(base), 64))
    elif base is not None:
        known = select(BaseModelRow.digest).where(BaseModelRow.name == base)
        yield or_(_first(caller, VersionRow.base) == base, BoardRow.base.in_(known))
    if task is not None:
        yield BoardRow.task == task
    if dataset is not None:
        whole = BoardRow.dataset == dataset
        yield whole if len(dataset) >= _WHOLE else func.substr(BoardRow.dataset, 1, len(dataset)) == dataset


def _shown(found: _Found, metrics: Sequence[str]) -> Board:
    row = found.row
    return Board(
        f"sha256:{row.base}", found.name, row.task, row.dataset, found.rows, found.source, tuple(metrics)
    )


def _is_seen(caller: Caller, board: _Column, metric: ColumnElement[str] | None = None) -> ColumnElement[bool]:
    """Whether a board has a result, by a metric if one is given, that `caller` may see."""
    result = aliased(ResultRow)
    found = select(literal(1)).select_from(result).join(RepoRow, RepoRow.id == result.repo_id)
    found = found.where(result.board_id == board, visible(caller))
    return looked_up(found if metric is None else found.where(result.metric == metric))


def _metrics(session: Session, caller: Caller, boards: Sequence[int]) -> dict[int, list[str]]:
    """The metrics of boards, in order, each by one step into the index: a board may have many adapters."""

    def following(board: _Column, last: Any) -> ColumnElement[str | None]:
        result = aliased(ResultRow)
        after = select(func.min(result.metric)).where(result.board_id == board, result.metric > last)
        return after.scalar_subquery().label("metric")

    first = select(BoardRow.id.label("board"), following(BoardRow.id, ""), literal(1).label("step"))
    steps = first.where(BoardRow.id.in_(boards)).cte("steps", recursive=True)
    further = (steps.c.metric.is_not(None), steps.c.step < _MOST_METRICS)
    steps = steps.union_all(
        select(steps.c.board, following(steps.c.board, steps.c.metric), steps.c.step + 1).where(*further)
    )
    query = select(steps.c.board, steps.c.metric).where(steps.c.metric.is_not(None))
    query = query.where(_is_seen(caller, steps.c.board, steps.c.metric)).order_by(steps.c.step)
    found: dict[int, list[str]] = {board: [] for board in boards}
    for board, metric in session.execute(query):
        found[board].append(metric)
    return found
