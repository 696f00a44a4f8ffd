"""Whose turn it is to pull an adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from adapthub.runtime.server import pulls
from adapthub.runtime.server.pulls import Pulls


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three at once, two of one tenant."""
    monkeypatch.setattr(pulls, "_AT_ONCE", 3)
    monkeypatch.setattr(pulls, "_OF_ONE", 2)


class Slow:
    """Pulls that end when they are let."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.let = asyncio.Event()

    def of(self, source: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def pull() -> None:
            self.begun.append(source)
            await self.let.wait()

        return pull


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_one_tenant_does_not_take_all_turns() -> None:
    async def scenario() -> None:
        turns, slow = Pulls(), Slow()
        flood = [asyncio.create_task(turns.once("flood", name, slow.of(name))) for name in "abcd"]
        await settled()
        assert slow.begun == ["a", "b"]
        others = [asyncio.create_task(turns.once("other", name, slow.of(name))) for name in "cxy"]
        await settled()
        assert slow.begun == ["a", "b", "c"]  # nobody waits for another's turn, but all for one of three
        slow.let.set()
        await asyncio.gather(*flood, *others)
        assert {*slow.begun} == {*"abcdxy"}

    asyncio.run(scenario())


def test_all_that_ask_for_one_adapter_take_one_turn() -> None:
    async def scenario() -> None:
        turns, slow = Pulls(), Slow()
        asking = [asyncio.create_task(turns.once("acme", "a", slow.of("a"))) for _ in range(5)]
        asking.append(asyncio.create_task(turns.once("acme", "b", slow.of("b"))))
        await settled()
        assert slow.begun == ["a", "b"]
        ended = asyncio.create_task(turns.ended(["a", "never asked for"]))
        asking[0].cancel()  # stops nobody else
        await settled()
        assert not ended.done()
        slow.let.set()
        await asyncio.gather(*asking[1:], ended)
        await turns.ended(["a"])

    asyncio.run(scenario())


def test_a_pull_that_fails_leaves_its_turn() -> None:
    async def refused() -> None:
        raise ValueError("no such file")

    async def scenario() -> None:
        turns = Pulls()
        for at in range(9):
            with pytest.raises(ValueError, match="no such file"):
                await turns.once("acme", str(at), refused)

    asyncio.run(scenario())
