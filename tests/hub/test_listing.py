"""Lists of repositories: whatever is walked through, they hold what meets every condition, page by page, in order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import AdapterNotFound
from adapthub.hub import narrowing
from adapthub.hub.access import Caller
from adapthub.hub.listing import Query, list_repos
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
    for _ in range(150):
        some = rng.choice(repos)
        query = Query(
            tags=rng.sample(some.tags, rng.choice([0, 1, 1, 2, 3])),
            text=" ".join(
                _part(rng, rng.choice(texts[some.id].split())) for _ in range(rng.choice([0, 1, 2]))
            ),
            namespace=rng.choice([None, some.namespace]),
            sort=rng.choice(["modified", "created"]),
            ascending=rng.random() < 0.3,
            limit=rng.choice([3, 100]),
        )
        expected = [
            repo.full_name
            for repo in sorted(repos, key=lambda one: one.sequence if query.sort == "modified" else one.id)
            if set(query.tags) <= set(repo.tags)
            and query.namespace in (None, repo.namespace)
            and all(word in texts[repo.id] for word in query.text.split())
        ]
        assert _pages(session, query) == (expected if query.ascending else expected[::-1]), query
        found += len(expected)
    assert found > 500


def _part(rng: random.Random, word: str) -> str:
    """Some characters of a word that stand together."""
    start = rng.randrange(len(word))
    return word[start : start + rng.choice([1, 2, 3, 20])]


def _pages(session: Session, query: Query) -> list[str]:
    names: list[str] = []
    while True:
        page = list_repos(session, ALONE, query)
        names += [repo.full_name for repo in page.repos]
        if page.next is None:
            return names
        query = replace(query, after=page.next)


def test_the_rarest_condition_is_walked_through(session: Session) -> None:
    rare, common = ("tag", POPULATION.adapters[0].metadata["tags"][0]), ("tag", "peft")
    assert narrowest(session, [common, rare]) == narrowing.Narrowest(rare, few=True)
    assert narrowest(session, [common]) == narrowing.Narrowest(common, few=False)
    small = min(
        (adapter.namespace for adapter in POPULATION.adapters),
        key=[adapter.namespace for adapter in POPULATION.adapters].count,
    )
    assert narrowest(session, [common], small) == narrowing.Narrowest(None, few=True)
    assert narrowest(session, [("tag", "nobody has this"), rare]).few


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
