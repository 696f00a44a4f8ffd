"""`adapt serve` with tenants, as a process that is killed in the middle of its load and started again."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.hub import open_hub
from tests import asking
from tests.adapters.causal_pass import CAUSAL
from tests.adapters.peft_oracle import save_adapter
from tests.cli.conftest import Command
from tests.cli.test_serve import serving
from tests.runtime.generating import lora
from tests.runtime.server.live import write_base

CLIENTS = 8  # of each tenant
TENANTS = ("acme", "zeta")
ENOUGH = 150  # answers that came whole before the server is killed


class Load:
    """Clients that ask again and again until the server is gone, and what each whole answer said that it used."""

    def __init__(self, address: str, base: str, keys: dict[str, str]) -> None:
        self.finished: dict[str, tuple[str, int, int]] = {}  # by request: tenant, tokens of prompt and answer
        self.enough = threading.Event()
        self._address = address
        self._threads = [
            threading.Thread(
                target=self._ask, args=(tenant, key, base if number % 2 else f"{tenant}/own", number)
            )
            for tenant, key in keys.items()
            for number in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(timeout=60)

    def _ask(self, tenant: str, key: str, model: str, number: int) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        body = {"model": model, "max_tokens": 4 + number, "ignore_eos": True, "stream": number % 3 == 0}
        with asking.client(base_url=self._address, headers=headers) as client:
            for turn in range(10**6):
                try:
                    answer = client.post(
                        "/v1/completions",
                        json={**body, "prompt": "ada was born " * (1 + turn % 5)}
                        | ({"stream_options": {"include_usage": True}} if body["stream"] else {}),
                    )
                    assert answer.status_code == 200, answer.text
                    usage = _usage(answer.text, streamed=bool(body["stream"]))
                except httpx2.TransportError:  # it was killed
                    return
                if usage is None:
                    return
                self.finished[answer.headers["X-Request-Id"]] = (
                    tenant,
                    usage["prompt_tokens"],
                    usage["completion_tokens"],
                )
                if len(self.finished) >= ENOUGH:
                    self.enough.set()


def _usage(text: str, *, streamed: bool) -> dict[str, Any] | None:
    """What a whole answer says; None for one that was cut off."""
    if not streamed:
        usage: dict[str, Any] = json.loads(text)["usage"]
        return usage
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    return json.loads(lines[-2])["usage"] if lines and lines[-1] == "[DONE]" else None


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_misses_no_finished_request(
    cli: Command, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base")
    keys = {}
    for seed, tenant in enumerate(TENANTS):
        adapter = save_adapter(base, tmp_path / tenant, CAUSAL, lora(), seed=seed)
        open_hub().push(Artifact.read(adapter), f"{tenant}/own")
        keys[tenant] = cli("tenant", "add", tenant, "--allow", f"{tenant}/*").fine().strip()

    with serving("--base", base, "--kv-tokens", "8192", "--port", "0") as server:
        assert "tenants by key" in server.ready
        assert asking.get(f"{server.address}/v1/models").status_code == 401
        load = Load(server.address, str(base), keys)
        assert load.enough.wait(120)
        server.popen.kill()
        load.wait()
        assert server.ended() == -9
    usage = recorded()
    assert {id: usage.get(id) for id in load.finished} == load.finished

    with serving("--base", base, "--kv-tokens", "8192", "--port", "0") as server:
        used = json.loads(cli("tenant", "usage", "acme", "--json").fine())[0]
        total = used["prompt_tokens"] + used["completion_tokens"]
        assert total == sum(prompt + new for tenant, prompt, new in recorded().values() if tenant == "acme")
        cli("tenant", "limit", "acme", "--tokens-per-month", str(total + 4)).fine()
        for _ in range(100):  # seen within a second or two
            answer = asking.post(
                f"{server.address}/v1/completions",
                headers={"Authorization": f"Bearer {keys['acme']}"},
                json={"model": "acme/own", "prompt": "ada", "max_tokens": 8},
                timeout=60,
            )
            if answer.status_code == 429:
                break
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "insufficient_quota"
        assert int(answer.headers["Retry-After"]) > 0


def recorded() -> dict[str, tuple[str, int, int]]:
    from sqlalchemy import select

    from adapthub.hub.storage.database import Database
    from adapthub.runtime.tenants.tables import SCHEMA, UsageRow, default_path

    with Database(default_path(), SCHEMA).reading() as session:
        columns = (UsageRow.id, UsageRow.tenant, UsageRow.prompt_tokens, UsageRow.completion_tokens)
        return {id: (tenant, prompt, new) for id, tenant, prompt, new in session.execute(select(*columns))}
