"""How the server answers over a large hub: 100,000 adapters with 1,000,000 versions, and over hubs of a tenth and a
hundredth of that, to see what grows. In SQLite, and in PostgreSQL where one is named.

The hubs are filled by bulk (fill), once: a folder that holds them already is used as it is. One client asks one thing after
another over one connection, every kind in turn; times are what it waits for a whole answer.
"""

from __future__ import annotations

import gc
import http.client
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.engine import make_url

from adapthub.hub.server.pages.visitors import COOKIE
from adapthub.hub.storage.tables import RepoRow
from adapthub.hub.store import BLOBS, Store
from benchmarks.hub import asks, servers
from benchmarks.hub.fill import fill
from benchmarks.hub.population import Population

SIZES = (1_000, 10_000, 100_000)
ASKS, FIRST = 200, 5  # of each kind; the first ones are not counted


@dataclass(frozen=True)
class Filled:
    """A hub that holds `population`."""

    data: Path
    database: str | None
    population: Population
    last: int


def measure(folder: Path, postgres: str | None) -> list[dict[str, Any]]:
    """In `folder`; `postgres`: the URL of a server in which databases may be made. Prints what is measured as it is known:
    all of it takes an hour where the hubs must be filled."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for database, url in (("SQLite", None), *((("PostgreSQL", postgres),) if postgres else ())):
        for size in SIZES:
            filled = filled_hub(folder, size, url)
            print(f"{database}, {size:,} adapters", flush=True)
            for kind, milliseconds in _measure(filled).items():
                print(f"  {kind}: p50 {milliseconds[0]:.1f}, p99 {milliseconds[1]:.1f}", flush=True)
                row = rows.setdefault((database, kind), {"database": database, "request": kind})
                row |= {f"{size:,}: p50": milliseconds[0], f"{size:,}: p99": milliseconds[1]}
    return list(rows.values())


def filled_hub(folder: Path, size: int, postgres: str | None = None) -> Filled:
    """The hub of that many adapters in `folder` or `postgres`, filled if it is not there; a filling that was interrupted is
    begun anew."""
    data = folder / f"hub-{size}{'' if postgres is None else '-postgres'}"
    name = f"adapthub_scale_{size}"
    population = Population(size)
    if not data.exists():
        part = data.with_name(f"{data.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        store = Store.open(
            part, database=None if postgres is None else _new_database(postgres, f"{name}_part")
        )
        fill(store, part / BLOBS, population)
        if postgres is not None:
            _execute(postgres, f'ALTER DATABASE "{name}_part" RENAME TO "{name}"')
        part.rename(data)
    database = None if postgres is None else _url(postgres, name)
    with Store.open(data, database=database).database.reading() as session:
        last = session.scalar(select(func.max(RepoRow.sequence)))
    assert last is not None
    return Filled(data, database, population, last)


def _measure(filled: Filled) -> dict[str, tuple[float, float]]:
    """The median and the 99th percentile of each kind, in milliseconds; and the server's memory, in MB."""
    rng = random.Random(7)
    kinds = asks.kinds(filled.population, filled.last)
    for make in kinds.values():
        make(
            rng
        )  # what the population keeps is there from now on: a connection that is silent for seconds is closed
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    with servers.hub(filled.data, database=filled.database) as server:
        where = urlsplit(server.url)
        headers = {admin: _headers(filled, "admin" if admin else "read") for admin in (False, True)}
        connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=60)
        with _no_collection():
            for turn in range(FIRST + ASKS):
                for kind, make in kinds.items():
                    ask = make(rng)
                    seconds = _ask(connection, kind, ask, headers[ask.admin])
                    if turn >= FIRST:
                        took[kind].append(seconds * 1000)
        connection.close()
        memory = server.peak_megabytes()
    found = {kind: (_percentile(times, 50), _percentile(times, 99)) for kind, times in took.items()}
    return {**found, "memory of the server, MB": (round(memory), round(memory))}


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the client's own garbage collection, which would look through the whole population."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _ask(
    connection: http.client.HTTPConnection, kind: str, ask: asks.Ask, headers: Mapping[str, str]
) -> float:
    start = time.perf_counter()
    connection.request(ask.method, ask.path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    seconds = time.perf_counter() - start
    if response.status != ask.status:
        raise RuntimeError(f"{kind}: {ask.method} {ask.path} is {response.status}: {body[:500]!r}")
    return seconds


def _headers(filled: Filled, scope: str) -> Mapping[str, str]:
    token = servers.new_token(filled.data, database=filled.database, scope=scope)
    return {"Authorization": f"Bearer {token}", "Cookie": f"{COOKIE}={token}"}


def _percentile(times: list[float], percent: int) -> float:
    return sorted(times)[min(len(times) - 1, len(times) * percent // 100)]


def _new_database(server: str, name: str) -> str:
    """The URL of an empty database of a PostgreSQL server."""
    _execute(server, f'DROP DATABASE IF EXISTS "{name}"')
    _execute(server, f'CREATE DATABASE "{name}"')
    return _url(server, name)


def _execute(server: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement.encode())


def _url(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)
