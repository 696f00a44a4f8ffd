"""What tenants meet at OpenAI's API: keys, models of others, limits, and every token in the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from adapthub.hub.registry import Registry
from adapthub.hub.storage.database import Database
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.tenants.tables import SCHEMA
from adapthub.runtime.tenants.tenant_gate import open_gate
from adapthub.runtime.tenants.usage import usage_report
from tests.runtime.server.live import live, settings_for
from tests.runtime.server.recording import idle
from tests.runtime.server.test_tenants import add

CHAT: Any = {"messages": [{"role": "user", "content": "ada was"}], "extra_body": {"ignore_eos": True}}


@pytest.fixture
def tenants(
    served_base: Path, served_hub: Registry, tmp_path: Path
) -> Iterator[tuple[Running, Path, dict[str, openai.OpenAI]]]:
    path = tmp_path / "tenants.sqlite"
    keys = {
        "acme": add(path, "acme", "acme/*"),
        "zeta": add(path, "zeta", "zeta/*", tokens_per_minute=100),
        "none": "ah_unknown",
    }
    with live(settings_for(served_base), served_hub, open_gate(path)) as running:
        clients = {
            name: openai.OpenAI(base_url=f"{running.address}/v1", api_key=key, max_retries=0)
            for name, key in keys.items()
        }
        yield running, path, clients
        for client in clients.values():
            client.close()


@pytest.mark.parametrize("stream", [False, True])
def test_tenants_are_kept_apart_limited_and_counted(
    tenants: tuple[Running, Path, dict[str, openai.OpenAI]], stream: bool
) -> None:
    running, path, clients = tenants

    def ask(tenant: str, model: str, tokens: int, **options: Any) -> None:
        answer = clients[tenant].chat.completions.create(
            model=model, max_tokens=tokens, stream=stream, **CHAT, **options
        )
        if stream:
            list(answer)

    with pytest.raises(openai.AuthenticationError) as unknown:
        ask("none", "acme/sql", 1)
    assert unknown.value.code == "invalid_api_key"
    assert unknown.value.request_id
    with pytest.raises(openai.NotFoundError) as absent:
        ask("zeta", "acme/sql", 1)
    assert absent.value.code == "model_not_found"
    ask("zeta", "zeta/own", 60)
    with pytest.raises(openai.RateLimitError) as limited:
        ask("zeta", "zeta/own", 60)
    assert 0 < int(limited.value.response.headers["retry-after"]) <= 60
    ask("acme", "acme/sql@v2", 5, n=2)
    ask("acme", "acme/sql", 7)
    idle(running)
    prompt = 18
    rows = usage_report(Database(path, SCHEMA), ("tenant", "adapter"))
    found = {
        (row["tenant"], row["adapter"]): (row["prompt_tokens"], row["completion_tokens"]) for row in rows
    }
    assert found == {
        ("zeta", "zeta/own@v1"): (prompt, 60),
        ("acme", "acme/sql@v2"): (2 * prompt, 2 * 5 + 7),
    }
