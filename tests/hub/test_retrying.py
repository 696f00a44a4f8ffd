"""Transactions that collide are made again, and what else goes wrong is said at once."""

from __future__ import annotations

import pytest

from adapthub.adapters.errors import StorageError
from adapthub.hub.storage import retrying
from adapthub.hub.storage.retrying import Collided, retried


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "_FIRST_WAIT", 0.0)


@pytest.mark.parametrize("failures", [0, 1, 4])
def test_what_collides_is_done_again(failures: int) -> None:
    errors = [Collided("deadlock") for _ in range(failures)]

    @retried
    def write(value: int, *, more: int) -> int:
        if errors:
            raise errors.pop()
        return value + more

    assert write(1, more=2) == 3


def test_not_for_ever() -> None:
    calls: list[int] = []

    @retried
    def write() -> None:
        calls.append(1)
        raise Collided(f"deadlock {len(calls)}")

    with pytest.raises(Collided, match="deadlock 5"):
        write()
    assert len(calls) == 5


def test_other_failures_are_not() -> None:
    errors = [StorageError("the disk is full")]

    @retried
    def write() -> None:
        raise errors.pop()

    with pytest.raises(StorageError, match="full"):
        write()
