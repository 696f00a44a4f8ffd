"""What a server that ends leaves behind: what requests used in the ledger, the process as it was."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path

import httpx2
import pytest

from adapthub.hub.registry import Registry
from adapthub.runtime.engine import Engine
from adapthub.runtime.server import lifecycle
from adapthub.runtime.server.serving import ServerLimits
from adapthub.runtime.tenants.gate import UsageRecord
from tests import asking
from tests.runtime.server.live import live, settings_for
from tests.runtime.server.recording import RecordingGate
from tests.web.live import eventually


class SlowGate(RecordingGate):
    """Writes to a disk."""

    async def record(self, usage: UsageRecord, admitted: int) -> None:
        await asyncio.sleep(0.02)
        await super().record(usage, admitted)


def test_what_outlives_the_drain_is_written_down(
    served_base: Path, served_hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream and a whole answer, which would take many times as long as they are given."""
    monkeypatch.setattr(lifecycle, "_TAILS", 0.1)
    step = Engine.step

    def slow(self: Engine) -> bool:
        time.sleep(0.03)
        return step(self)

    monkeypatch.setattr(Engine, "step", slow)
    gate = SlowGate()
    settings = settings_for(served_base, server=ServerLimits(drain_seconds=0.5))
    with live(settings, served_hub, gate) as running:

        def ask(stream: bool) -> None:
            body = {
                "model": "acme/sql@v1",
                "prompt": "ada",
                "max_tokens": 400,
                "stream": stream,
                "ignore_eos": True,
            }
            with pytest.raises(httpx2.HTTPError):  # the connection ends with the server
                asking.post(f"{running.address}/v1/completions", json=body).raise_for_status()

        clients = [threading.Thread(target=ask, args=(stream,)) for stream in (True, False)]
        for client in clients:
            client.start()
        eventually(lambda: running.serving.runtime.generation.load.running == 2, "they do not run")
    for client in clients:
        client.join(60)
    assert running.serving.in_flight == 0
    assert [record.outcome for record in gate.records] == ["cancelled", "cancelled"]
    assert all(0 < record.completion_tokens < 400 for record in gate.records)
    assert gate.given_back == gate.admitted


def test_what_was_loaded_is_not_looked_through_for_garbage_while_the_server_runs(
    served_base: Path, served_hub: Registry
) -> None:
    with live(settings_for(served_base), served_hub):
        assert gc.get_freeze_count() > 100_000, "all modules' objects among them"
    assert gc.get_freeze_count() == 0
