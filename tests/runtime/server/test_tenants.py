"""A server with tenants, as their clients meet it: keys, what is there for whom, and what is written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from adapthub.adapters.errors import AdapterNotFound, RateLimited
from adapthub.hub.registry import Registry
from adapthub.hub.storage.database import Database
from adapthub.runtime.generation import Limits
from adapthub.runtime.runtime import Runtime
from adapthub.runtime.sampling import Sampling
from adapthub.runtime.scheduler import Scheduler
from adapthub.runtime.server.answering import begin
from adapthub.runtime.server.catalog import Catalog
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.tenants.caller import Caller
from adapthub.runtime.tenants.keys import new_key
from adapthub.runtime.tenants.store import TenantStore
from adapthub.runtime.tenants.tables import SCHEMA
from adapthub.runtime.tenants.tenant import Tenant
from adapthub.runtime.tenants.tenant_gate import open_gate
from adapthub.runtime.tenants.usage import SUMS, usage_report
from tests import asking
from tests.runtime.server.live import live, settings_for


@dataclass(frozen=True)
class Shared:
    """A server that acme and zeta share. Tests that change tenants use names of their own."""

    running: Running
    path: Path
    keys: dict[str, str]

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.running.address}/v1", api_key=key, max_retries=0)


def add(path: Path, name: str, *allow: str, lifetime: timedelta | None = None, **settings: Any) -> str:
    made = Tenant(name, allow, datetime.now(UTC), **settings)
    return TenantStore.open(path).add(made, lifetime=lifetime).text


@pytest.fixture(scope="module")
def shared(
    served_base: Path, served_hub: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    path = tmp_path_factory.mktemp("shared") / "tenants.sqlite"
    keys = {name: add(path, name, f"{name}/*") for name in ("acme", "zeta")}
    keys["limited"] = add(path, "limited", "acme/*", requests_per_minute=5, tokens_per_minute=200)
    keys["hasty"] = add(path, "hasty", "acme/*", requests_per_minute=1)
    # Not on loopback only: with tenants that is allowed.
    settings = settings_for(served_base, host="0.0.0.0")
    with live(settings, served_hub, open_gate(path)) as running:
        yield Shared(running, path, keys)


def models(client: openai.OpenAI) -> list[str]:
    with client:
        return [model.id for model in client.models.list()][1:]  # without the base


def test_answers_say_what_is_left_of_the_minute(shared: Shared) -> None:
    with shared.client(shared.keys["limited"]) as client:
        raw = client.completions.with_raw_response.create(
            model="acme/sql", prompt=[7] * 10, max_tokens=20, extra_body={"ignore_eos": True}
        )
    assert raw.headers["x-ratelimit-limit-requests"] == "5"
    assert raw.headers["x-ratelimit-remaining-requests"] == "4"
    assert raw.headers["x-ratelimit-limit-tokens"] == "200"
    assert 170 <= int(raw.headers["x-ratelimit-remaining-tokens"]) < 180
    assert raw.headers["x-ratelimit-reset-tokens"].endswith("ms")
    with shared.client(shared.keys["acme"]) as client:
        free = client.models.with_raw_response.list()
    assert not [name for name in free.headers if name.startswith("x-ratelimit")]


def test_a_refusal_says_what_is_left_of_the_minute_too(shared: Shared) -> None:
    with shared.client(shared.keys["hasty"]) as client:
        client.models.list()
        with pytest.raises(openai.RateLimitError) as refused:
            client.models.list()
    headers = refused.value.response.headers
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-limit-requests"] == "1"


def test_each_tenant_sees_its_own_and_nothing_of_others(shared: Shared) -> None:
    assert models(shared.client(shared.keys["acme"])) == ["acme/sql", "acme/tone"]
    assert models(shared.client(shared.keys["zeta"])) == ["zeta/own"]
    with shared.client(shared.keys["zeta"]) as client:
        absent = []
        for name in ("acme/sql", "acme/none", "0.5*zeta/own + 0.5*acme/sql", "zeta/../acme/sql", "ACME/sql"):
            with pytest.raises(openai.NotFoundError) as refused:
                client.models.retrieve(name)
            absent.append(refused.value.message)
        assert absent[0].replace("acme/sql", "acme/none") == absent[1]  # looks absent
        with pytest.raises(openai.NotFoundError) as refused:
            client.models.retrieve("zeta/sql")
        assert "acme/sql" not in str(refused.value.body)  # which the hub suggests


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic YWNtZTphY21l"},
        {"Authorization": f"Bearer {new_key()}"},
        {"Authorization": b"Bearer \xff\xfe\xe9"},
        {"Authorization": "Bearer ah_" + "a" * 30_000},
        {"X-Api-Key": "whatever"},
    ],
)
def test_without_a_key_of_this_server_it_is_401(shared: Shared, headers: dict[str, Any]) -> None:
    response = asking.get(f"{shared.running.address}/v1/models", headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    error = response.json()["error"]
    assert error["code"] == "invalid_api_key"
    assert len(error["message"]) < 200


def test_health_needs_no_key(shared: Shared) -> None:
    assert asking.get(f"{shared.running.address}/health").status_code == 200


def test_a_header_of_a_megabyte_costs_nobody_else_anything(shared: Shared) -> None:
    url = f"{shared.running.address}/v1/models"
    try:
        status = asking.get(url, headers={"Authorization": "Bearer " + "a" * (1 << 20)}).status_code
    except httpx2.TransportError:  # hung up on
        status = 431
    assert status in (400, 401, 431)
    assert models(shared.client(shared.keys["acme"]))


def test_what_an_administrator_changes_the_server_sees(shared: Shared) -> None:
    """Soon, that is: the store is asked once a second."""
    store = TenantStore.open(shared.path)
    key = add(shared.path, "late", "acme/sql")

    def answer() -> list[str] | None:
        try:
            return models(shared.client(key))
        except openai.AuthenticationError:
            return None

    eventually(answer, ["acme/sql"])
    store.change("late", allow=("zeta/*",))
    eventually(answer, ["zeta/own"])
    store.revoke("late", store.keys("late")[0].prefix)
    eventually(answer, None)
    with shared.client(key) as revoked, pytest.raises(openai.AuthenticationError, match="was revoked"):
        revoked.models.list()
    store.remove("late")
    with shared.client(shared.keys["acme"]) as other:
        assert other.models.list()


def eventually(answer: Callable[[], object], expected: object) -> None:
    """Waits until `answer` is as expected."""
    import time

    for _ in range(200):
        if answer() == expected:
            return
        time.sleep(0.1)
    assert answer() == expected


def test_what_tenants_use_is_limited_weighed_and_written_down(
    served_base: Path, served_hub: Registry, tmp_path: Path
) -> None:
    """From admission to the ledger, as every endpoint that generates does it."""
    path = tmp_path / "tenants.sqlite"
    add(path, "acme", "acme/*", weight=2.0, tokens_per_minute=60)
    add(path, "zeta", "zeta/*")
    limits = Limits(kv_tokens=4096, max_rows=8)
    acme, zeta = Caller("acme", ("acme/*",)), Caller("zeta", ("zeta/*",))
    scheduler: Scheduler
    with closing(open_gate(path)) as gate:
        scheduler = Scheduler(weights=gate.weights, queue_limit=limits.queue_limit)
        with Runtime(str(served_base), hub=served_hub, limits=limits, scheduler=scheduler) as runtime:
            catalog = Catalog(runtime, served_hub, str(served_base), ["*"])
            serving = Serving(runtime, served_hub, catalog, gate)

            async def ask(caller: Caller, model: str, prompt: int, new: int) -> None:
                target = await catalog.find(model, caller)
                samplings = [Sampling(max_new_tokens=new, ignore_eos=True)]
                async with await begin(serving, caller, target, "chat", [[7] * prompt], samplings) as answer:
                    async for _ in answer:
                        pass

            async def main() -> None:
                await ask(acme, "acme/sql@prod", 10, 40)
                with pytest.raises(RateLimited) as refused:
                    await ask(acme, "acme/sql", 10, 20)
                assert 0 < refused.value.retry_after <= 60
                await ask(zeta, "zeta/own", 30, 10)
                await ask(zeta, str(served_base), 5, 5)
                with pytest.raises(AdapterNotFound):
                    await ask(zeta, "acme/sql", 1, 1)

            asyncio.run(main())
    # Output counts double, weights divide, and zeta began where acme left off.
    assert scheduler.counters == {"acme": (10 + 2 * 40) / 2, "zeta": 45 + 35 + 2 * 15}
    rows = usage_report(Database(path, SCHEMA), ("tenant", "adapter"))
    assert [tuple(row.values()) for row in rows] == [
        ("acme", "acme/sql@v1", 1, 10, 0, 40),
        ("zeta", "", 1, 5, 0, 5),
        ("zeta", "zeta/own@v1", 1, 30, 0, 10),
    ]
    assert tuple(rows[0])[2:] == SUMS
