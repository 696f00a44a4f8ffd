"""Servers of one hub sign alike, wherever their folders are; a backup does not tell how."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapthub.hub.backups import backup
from adapthub.hub.secret import secret_of
from adapthub.hub.server.serving import Serving
from adapthub.hub.store import Store
from tests.hub.postgres import Postgres


@pytest.mark.slow
def test_servers_of_one_database_sign_alike(tmp_path: Path, new_database: Postgres) -> None:
    url = new_database()
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda name: Serving.open(tmp_path / name, database=url), "ab")
    assert secret_of(one.store.database) == secret_of(two.store.database)
    for serving in (one, two):
        serving.close()


def test_the_secret_stays_and_is_not_backed_up(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "hub")
    secret = secret_of(store.database)
    assert len(secret) == 32
    assert secret_of(Store.open(tmp_path / "hub").database) == secret
    assert secret_of(Store.open(tmp_path / "other").database) != secret
    backup(store, tmp_path / "saved")
    assert "hub_secret" not in (tmp_path / "saved" / "tables.jsonl").read_text()
