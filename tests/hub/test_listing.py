"""Lists of repositories: whatever is walked through, they hold what meets every condition, page by page, in order."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import AdapterNotFound, InvalidSettings
from adapthub.hub import conditions, narrowing
from adapthub.hub.access import Caller
from adapthub.hub.conditions import Condition, HasTerm, HasText, InNamespace, measured, on_base
from adapthub.hub.listing import Query, Sort, list_repos, rows_of
from adapthub.hub.lookup import require_repo
from adapthub.hub.narrowing import narrowest
from adapthub.hub.reference import Reference
from adapthub.hub.storage.tables import RepoRow
from adapthub.hub.storage.text import text_index
from adapthub.hub.store import BLOBS, Store
from benchmarks.hub.fill import fill
from benchmarks.hub.population import Population

POPULATION = Population(120)
ALONE = Caller(alone=True)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A hub with the population."""
    folder = tmp_path_factory.mktemp("hub")
    new: Callable[[], str] | None = (
        request.getfixturevalue("new_database") if request.param == "postgres" else None
    )
    store = Store.open(folder, database=None if new is None else new())
    fill(store, folder / BLOBS, POPULATION)
    return store


@pytest.fixture
def session(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A hub of which a tenth is no longer few."""
    monkeypatch.setattr(narrowing, "FEW", 12)
    with store.database.reading() as session:
        yield session


def test_lists_hold_what_meets_every_condition(session: Session) -> None:
    rng = random.Random(3)
    index = text_index(session)
    rows = session.execute(select(RepoRow, index.text).join(index.table, index.key == RepoRow.sequence)).all()
    texts = {repo.id: str(text).split("\x01")[0] for repo, text in rows}
    repos = [repo for repo, _ in rows]
    found = 0
    for _ in range(200):
        some = rng.choice(repos)
        adapter = POPULATION.adapters[some.id - 1]
        sort: Sort = rng.choice(get_args(Sort))
        metric = f"{adapter.metric}{rng.choice(['>=', '<='])}{rng.choice([0, 1, rng.random()])}"
        query = Query(
            tags=rng.sample(some.tags, rng.choice([0, 1, 1, 2, 3])),
            terms=[("task", adapter.task)] if rng.random() < 0.3 else [],
            base=rng.choice([None, None, adapter.base, adapter.base_fingerprint[: rng.choice([16, 71])]]),
            text=" ".join(
                _part(rng, rng.choice(texts[some.id].split())) for _ in range(rng.choice([0, 1, 2]))
            ),
            metric=metric if sort == "metric" or rng.random() < 0.3 else None,
            namespace=rng.choice([None, some.namespace]),
            adapters=rng.random() < 0.5,
            sort=sort,
            ascending=rng.random() < 0.3,
            limit=rng.choice([3, 100]),
        )
        keys: dict[str, Callable[[RepoRow], Any]] = {
            "modified": lambda repo: repo.sequence,
            "created": lambda repo: repo.id,
            "metric": lambda repo: (_value(repo), repo.id),
        }
        upwards = "<" in metric if sort == "metric" else query.ascending
        fitting = [repo for repo in repos if _fits(repo, texts[repo.id], query)]
        expected = [repo.full_name for repo in sorted(fitting, key=keys[sort], reverse=not upwards)]
        assert _pages(session, query) == expected, query
        found += len(expected)
    assert found > 500


def _value(repo: RepoRow) -> float:
    """What the repository's adapter came to."""
    return POPULATION.adapters[repo.id - 1].measured(repo.newest)[0].value


def _fits(repo: RepoRow, text: str, query: Query) -> bool:
    """Whether a repository is what the query asks for, one thing after another."""
    adapter = POPULATION.adapters[repo.id - 1]
    if query.metric is not None:
        name, least, most = re.split(">=|<=", query.metric)[0], *_bounds(query.metric)
        if adapter.metric != name or not least <= _value(repo) <= most:
            return False
    return (
        set(query.tags) <= set(repo.tags)
        and all(adapter.task == task for _, task in query.terms)
        and (query.base in (None, adapter.base) or adapter.base_fingerprint.startswith(str(query.base)))
        and query.namespace in (None, repo.namespace)
        and all(word in text for word in query.text.split())
    )


def _bounds(metric: str) -> tuple[float, float]:
    number = float(re.split(">=|<=", metric)[1])
    return (number, math.inf) if ">" in metric else (-math.inf, number)


def _part(rng: random.Random, word: str) -> str:
    """Some characters of a word that stand together."""
    start = rng.randrange(len(word))
    return word[start : start + rng.choice([1, 2, 3, 20])]


def _pages(session: Session, query: Query) -> list[str]:
    names: list[str] = []
    while True:
        page = list_repos(session, ALONE, query)
        names += [repo.full_name for repo in rows_of(session, page.ids)]
        if page.next is None:
            return names
        query = replace(query, after=page.next)


def test_the_rarest_condition_is_walked_through(session: Session) -> None:
    rare = HasTerm("tag", (POPULATION.adapters[0].metadata["tags"][0],))
    common = HasTerm("tag", ("peft",))
    assert narrowest(session, [common, rare]) == (rare, _keys(session, rare))
    assert narrowest(session, [common]) == (common, None)
    small = min(
        (adapter.namespace for adapter in POPULATION.adapters),
        key=[adapter.namespace for adapter in POPULATION.adapters].count,
    )
    own = InNamespace(small)
    assert narrowest(session, [common, own]) == (own, _keys(session, own))
    text = HasText(session, (POPULATION.adapters[7].name,))
    assert narrowest(session, [common, text, measured("accuracy>=0")]) == (text, _keys(session, text))
    assert narrowest(session, [HasTerm("tag", ("nobody has this",)), rare]).keys == []


def _keys(session: Session, condition: Condition) -> list[int]:
    return [*session.scalars(condition.rows())]


def test_the_beginning_of_a_fingerprint_may_be_of_several_bases(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "is_fingerprint", lambda base: base.startswith("sha256:"))
    digits = sorted({adapter.base_fingerprint for adapter in POPULATION.adapters})
    beginning = next(one[:8] for one, two in pairwise(digits) if one[:8] == two[:8])
    expected = {
        adapter.full_name for adapter in POPULATION.adapters if adapter.base_fingerprint.startswith(beginning)
    }
    for query in (Query(base=beginning, limit=3), Query(base=beginning, limit=3, sort="created")):
        assert set(_pages(session, query)) == expected
        assert len({*digits} & {*on_base(session, beginning).terms}) > 1
    assert _pages(session, Query(base="sha256:none")) == []
    monkeypatch.setattr(conditions, "_MOST_BASES", 1)
    with pytest.raises(InvalidSettings, match="more than 1 bases"):
        list_repos(session, ALONE, Query(base=beginning))


@pytest.mark.parametrize("cursor", ["x", "-1", "9" * 40, "1:2", "0.5:x", ":3", ""])
def test_cursors_that_do_not_read(session: Session, cursor: str) -> None:
    with pytest.raises(InvalidSettings, match="no cursor"):
        list_repos(session, ALONE, Query(after=cursor))


@pytest.mark.parametrize("text", ["\x01", "\x01ab", "%", "_", '"', "a\x01b"])
def test_text_that_the_index_would_read_otherwise_is_only_text(session: Session, text: str) -> None:
    assert _pages(session, Query(text=text)) == _pages(session, Query(text=text.replace("\x01", " ")))


def test_a_name_that_is_not_there_has_near_ones(session: Session) -> None:
    adapter = POPULATION.adapters[7]
    for wrong in (
        f"{adapter.namespace}/{adapter.name}x",
        f"{adapter.namespace}x/{adapter.name}",
        f"zz/{adapter.name}",
    ):
        with pytest.raises(AdapterNotFound, match=adapter.full_name):
            require_repo(session, Reference.parse(wrong), near=True)
