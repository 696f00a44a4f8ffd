"""Versions change under load: no request fails, and none is answered by another version than it was admitted on."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.hub import open_hub
from adapthub.hub.registry import Registry
from tests.adapters.causal_pass import CAUSAL
from tests.adapters.peft_oracle import save_adapter
from tests.runtime.generating import lora
from tests.runtime.server.assembled import Assembled, assembled
from tests.runtime.server.recording import RecordingGate

NAMES = ("acme/sql", "acme/tone", "zeta/own")
VERSIONS = 3
PROMPTS = ("ada was born", "the film is", "bob met alice in paris")


@pytest.fixture(scope="module")
def hub(served_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Three names of three versions each, prod on the first of each."""
    folder = tmp_path_factory.mktemp("swapped")
    hub = open_hub(folder / "hub")
    for seed, name in enumerate(NAMES * VERSIONS):
        adapter = save_adapter(served_base, folder / str(seed), CAUSAL, lora(r=2 + seed), seed=seed)
        hub.push(Artifact.read(adapter), name, alias="prod" if seed < len(NAMES) else None)
    return hub


async def load(
    server: Assembled, expected: dict[tuple[str, str], str], worker: int, stop: asyncio.Event
) -> int:
    """Ask until `stop`; returns how often."""
    asked = 0
    while not stop.is_set():
        turn = worker + asked
        prompt = PROMPTS[turn % len(PROMPTS)]
        target, text = await server.ask(f"{NAMES[turn % len(NAMES)]}@prod", prompt, user=str(turn))
        assert text == expected[target.label, prompt], target
        asked += 1
    return asked


async def swap(server: Assembled, count: int) -> None:
    """Load and unload until `count` adapters came into slots, for others that had to leave: nine do not fit into four."""
    before = server.serving.runtime.moves.loads
    for turn in itertools.count():
        if server.serving.runtime.moves.loads >= before + count:
            return
        model = f"{NAMES[turn % len(NAMES)]}@v{1 + turn // len(NAMES) % VERSIONS}"
        await server.post("/admin/adapters/load", model=model)
        if turn % 4 == 0:  # gone, if nobody asked for it meanwhile
            answer = await server.admin.post("/admin/adapters/unload", json={"model": model})
            assert answer.status_code in (200, 404)


async def move(server: Assembled, count: int) -> None:
    """Promote and roll back, one name after another."""
    for turn in range(count):
        name = NAMES[turn % len(NAMES)]
        version = 2 + turn // len(NAMES) % (VERSIONS - 1)
        await server.post("/admin/promote", ref=f"{name}@v{version}", alias="prod")
        target, _ = await server.ask(f"{name}@prod")
        assert target.label == f"{name}@v{version}"  # at once
        await server.post("/admin/rollback", name=name, alias="prod")
        target, _ = await server.ask(f"{name}@prod")
        assert target.label != f"{name}@v{version}"


async def scenario(base: Path, hub: Registry, *, swaps: int, moves: int, workers: int) -> int:
    """How many requests were answered meanwhile."""
    gate = RecordingGate()
    async with assembled(base, hub, gate=gate, slots=4) as server:
        runtime = server.serving.runtime
        expected = {
            (f"{name}@v{number}", prompt): text.text
            for name in NAMES
            for number in range(1, VERSIONS + 1)
            for prompt, text in zip(
                PROMPTS,
                runtime.generate([*PROMPTS], f"{name}@v{number}", max_new_tokens=8, ignore_eos=True),
                strict=True,
            )
        }
        assert len({*expected.values()}) == len(expected)  # a text says which version gave it
        stop = asyncio.Event()
        asking = [asyncio.create_task(load(server, expected, worker, stop)) for worker in range(workers)]
        try:
            await asyncio.gather(swap(server, swaps), move(server, moves))
        finally:
            stop.set()
            asked = await asyncio.gather(*asking)
        assert {record.outcome for record in gate.records} == {"length"}
        assert len(gate.records) == sum(asked) + 2 * moves
        assert {record.adapter for record in gate.records} <= {label for label, _ in expected}
        assert server.serving.in_flight == 0
        assert not any(resident.holders for resident in runtime.resident)
        return sum(asked)


def test_versions_change_under_load(served_base: Path, hub: Registry) -> None:
    assert asyncio.run(scenario(served_base, hub, swaps=30, moves=6, workers=4)) > 6


@pytest.mark.slow
def test_a_thousand_swaps_and_a_hundred_promotions_under_load(served_base: Path, hub: Registry) -> None:
    asked = asyncio.run(scenario(served_base, hub, swaps=1000, moves=100, workers=8))
    print(f"{asked} requests during 1,000 swaps, 100 promotions and 100 rollbacks")


def test_an_alias_moved_by_another_process_is_seen_soon(served_base: Path, hub: Registry) -> None:
    """The server holds a resolution for a second at most: nobody tells it."""

    async def moved_elsewhere() -> None:
        async with assembled(served_base, hub) as server:
            before, _ = await server.ask("acme/sql@prod")
            elsewhere = open_hub(hub.root)  # type: ignore[attr-defined]
            await asyncio.to_thread(elsewhere.promote, "acme/sql@v3", "prod")
            try:
                async with asyncio.timeout(30):
                    while (now := (await server.ask("acme/sql@prod"))[0].label) == before.label:
                        await asyncio.sleep(0.05)
                assert now == "acme/sql@v3"
            finally:
                elsewhere.rollback("acme/sql", "prod")

    asyncio.run(moved_elsewhere())
