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
    """One request, and the status that its answer has."""

    path: str
    method: str = "GET"
    status: int = 200


def kinds(population: Population, last: int) -> Mapping[str, Callable[[random.Random], Ask]]:
    """How to make a request of each kind; `last` is the greatest `sequence`, which cursors are below."""

    def some(rng: random.Random) -> Adapter:
        return rng.choice(population.adapters)

    def listed(**query: str | int) -> Ask:
        return Ask(f"/api/models?{urlencode(query)}")

    def found(**query: str | int) -> Ask:
        return Ask(f"{ADAPTERS}?{urlencode(query)}")

    def of(adapter: Adapter, rest: str = "", **ask: str | int) -> Ask:
        return Ask(f"/api/models/{adapter.full_name}{rest}", **ask)  # type: ignore[arg-type]

    def revision(rng: random.Random, adapter: Adapter) -> str:
        return rng.choice(["main", ALIAS, f"v{rng.randint(1, adapter.versions)}"])

    return {
        "list, first page": lambda rng: listed(limit=rng.choice([20, 100])),
        "list, deep": lambda rng: listed(cursor=rng.randrange(1, last)),
        "list with files": lambda rng: listed(full="true", cursor=rng.randrange(1, last)),
        "list, namespace": lambda rng: listed(author=some(rng).namespace),
        "search, a word": lambda rng: listed(search=rng.choice(some(rng).words.split())),
        "search, two words": lambda rng: listed(search=" ".join(rng.sample(some(rng).words.split(), 2))),
        "search, a name": lambda rng: listed(search=some(rng).full_name[:-1]),
        "search, two letters": lambda rng: listed(search=rng.choice(WORDS)[:2]),
        "search, nothing": lambda rng: listed(search=f"{rng.choice(WORDS)}{rng.choice(WORDS)}xq"),
        "search, base": lambda rng: listed(filter=f"base_model:adapter:{rng.choice(BASES)}"),
        "search, task": lambda rng: listed(pipeline_tag=some(rng).task, cursor=rng.randrange(1, last)),
        "search, base and task": lambda rng: listed(
            filter=f"base_model:adapter:{some(rng).base}", pipeline_tag=some(rng).task
        ),
        "search, text and task": lambda rng: listed(search=rng.choice(WORDS), pipeline_tag=some(rng).task),
        "search, metric": lambda rng: found(metric=f"f1>={rng.random():.3f}"),
        "search, metric, base, task": lambda rng: _measured(some(rng), rng, found),
        "info": lambda rng: of(
            adapter := rng.choice(population.with_bytes), f"/revision/{revision(rng, adapter)}"
        ),
        "info with sizes": lambda rng: of(some(rng), "?blobs=true"),
        "tree": lambda rng: of(adapter := some(rng), f"/tree/{revision(rng, adapter)}?recursive=true"),
        "tree, expanded": lambda rng: of(some(rng), "/tree/main?expand=true"),
        "commits": lambda rng: of(some(rng), "/commits/main"),
        "resolve": lambda rng: _resolve(adapter := some(rng), revision(rng, adapter)),
        "a name that is not there": lambda rng: of(_slip(some(rng)), status=404),
    }


def _measured(adapter: Adapter, rng: random.Random, found: Callable[..., Ask]) -> Ask:
    return found(metric=f"{adapter.metric}>={rng.random():.3f}", base=adapter.base, task=adapter.task)


def _resolve(adapter: Adapter, revision: str) -> Ask:
    return Ask(f"/{adapter.full_name}/resolve/{quote(revision, safe='')}/{CONFIG}", method="HEAD")


def _slip(adapter: Adapter) -> Adapter:
    from dataclasses import replace

    return replace(adapter, name=f"{adapter.name[:-3]}x{adapter.name[-2:]}")
