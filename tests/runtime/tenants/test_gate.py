"""The gate: whose a key is, what passes, and what is counted, as the server asks for it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from adapthub.adapters.errors import (
    Conflict,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    StorageError,
    Unauthorized,
)
from adapthub.hub.storage.database import Database
from adapthub.runtime.scheduler import Scheduler
from adapthub.runtime.tenants.caller import LOCAL, Caller
from adapthub.runtime.tenants.gate import Gate
from adapthub.runtime.tenants.keys import new_key
from adapthub.runtime.tenants.store import TenantStore
from adapthub.runtime.tenants.tables import SCHEMA
from adapthub.runtime.tenants.tenant_gate import TenantGate, open_gate
from adapthub.runtime.tenants.usage import month_totals
from tests.runtime.tenants.helpers import Clock, ledger_at, store_at, tenant, used
from tests.web.live import eventually

DAY = timedelta(days=1)
LATER = 1.5  # seconds after which a change is seen


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> TenantStore:
    return store_at(tmp_path / "tenants.sqlite", clock)


class Gates:
    """Gates over one store that are closed when the test ends."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.made: list[TenantGate] = []
        self._path = path
        self._clock = clock

    def __call__(self) -> TenantGate:
        gate = TenantGate(self._path, clock=self._clock, now=self._clock.now)
        self.made.append(gate)
        return gate


@pytest.fixture
def gates(tmp_path: Path, clock: Clock) -> Any:
    gates = Gates(tmp_path / "tenants.sqlite", clock)
    yield gates
    for gate in gates.made:
        gate.close()


def settled(gate: Gate, usage: Any, admitted: int) -> None:
    asyncio.run(gate.record(usage, admitted))


def test_without_tenants_the_gate_is_open(tmp_path: Path, own_home: Path) -> None:
    path = tmp_path / "tenants.sqlite"
    for _ in range(2):  # also where the file is there
        gate = open_gate(path)
        assert gate.open
        assert gate.authenticate(None) is gate.authenticate("whatever") is LOCAL
        gate.admit(LOCAL, 10**12)
        settled(gate, used(), 10**12)
        assert not gate.weights
        gate.close()
        store_at(path)
    assert open_gate().open
    assert not (own_home / "tenants.sqlite").exists()


def test_with_tenants_it_asks_for_keys_and_goes_on_asking(tmp_path: Path) -> None:
    path = tmp_path / "tenants.sqlite"
    key = store_at(path).add(tenant()).text
    gate = open_gate(path)
    try:
        assert not gate.open
        assert gate.authenticate(key) == Caller("acme", ("acme/*",))
        store_at(path).remove("acme")
    finally:
        gate.close()
    assert open_gate(path).open  # decided when it is opened


def test_the_last_tenant_that_goes_leaves_the_door_shut(
    store: TenantStore, gates: Gates, clock: Clock
) -> None:
    key = store.add(tenant()).text
    gate = gates()
    caller = gate.authenticate(key)
    store.remove("acme")
    clock.seconds += LATER
    assert not gate.open
    for presented in (key, None):
        with pytest.raises(Unauthorized):
            gate.authenticate(presented)
    with pytest.raises(Unauthorized, match="acme is no tenant"):
        gate.admit(caller, 1)  # it had come in before


def test_no_key_another_key_and_a_key_nearly_right(store: TenantStore, gates: Gates) -> None:
    key = store.add(tenant()).text
    gate = gates()
    for none in (None, ""):
        with pytest.raises(Unauthorized, match="no key was given.*Bearer"):
            gate.authenticate(none)
    last = "A" if key[-1] != "A" else "B"
    for wrong in (new_key(), key[:-1] + last, key.upper(), f" {key}", f"{key}\n", key[:11]):
        with pytest.raises(Unauthorized, match="not one of this server's") as refused:
            gate.authenticate(wrong)
        assert wrong.strip() not in str(refused.value)
        assert key not in str(refused.value)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(presented=st.one_of(st.text(min_size=1), st.binary(min_size=1).map(lambda raw: raw.decode("latin-1"))))
def test_odd_bytes_are_nobodys_key(store: TenantStore, gates: Gates, presented: str) -> None:
    gate = gates.made[0] if gates.made else gates()
    with pytest.raises(Unauthorized) as refused:
        gate.authenticate(presented)
    assert len(str(refused.value)) < 200


def test_a_huge_key_is_refused_as_any_other(store: TenantStore, gates: Gates) -> None:
    store.add(tenant())
    with pytest.raises(Unauthorized) as refused:
        gates().authenticate("ah_abcdefgh_" + "a" * (20 << 20))
    assert len(str(refused.value)) < 200


def test_what_others_change_is_seen_soon_and_asked_for_rarely(
    store: TenantStore, gates: Gates, clock: Clock
) -> None:
    first = store.add(tenant(), lifetime=DAY)
    gate = gates()
    queries = 0

    def count(*_: Any) -> None:
        nonlocal queries
        queries += 1

    second = store.add_key("acme")
    with pytest.raises(Unauthorized):
        gate.authenticate(second.text)
    event.listen(Engine, "before_cursor_execute", count)
    try:
        for _ in range(1000):
            clock.seconds += 0.0005
            gate.authenticate(first.text)
            with pytest.raises(Unauthorized):
                gate.authenticate(new_key())
        assert queries == 0
        clock.seconds += LATER
        gate.authenticate(second.text)
        assert 0 < queries < 20
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    store.change("acme", allow=("zeta/*",), admin=True)
    store.revoke("acme", second.key.prefix)
    clock.seconds += LATER
    assert gate.authenticate(first.text) == Caller("acme", ("zeta/*",), admin=True)
    with pytest.raises(Unauthorized, match=f"the key {second.key.prefix} was revoked"):
        gate.authenticate(second.text)


def test_a_key_expires_to_the_second(store: TenantStore, gates: Gates, clock: Clock) -> None:
    key = store.add(tenant(), lifetime=DAY).text
    gate = gates()
    clock.seconds += 86_399.9
    gate.authenticate(key)
    clock.seconds += 0.1
    with pytest.raises(Unauthorized, match="expired on 2026-11-27 12:00 UTC"):
        gate.authenticate(key)


def test_after_a_rotation_both_keys_work_for_a_while(store: TenantStore, gates: Gates, clock: Clock) -> None:
    old = store.add(tenant())
    gate = gates()
    new = store.rotate("acme", grace=timedelta(hours=1))
    clock.seconds += LATER
    for key in (old, new):
        assert gate.authenticate(key.text).tenant == "acme"
    clock.seconds += 3600
    gate.authenticate(new.text)
    with pytest.raises(Unauthorized, match="expired"):
        gate.authenticate(old.text)


def test_what_was_not_used_is_given_back(store: TenantStore, gates: Gates) -> None:
    caller = Caller("acme", ())
    store.add(tenant(tokens_per_minute=1000))
    gate = gates()
    gate.admit(caller, 900)
    with pytest.raises(RateLimited):
        gate.admit(caller, 900)
    settled(gate, used(prompt=60, completion=40), 900)
    gate.admit(caller, 900)
    with pytest.raises(RateLimited) as refused:
        gate.admit(caller, 1)
    assert refused.value.retry_after == pytest.approx(60 / 1000)


def test_a_quota_is_kept_by_requests_side_by_side(store: TenantStore, gates: Gates, tmp_path: Path) -> None:
    """Of any number of requests that run at once, none takes the tenant over its quota, and nothing is lost of it."""
    caller = Caller("acme", ())
    store.add(tenant(tokens_per_month=1000))
    gate, database = gates(), Database(tmp_path / "tenants.sqlite", SCHEMA)
    admitted = 0

    async def request(number: int) -> int:
        nonlocal admitted
        try:
            gate.admit(caller, 100)
        except RateLimited:
            return 0
        admitted += 1
        await asyncio.sleep(0)  # so that all others ask before the first has ended
        usage = used(prompt=number % 7, completion=30)
        await gate.record(usage, 100)
        return usage.tokens

    async def main() -> None:
        nonlocal admitted
        total = 0
        for _ in range(9):
            admitted = 0
            counts = await asyncio.gather(*(request(number) for number in range(20)))
            assert admitted == (1000 - total) // 100
            total += sum(counts)
            assert month_totals(database, "2026-11") == {"acme": total}
        assert 900 < total <= 1000

    asyncio.run(main())


def test_a_restart_forgets_no_quota_and_servers_share_it(
    store: TenantStore, gates: Gates, clock: Clock
) -> None:
    caller = Caller("acme", ())
    key = store.add(tenant(tokens_per_month=1000)).text
    first, second = gates(), gates()
    first.admit(caller, 900)
    settled(first, used(prompt=600, completion=300), 900)
    clock.seconds += LATER
    second.authenticate(key)
    for gate in (first, second, gates()):
        with pytest.raises(QuotaExceeded, match="100 of this month's 1,000"):
            gate.admit(caller, 101)
        gate.admit(caller, 100)


def test_what_a_removed_tenant_used_counts_when_it_comes_back(
    store: TenantStore, gates: Gates, clock: Clock
) -> None:
    store.add(tenant(tokens_per_month=1000))
    settled(gates(), used(prompt=990, completion=0), 990)
    store.remove("acme")
    store.add(tenant(tokens_per_month=1000))
    with pytest.raises(QuotaExceeded):
        gates().admit(Caller("acme", ()), 100)


@pytest.mark.parametrize("broken", ["twice", "closed"])
def test_what_cannot_be_recorded_does_not_run_for_ever(store: TenantStore, gates: Gates, broken: str) -> None:
    caller = Caller("acme", ())
    store.add(tenant(tokens_per_month=100))
    gate = gates()
    usage = used(prompt=1, completion=0)
    gate.admit(caller, 90)
    if broken == "twice":
        settled(gate, usage, 1)
        with pytest.raises(Conflict):
            settled(gate, usage, 89)
    else:
        gate.close()
        with pytest.raises(StorageError):
            settled(gate, usage, 90)
    gate.admit(caller, 90)


def test_while_usage_cannot_be_written_nobody_is_served_for_nothing(
    store: TenantStore, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in ("_BUSY", "_PATIENCE"):
        monkeypatch.setattr(f"adapthub.runtime.tenants.tenant_gate.{what}", 0.01)
    caller = Caller("acme", ())
    store.add(tenant(tokens_per_month=100))
    gate = gates()
    gate.admit(caller, 90)
    usage = used(prompt=30, completion=10)
    with Database(tmp_path / "tenants.sqlite", SCHEMA).writing() as session:
        session.connection()
        with pytest.raises(Overloaded, match="could not be written down") as late:
            settled(gate, usage, 90)
        eventually(lambda: gate._ledger.behind, "the gate does not see that it is locked out")
        with pytest.raises(Overloaded, match="none is taken") as refused:
            gate.admit(caller, 1)
        for error in (late, refused):
            assert str(tmp_path) not in str(error.value)
    eventually(lambda: not gate._ledger.behind, "the gate does not see that it may write")
    assert month_totals(Database(tmp_path / "tenants.sqlite", SCHEMA), "2026-11") == {"acme": 40}
    gate.admit(caller, 60)
    with pytest.raises(RateLimited):
        gate.admit(caller, 1)


def test_a_client_that_goes_away_is_counted(store: TenantStore, gates: Gates) -> None:
    caller = Caller("acme", ())
    store.add(tenant(tokens_per_month=100))
    gate = gates()
    gate.admit(caller, 90)

    async def main() -> None:
        task = asyncio.create_task(gate.record(used(prompt=30, completion=10), 90))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gate.close()  # waits for what is written
    gate.admit(caller, 60)
    with pytest.raises(RateLimited):
        gate.admit(caller, 1)


def test_weights_reach_the_scheduler_live(store: TenantStore, gates: Gates, clock: Clock) -> None:
    key = store.add(tenant(weight=2.0)).text
    gate = gates()
    scheduler = Scheduler(weights=gate.weights, clock=clock)
    store.change("acme", weight=4.0)
    store.add(tenant("zeta", weight=0.5))
    clock.seconds += LATER
    gate.authenticate(key)
    scheduler.charge("acme", input_tokens=8)
    scheduler.charge("zeta", input_tokens=8)
    scheduler.charge("unknown", input_tokens=8)
    assert scheduler.counters == {"acme": 2, "zeta": 16, "unknown": 8}
    store.remove("zeta")
    clock.seconds += LATER
    gate.authenticate(key)
    scheduler.charge("zeta", input_tokens=8)
    assert scheduler.counters["zeta"] == 24


def test_a_database_that_fails_lets_nobody_in_after_a_while(
    store: TenantStore,
    gates: Gates,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = store.add(tenant()).text
    gate = gates()

    def failing(_: Database) -> Any:
        raise StorageError("the disk is gone")

    clock.seconds += LATER
    with monkeypatch.context() as patched:
        patched.setattr(Database, "reading", failing)
        for _ in range(2):  # within a second it is not asked again
            assert gate.authenticate(key).tenant == "acme"
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "the disk is gone" in caplog.text
        clock.seconds += 60
        assert gate.authenticate(key).tenant == "acme"
        clock.seconds += 0.1
        for _ in range(2):
            with pytest.raises(Overloaded, match="keys cannot be checked") as refused:
                gate.authenticate(key)
            assert "disk" not in str(refused.value)
    clock.seconds += LATER
    assert gate.authenticate(key).tenant == "acme"
    store.revoke("acme", key[:11])
    clock.seconds += LATER
    with pytest.raises(Unauthorized):
        gate.authenticate(key)


def test_a_ledger_beside_a_gate_writes_to_the_same_file(
    store: TenantStore, gates: Gates, tmp_path: Path
) -> None:
    store.add(tenant())
    settled(gates(), used(), 15)
    with ledger_at(tmp_path / "tenants.sqlite") as ledger:
        assert ledger.record(used()).result() == 30
