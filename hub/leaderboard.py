"""Leaderboards: adapters of one base, compared on one task by what they came to on the very same rows.

A board is the fingerprint of a base, a task, and the data fingerprint of the split that was measured, whatever the split is
called; what was measured on other rows is on another board. An adapter is there once, with its newest version that was
measured there. Splits that an adapter was trained on do not count. All comes from manifests: nothing is measured here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, or_, select, true
from sqlalchemy.orm import Session

from adapthub.adapters.errors import InvalidSettings, NotFound
from adapthub.adapters.manifest import Manifest, Metric
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub.access import Caller, visible
from adapthub.hub.facts import TRAINING_SPLIT, is_unicode
from adapthub.hub.records import bare_digest
from adapthub.hub.search import is_fingerprint
from adapthub.hub.storage.dialects import insert_new
from adapthub.hub.storage.knowledge_tables import BaseModelRow, BoardRow, ResultRow
from adapthub.hub.storage.tables import RepoRow, VersionRow
from adapthub.hub.storage.types import hex_range

MOST_ENTRIES = 1000
"""How many adapters a board shows."""
_MOST_BOARDS = 100
_MOST_METRICS = 200
_LONGEST = 500  # characters of a metric, and of what a board is named by
_WHOLE = len("sha256:") + 64
_LOWER_IS_BETTER = frozenset(
    {"loss", "perplexity", "error", "error_rate", "wer", "cer", "mae", "mse", "rmse"}
)


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


def record(session: Session, version: VersionRow, manifest: Manifest | None) -> None:
    """Put what `version` came to on the boards of its data, in place of older versions of its repository."""
    if manifest is None:
        return
    for split, metrics in sorted(manifest.metrics.items()):
        key = _key(version, manifest, split)
        if key is None or not metrics:
            continue
        data = manifest.data[split]
        board = _board(session, key, name=manifest.base.id, source=data.source, rows=data.rows)
        session.execute(
            delete(ResultRow).where(ResultRow.board_id == board, ResultRow.repo_id == version.repo_id)
        )
        named = {name: found for name, found in metrics.items() if len(name) <= _LONGEST}
        if named:
            session.execute(
                insert(ResultRow), [_result(board, version, name, found) for name, found in named.items()]
            )


def forget(session: Session, repo: RepoRow) -> None:
    """Before the versions of `repo` go: their results."""
    session.execute(delete(ResultRow).where(ResultRow.repo_id == repo.id))


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
    seen = exists().where(ResultRow.board_id == BoardRow.id, RepoRow.id == ResultRow.repo_id, visible(caller))
    query = select(BoardRow).where(seen, *_conditions(base, task, dataset))
    rows = session.scalars(query.order_by(BoardRow.id.desc()).limit(_MOST_BOARDS)).all()
    return [_shown(session, caller, row) for row in rows]


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
    found = boards(session, caller, base=base, task=task, dataset=dataset)
    if not found:
        raise NotFound("no adapter was measured so", hint="The list of leaderboards says what there is.")
    if len(found) > 1:
        choices = "; ".join(
            f"{one.base_id}, {one.task}, {one.source} {one.dataset[:19]}" for one in found[:5]
        )
        raise InvalidSettings(
            f"{len(found)} leaderboards fit: {choices}", hint="Name base, task and dataset."
        )
    board = found[0]
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
        .where(ResultRow.board_id == _row(session, board).id, ResultRow.metric == name, visible(caller))
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
            source=board.source,
            metric=result.metric,
            number=number,
            value=result.value,
            rank=1 + _count(session, caller, result, _certainly_better(result)),
            among=_count(session, caller, result, true()),
        )
        for board, result, number in session.execute(query)
    ]


def lower_is_better(metric: str) -> bool:
    """Whether less of this metric is more; `loss/B-PER` is as `loss`."""
    return metric.partition("/")[0].lower() in _LOWER_IS_BETTER


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


def _key(version: VersionRow, manifest: Manifest, split: str) -> dict[str, str] | None:
    """The board of a split; None where it is not known on what was measured, or it is what was trained on."""
    data, trained = manifest.data.get(split), manifest.data.get(TRAINING_SPLIT)
    if data is None or split == TRAINING_SPLIT or version.base_fingerprint is None or version.task is None:
        return None
    if trained is not None and trained.fingerprint == data.fingerprint:
        return None
    texts = (data.fingerprint, data.source or "", manifest.base.id)
    if not all(is_unicode(text) and len(text) <= _LONGEST for text in texts) or data.rows > 2**62:
        return None
    return {
        "base": bare_digest(version.base_fingerprint),
        "task": version.task,
        "dataset": data.fingerprint,
    }


def _board(session: Session, key: Mapping[str, str], *, name: str, source: str | None, rows: int) -> int:
    find = select(BoardRow.id).filter_by(**key)
    found = session.scalar(find)
    if found is None:
        insert_new(session, BoardRow, [{**key, "name": name, "source": source, "rows": rows}])
        found = session.scalar(find)
        assert found is not None
    return found


def _result(board: int, version: VersionRow, name: str, metric: Metric) -> dict[str, Any]:
    return {
        "board_id": board,
        "metric": name,
        "repo_id": version.repo_id,
        "version_id": version.id,
        "value": metric.value,
        "low": metric.low,
        "high": metric.high,
        "n": metric.n,
    }


def _conditions(base: str | None, task: str | None, dataset: str | None) -> Iterator[ColumnElement[bool]]:
    if base is not None and is_fingerprint(base):
        yield BoardRow.base.between(*hex_range(bare_digest(base), 64))
    elif base is not None:
        known = select(BaseModelRow.digest).where(BaseModelRow.name == base)
        yield or_(BoardRow.name == base, BoardRow.base.in_(known))
    if task is not None:
        yield BoardRow.task == task
    if dataset is not None:
        whole = BoardRow.dataset == dataset
        yield whole if len(dataset) >= _WHOLE else func.substr(BoardRow.dataset, 1, len(dataset)) == dataset


def _shown(session: Session, caller: Caller, row: BoardRow) -> Board:
    metrics = tuple(_metrics(session, caller, row))
    return Board(f"sha256:{row.base}", row.name, row.task, row.dataset, row.rows, row.source, metrics)


def _metrics(session: Session, caller: Caller, board: BoardRow) -> Iterator[str]:
    """The metrics of a board, by name, each by one step into the index: a board may have many adapters."""
    last = ""
    for _ in range(_MOST_METRICS):
        query = (
            select(ResultRow.metric)
            .join(RepoRow, RepoRow.id == ResultRow.repo_id)
            .where(ResultRow.board_id == board.id, ResultRow.metric > last, visible(caller))
        )
        found = session.scalar(query.order_by(ResultRow.metric).limit(1))
        if found is None:
            return
        yield found
        last = found


def _row(session: Session, board: Board) -> BoardRow:
    key = {"base": bare_digest(board.base), "task": board.task, "dataset": board.dataset}
    return session.scalars(select(BoardRow).filter_by(**key)).one()
