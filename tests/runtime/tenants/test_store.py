"""Tenants and keys in their database: what is kept, what is refused, and processes side by side."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from adapthub.adapters.errors import Conflict, InvalidSettings, NotFound, StorageError
from adapthub.runtime.tenants.keys import fits, hash_of
from adapthub.runtime.tenants.store import TenantStore
from adapthub.runtime.tenants.tables import default_path
from adapthub.runtime.tenants.tenant import Directory
from tests.runtime.tenants.changing import change_all
from tests.runtime.tenants.helpers import NOW, Clock, store_at, tenant

DAY = timedelta(days=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "tenants.sqlite"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(path: Path, clock: Clock) -> TenantStore:
    return store_at(path, clock)


def test_a_tenant_is_kept_as_it_was_added(store: TenantStore, path: Path) -> None:
    acme = tenant(
        "acme",
        "acme/*",
        "shared/tone",
        admin=True,
        weight=2.5,
        requests_per_minute=60,
        tokens_per_minute=10_000,
        tokens_per_month=10**9,
    )
    store.add(acme)
    store.add(tenant("zeta"))
    assert store_at(path).tenants() == [acme, tenant("zeta")]
    assert store_at(path).get("acme") == acme


def test_only_a_hash_of_a_key_is_kept(store: TenantStore, path: Path) -> None:
    new = store.add(tenant())
    (key,) = store.keys("acme")
    assert key == new.key
    assert key.hash == hash_of(new.text)
    secret = new.text.removeprefix(f"{key.prefix}_").encode()
    for file in path.parent.iterdir():
        assert secret not in file.read_bytes()


def test_it_is_in_adapthubs_home(own_home: Path) -> None:
    TenantStore.open().add(tenant())
    assert (own_home / "tenants.sqlite").exists()
    assert default_path() == own_home / "tenants.sqlite"


def test_a_name_is_taken_once(store: TenantStore) -> None:
    store.add(tenant())
    with pytest.raises(Conflict, match="a tenant acme already.*key add acme"):
        store.add(tenant(tokens_per_month=5))
    assert store.get("acme").tokens_per_month is None
    assert len(store.keys("acme")) == 1


@pytest.mark.parametrize("name", ["acmee", "ACME", "acme ", "\udcff", "a" * 10_000, "' OR 1=1 --"])
def test_a_tenant_that_is_not_there(store: TenantStore, name: str) -> None:
    store.add(tenant())
    with pytest.raises(NotFound, match="acme") as missing:
        store.get(name)
    assert len(str(missing.value)) < 250
    for call in (store.keys, store.add_key, store.remove):
        with pytest.raises(NotFound):
            call(name)


def test_near_names_are_suggested(store: TenantStore) -> None:
    with pytest.raises(NotFound, match="adapt tenant add makes one"):
        store.get("acme")
    store.add(tenant())
    with pytest.raises(NotFound, match="Did you mean 'acme'"):
        store.get("acmee")


def test_changes_are_checked_and_kept(store: TenantStore) -> None:
    store.add(tenant(tokens_per_minute=5))
    assert store.change("acme", allow=("zeta/*",), weight=3.0).allow == ("zeta/*",)
    assert store.get("acme") == tenant("acme", "zeta/*", weight=3.0, tokens_per_minute=5)
    with pytest.raises(InvalidSettings, match="tokens a minute"):
        store.change("acme", weight=4.0, tokens_per_minute=-1)
    assert store.get("acme").weight == 3.0


def test_keys_end_when_they_are_told_to(store: TenantStore, clock: Clock) -> None:
    first = store.add(tenant(), lifetime=DAY)
    second = store.add_key("acme")
    assert [key.expires for key in store.keys("acme")] == [NOW + DAY, None]
    assert store.revoke("acme", first.key.prefix).state(NOW) == "revoked"
    clock.seconds += 60
    assert store.revoke("acme", first.text).revoked == NOW  # once is once
    assert second.key.state(clock.now()) == "works"
    for lifetime in (timedelta(0), -DAY, timedelta(days=10**6)):
        with pytest.raises(InvalidSettings, match="cannot work for"):
            store.add_key("acme", lifetime=lifetime)
    assert len(store.keys("acme")) == 2


def test_a_key_of_another_tenant_is_not_named(store: TenantStore) -> None:
    mine, theirs = store.add(tenant()), store.add(tenant("zeta"))
    for named in (theirs.key.prefix, theirs.text, "ah_nothing", "nothing", ""):
        with pytest.raises(NotFound) as missing:
            store.revoke("acme", named)
        assert theirs.text not in str(missing.value)
    assert mine.key.prefix in str(missing.value)
    assert store.keys("zeta")[0].state(NOW) == "works"


def test_rotation_leaves_time_to_change(store: TenantStore, clock: Clock) -> None:
    old = store.add(tenant(), lifetime=10 * DAY)
    clock.seconds += 86_400
    new = store.rotate("acme", grace=DAY)
    ended, made = store.keys("acme")
    assert ended.prefix == old.key.prefix
    assert ended.expires == NOW + 2 * DAY
    assert made == new.key
    assert made.expires == NOW + 11 * DAY  # as long as the old one had
    assert fits(new.text, made.hash)
    assert store.rotate("acme", made.prefix, lifetime=DAY).key.expires == NOW + 2 * DAY


def test_rotation_never_makes_a_key_last_longer(store: TenantStore) -> None:
    store.add(tenant(), lifetime=DAY)
    store.rotate("acme", grace=5 * DAY)
    assert store.keys("acme")[0].expires == NOW + DAY


def test_rotation_needs_one_key_that_works(store: TenantStore, clock: Clock) -> None:
    first = store.add(tenant(), lifetime=DAY)
    second = store.add_key("acme")
    with pytest.raises(Conflict, match=f"2 keys that work: {first.key.prefix}, {second.key.prefix}"):
        store.rotate("acme")
    store.revoke("acme", second.key.prefix)
    with pytest.raises(Conflict, match="is revoked, so there is nothing to rotate"):
        store.rotate("acme", second.key.prefix)
    clock.seconds += 86_400
    with pytest.raises(Conflict, match="no keys that work"):
        store.rotate("acme")
    with pytest.raises(Conflict, match="is expired"):
        store.rotate("acme", first.key.prefix)
    with pytest.raises(InvalidSettings, match="grace"):
        store.rotate("acme", grace=-DAY)


def test_a_directory_is_read_again_only_where_something_changed(store: TenantStore, path: Path) -> None:
    new = store.add(tenant())
    first = store.directory(Directory())
    assert first.tenants == {"acme": tenant()}
    assert first.keys == {new.key.prefix: new.key}
    assert store.directory(first) is first
    store_at(path).change("acme", weight=2)
    second = store.directory(first)
    assert second.tenants["acme"].weight == 2
    store.remove("acme")
    assert store.directory(second) == Directory(second.revision + 1)


def test_a_change_that_is_refused_changes_no_revision(store: TenantStore) -> None:
    store.add(tenant())
    before = store.directory(Directory())
    with pytest.raises(NotFound):
        store.change("nobody", weight=2)
    assert store.directory(before) is before


def test_processes_change_one_store_side_by_side(store: TenantStore, path: Path) -> None:
    store.add(tenant("acme"))
    store.add(tenant("zeta"))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as processes:
        futures = [processes.submit(change_all, path, name, 20) for name in ("acme", "zeta")]
        made = [future.result() for future in futures]
    for name, keys in zip(("acme", "zeta"), made, strict=True):
        kept = {key.hash for key in store.keys(name)}
        assert {hash_of(key) for key in keys} <= kept
        assert len(kept) == 21
        assert store.get(name).tokens_per_month == 20
    assert store.directory(Directory()).revision == 2 + 2 * 2 * 20


def test_a_file_that_is_no_store(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(StorageError, match="tenant database .* failed"):
        TenantStore.open(path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        TenantStore.open(tmp_path / "file" / "tenants.sqlite")
