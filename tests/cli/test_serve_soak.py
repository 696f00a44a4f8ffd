"""A server under a day's worth of clients: memory stays flat, no page leaks, no record of usage is lost.

`ADAPTHUB_SOAK` says for how many seconds, 1,800 by default. Clients stream, go away in the middle, ask for sums and for what
is not there; adapters are loaded and unloaded meanwhile, and there are fewer slots than adapters.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests import asking
from tests.cli.conftest import Command
from tests.cli.test_serve import serving
from tests.cli.test_serve_tenants import recorded
from tests.runtime.server.live import write_base, write_hub

SECONDS = float(os.environ.get("ADAPTHUB_SOAK", "1800"))
WARM_UP = min(60.0, SECONDS / 3)
CLIENTS = 12
MODELS = ("acme/sql@prod", "acme/sql@v2", "acme/tone", "zeta/own", "0.5*acme/sql + 0.5*acme/tone")
WORDS = ("ada", "was", "born", "in", "paris", "bob", "film", "good")
MAY = 64 << 20  # bytes that the process may still grow by, once it is warm, whatever the time


class Clients:
    """What they got. `finished`: what each answer that was read to its end said that it used, by request."""

    def __init__(self, address: str, keys: dict[str, str], admin: str) -> None:
        self.finished: dict[str, tuple[str, int, int]] = {}
        self.outcomes: Counter[str] = Counter()
        self._address, self._keys, self._admin = address, keys, admin

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        async with (
            httpx2.AsyncClient(base_url=self._address, timeout=60) as http,
            asyncio.TaskGroup() as group,
        ):
            for seed in range(CLIENTS):
                group.create_task(self._client(http, random.Random(f"{seed} {seconds}"), until))
            group.create_task(self._administrator(http, until))

    async def _client(self, http: httpx2.AsyncClient, rng: random.Random, until: float) -> None:
        while time.monotonic() < until:
            tenant = rng.choice([*self._keys])
            body = {
                "model": rng.choice([*MODELS, "acme/none"]),
                "prompt": " ".join(rng.choices(WORDS, k=rng.randint(1, 40))),
                "max_tokens": rng.randint(1, 40),
                "temperature": rng.choice([0, 1]),
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            headers = {"Authorization": f"Bearer {self._keys[tenant]}"}
            async with http.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
                if answer.status_code == 404:
                    self.outcomes["absent"] += 1
                    continue
                assert answer.status_code == 200, await answer.aread()
                usage = await _usage(answer, leaves=rng.random() < 0.2)
            if usage is None:
                self.outcomes["left"] += 1
                continue
            self.outcomes["ended"] += 1
            self.finished[answer.headers["X-Request-Id"]] = (
                tenant,
                usage["prompt_tokens"],
                usage["completion_tokens"],
            )

    async def _administrator(self, http: httpx2.AsyncClient, until: float) -> None:
        """Adapters go and come while they are used."""
        headers = {"Authorization": f"Bearer {self._admin}"}
        turn = 0
        while time.monotonic() < until:
            for what in ("unload", "load"):
                body = {"model": MODELS[turn % 4]}
                answer = await http.post(f"/admin/adapters/{what}", json=body, headers=headers)
                assert answer.status_code in (200, 404), answer.text
                self.outcomes[f"{what} {answer.status_code}"] += 1
            turn += 1
            await asyncio.sleep(0.5)


async def _usage(answer: httpx2.Response, *, leaves: bool) -> dict[str, Any] | None:
    """What a whole answer says; None where the client went away after the first words."""
    usage: dict[str, Any] | None = None
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            usage = event.get("usage") or usage
            if leaves:
                return None
    assert usage is not None
    return usage


def _settled(address: str, admin: str) -> dict[str, Any]:
    """The server's state once nobody is being answered."""
    headers = {"Authorization": f"Bearer {admin}"}
    for _ in range(600):
        state: dict[str, Any] = asking.get(f"{address}/admin/status", headers=headers).json()
        if state["in_flight"] == state["generation"]["running"] == 0:
            return state
        time.sleep(0.1)
    raise AssertionError(state)


@pytest.mark.slow
def test_a_long_day(cli: Command, tmp_path: Path, own_home: Path) -> None:
    base = write_base(tmp_path / "base")
    write_hub(base, own_home)
    keys = {
        tenant: cli("tenant", "add", tenant, "--allow", "*").fine().strip()
        for tenant in ("acme", "zeta", "ours")
    }
    admin = cli("tenant", "add", "root", "--allow", "*", "--admin").fine().strip()
    arguments = ("--base", base, "--kv-tokens", "4096", "--max-rows", "8", "--slots", "3", "--port", "0")
    with serving(*arguments) as server:
        process = psutil.Process(server.popen.pid)
        clients = Clients(server.address, keys, admin)
        asyncio.run(clients.run(WARM_UP))
        warm, handles = process.memory_info().rss, process.num_fds()
        asyncio.run(clients.run(SECONDS))
        state = _settled(server.address, admin)
        headers = {"Authorization": f"Bearer {admin}"}
        residents = asking.get(f"{server.address}/admin/adapters", headers=headers).json()
        grown = process.memory_info().rss - warm
        assert grown < MAY, f"{grown / 2**20:.0f} MiB more than when it was warm"
        assert process.num_fds() <= handles + 8
    assert min(clients.outcomes[kind] for kind in ("ended", "left", "absent", "load 200")) > 0, (
        clients.outcomes
    )
    assert state["generation"]["waiting"] == 0
    assert not any(one["holders"] for one in residents["adapters"])
    usage = recorded()
    assert {id: usage.get(id) for id in clients.finished} == clients.finished
    assert len(usage) >= len(clients.finished) + clients.outcomes["left"]
