"""How many statements an upload takes: each costs 0.15 ms of Python, whatever the database does, and they grow unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from adapthub.hub.connection import Connection
from adapthub.hub.remote import RemoteHub
from tests.hub.adapters import contents, write_adapter
from tests.hub.server.live import HubServer
from tests.hub.server.test_faults import commit, put

WEIGHTS = "adapter_model.safetensors"
# What begins transactions; the outbox that is looked into, and what is swept, now and then.
BY_ITSELF = ("BEGIN", "deliveries", "hub_epoch")


@contextmanager
def statements() -> Iterator[list[str]]:
    """Those that requests take within."""
    ran: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if not any(word in statement for word in BY_ITSELF):
            ran.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield ran
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_a_version_by_lfs(hub_server: HubServer, tmp_path: Path) -> None:
    """That follows another. What is sent: 4 to announce it, 3 before it comes, so that what has no room does not, and 6 to
    write it down. The commit: 2 for who may, 3 for what was sent, 1 for texts, 3 for the branch as it is, 1 for
    the base; then in its transaction 4 to lock and look, 4 for commit, files and branch, 5 for the version and what is
    known of it, 7 for what lists see, 3 for the log and webhooks."""
    hub_server.client().create_repo("ada/ner")
    token = hub_server.token()
    for seed in (1, 2):
        files = contents(write_adapter(tmp_path / str(seed), seed=seed).path)
        with statements() as sent:
            assert put(hub_server, token, files[WEIGHTS]).status_code == 200
        with statements() as committed:
            assert commit(hub_server, token, files).status_code == 200
    assert len(sent) <= 13, sent
    assert len(committed) <= 34, committed


def test_many_files_take_no_more(hub_server: HubServer) -> None:
    hub_server.client().create_repo("ada/ner")
    token = hub_server.token()
    counts = []
    for files in ({"1.txt": b"1"}, {f"{number}.txt": b"%d" % number for number in range(50)}):
        with statements() as committed:
            assert commit(hub_server, token, files).status_code == 200
        counts.append(len(committed))
    assert counts[1] <= counts[0], committed


@pytest.fixture
def push(hub_server: HubServer, tmp_path: Path) -> Callable[[int], object]:
    hub = RemoteHub(Connection(hub_server.url, hub_server.token()), cache=tmp_path / "cache")
    return lambda seed: hub.push(write_adapter(tmp_path / str(seed), seed=seed, width=20_000), "ada/ner")


def test_a_version_by_our_client(push: Callable[[int], object]) -> None:
    """What the hub lacks is asked for, sent, and then published."""
    push(1)
    with statements() as ran:
        push(2)
    assert len(ran) <= 48, ran
