"""What clients ask of a large hub: requests of each kind, at random and by the same law as the hub was filled.

Sends nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from adapthub.adapters.admission import CONFIG
from benchmarks.hub.population import ALIAS, BASES, WORDS, Adapter, Population

ADAPTERS = "/api/adapters"


@dataclass(frozen=True)
class Ask:
    """One request, the status that its answer has, and whether it takes an admin."""

    path: str
    method: str = "GET"
    status: int = 200
    admin: bool = False


def kinds(population: Population, last: int) -> Mapping[str, Callable[[random.Random], Ask]]:
    """How to make a request of each kind; `last` is the greatest `sequence`, which cursors are below."""

    def some(rng: random.Random) -> Adapter:
        return rng.choice(population.adapters)

    def listed(**query: str | int) -> Ask:
        return Ask(f"/api/models?{urlencode(query)}")

    def found(**query: str | int) -> Ask:
        return Ask(f"{ADAPTERS}?{urlencode(query)}")

    def audit(**query: str) -> Ask:
        return Ask(f"/api/audit?{urlencode(query)}", admin=True)

    def of(adapter: Adapter, rest: str = "", **ask: str | int) -> Ask:
        return Ask(f"/api/models/{adapter.full_name}{rest}", **ask)  # type: ignore[arg-type]

    def revision(rng: random.Random, adapter: Adapter) -> str:
        return rng.choice(["main", ALIAS, f"v{rng.randint(1, adapter.versions)}"])

    return {
        "list, first page": lambda rng: listed(limit=rng.choice([20, 100])),
        "list, deep": lambda rng: listed(cursor=rng.randrange(1, last)),
        "list with files": lambda rng: listed(full="true", cursor=rng.randrange(1, last)),
        "list, namespace": lambda rng: listed(author=some(rng).namespace),
        "list, text": lambda rng: listed(search=rng.choice(some(rng).words.split())),
        "list, base and task": lambda rng: listed(
            filter=f"base_model:adapter:{some(rng).base}", pipeline_tag=some(rng).task
        ),
        "page": lambda rng: Ask(f"/?{urlencode({'after': rng.randrange(1, last)})}"),
        "page, text": lambda rng: Ask(f"/?{urlencode({'q': rng.choice(some(rng).words.split())})}"),
        "search, a word": lambda rng: found(text=rng.choice(some(rng).words.split())),
        "search, two words": lambda rng: found(text=" ".join(rng.sample(some(rng).words.split(), 2))),
        "search, a name": lambda rng: found(text=some(rng).full_name[:-1]),
        "search, two letters": lambda rng: found(text=rng.choice(WORDS)[:2]),
        "search, nothing": lambda rng: found(text=f"{rng.choice(WORDS)}{rng.choice(WORDS)}xq"),
        "search, base": lambda rng: found(base=rng.choice(BASES)),
        "search, fingerprint": lambda rng: found(base=some(rng).base_fingerprint[:20]),
        "search, task": lambda rng: found(task=some(rng).task, cursor=rng.randrange(1, last)),
        "search, text and task": lambda rng: found(text=rng.choice(WORDS), task=some(rng).task),
        "search, text and namespace": lambda rng: found(
            text=rng.choice(WORDS), namespace=some(rng).namespace
        ),
        "search, metric": lambda rng: found(metric=f"f1>={rng.random():.3f}"),
        "search, metric, base, task": lambda rng: _measured(some(rng), rng, found),
        "info": lambda rng: of(
            adapter := rng.choice(population.with_bytes), f"/revision/{revision(rng, adapter)}"
        ),
        "info with sizes": lambda rng: of(some(rng), "?blobs=true"),
        "version": lambda rng: of(adapter := some(rng), f"/versions/{revision(rng, adapter)}"),
        "tree": lambda rng: of(adapter := some(rng), f"/tree/{revision(rng, adapter)}?recursive=true"),
        "tree, expanded": lambda rng: of(some(rng), "/tree/main?expand=true"),
        "commits": lambda rng: of(some(rng), "/commits/main"),
        "resolve": lambda rng: _resolve(adapter := some(rng), revision(rng, adapter)),
        "lineage": lambda rng: of(some(rng), "/lineage"),
        "composes": lambda rng: of(some(rng), "/composes"),
        "composes with": lambda rng: of(some(rng), f"/composes?{urlencode({'with': some(rng).full_name})}"),
        "leaderboards": lambda rng: Ask(f"/api/leaderboards?{urlencode({'base': some(rng).base})}"),
        "leaderboard": lambda rng: _board(some(rng)),
        "audit, a repository": lambda rng: audit(repo=some(rng).full_name),
        "audit, a namespace": lambda rng: audit(namespace=some(rng).namespace),
        "a name that is not there": lambda rng: of(_slip(some(rng)), status=404),
    }


def _board(adapter: Adapter) -> Ask:
    dataset = adapter.data["test"].fingerprint
    query = {"base": adapter.base_fingerprint, "task": adapter.task, "dataset": dataset}
    return Ask(f"/api/leaderboard?{urlencode(query)}")


def _measured(adapter: Adapter, rng: random.Random, found: Callable[..., Ask]) -> Ask:
    return found(metric=f"{adapter.metric}>={rng.random():.3f}", base=adapter.base, task=adapter.task)


def _resolve(adapter: Adapter, revision: str) -> Ask:
    return Ask(f"/{adapter.full_name}/resolve/{quote(revision, safe='')}/{CONFIG}", method="HEAD")


def _slip(adapter: Adapter) -> Adapter:
    from dataclasses import replace

    return replace(adapter, name=f"{adapter.name[:-3]}x{adapter.name[-2:]}")
