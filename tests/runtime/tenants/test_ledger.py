"""The ledger: what it acknowledged is there, whatever happened since; what it adds up is exact."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event, select, text

from adapthub.adapters.errors import Conflict, InvalidSettings, StorageError
from adapthub.hub.storage.database import Database
from adapthub.runtime.tenants.gate import UsageRecord
from adapthub.runtime.tenants.ledger import Ledger
from adapthub.runtime.tenants.tables import SCHEMA, UsageRow
from adapthub.runtime.tenants.usage import GROUPS, as_csv, month_totals, usage_report
from tests.runtime.tenants.helpers import NOW, ledger_at, used
from tests.web.live import eventually


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tenants.sqlite"


def recorded(path: Path) -> list[UsageRecord]:
    with Database(path, SCHEMA).reading() as session:
        return [
            UsageRecord(
                row.id,
                row.ended,
                row.tenant,
                row.kind,
                row.adapter,
                row.prompt_tokens,
                row.cached_tokens,
                row.completion_tokens,
                row.outcome,
            )
            for row in session.scalars(select(UsageRow))
        ]


@contextmanager
def another_writer(path: Path) -> Iterator[None]:
    """Within: the ledger waits, with what it has begun."""
    with Database(path, SCHEMA).writing() as session:
        session.connection()
        yield


def test_a_record_is_there_when_it_is_acknowledged(path: Path) -> None:
    first, second = used(cached_tokens=4), used("zeta", adapter="", outcome="cancelled")
    with ledger_at(path) as ledger:
        assert ledger.record(first).result() == 15
        assert recorded(path) == [first]  # another connection sees it
        assert ledger.record(second).result() == 15
        assert ledger.record(used(prompt=1, completion=1)).result() == 17
    assert recorded(path)[1] == second


def test_a_commit_is_on_the_disk_and_not_on_its_way(path: Path) -> None:
    """What no test can show by killing a process: that a commit waits for the disk itself."""
    with closing(Database(path, SCHEMA, kept=True)) as database, database.writing() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert session.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL


def test_awaiting_a_record_is_leaving_the_loop_alone(path: Path) -> None:
    async def main() -> None:
        with ledger_at(path) as ledger:
            records = [used(prompt=i) for i in range(200)]
            await asyncio.gather(*(asyncio.wrap_future(ledger.record(usage)) for usage in records))

    asyncio.run(main())
    assert len(recorded(path)) == 200


def test_a_caller_that_goes_away_does_not_take_its_record_with_it(path: Path) -> None:
    async def main() -> None:
        with ledger_at(path) as ledger:
            task = asyncio.ensure_future(asyncio.wrap_future(ledger.record(used())))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert len(recorded(path)) == 1


def test_many_records_share_a_commit(path: Path) -> None:
    """While one commit waits for the disk, those that come wait for the next, all of them together."""
    commits = 0

    def count(_: Any) -> None:
        nonlocal commits
        commits += 1

    with ledger_at(path) as ledger:
        event.listen(Engine, "commit", count)
        try:
            with another_writer(path):  # the first waits for this writer, and the others for the first
                futures = [ledger.record(used(prompt=i)) for i in range(500)]
                assert not wait(futures, 0.1).done
            assert len(wait(futures).done) == 500
        finally:
            event.remove(Engine, "commit", count)
    assert 2 <= commits <= 4  # ours, and up to three of the ledger's
    assert len(recorded(path)) == 500


def test_an_id_is_recorded_once_and_takes_nobody_with_it(path: Path) -> None:
    with ledger_at(path) as ledger:
        first = used()
        ledger.record(first).result()
        with another_writer(path):  # so that the next go into one transaction
            futures = [ledger.record(usage) for usage in (used(), used(), first, used())]
        assert [type(future.exception()) for future in futures] == [
            type(None),
            type(None),
            Conflict,
            type(None),
        ]
    assert len(recorded(path)) == 4
    assert month_totals(Database(path, SCHEMA), "2026-11") == {"acme": 60}


def test_closing_writes_what_waits_and_takes_no_more(path: Path) -> None:
    with ledger_at(path) as ledger:
        with another_writer(path):
            futures = [ledger.record(used()) for _ in range(50)]
        ledger.close()
        assert all(future.done() for future in futures)
        with pytest.raises(StorageError, match="the ledger is closed"):
            ledger.record(used()).result()
        ledger.close()
    assert len(recorded(path)) == 50


def test_what_a_locked_disk_does_not_take_is_written_once_when_it_does(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ledger_at(path, busy_seconds=0.01) as ledger:
        ledger.record(used()).result()
        with another_writer(path):
            futures = [ledger.record(used(prompt=1, completion=0)) for _ in range(20)]
            eventually(lambda: ledger.behind, "the ledger does not see that it is locked out")
            futures.append(ledger.record(used(prompt=1, completion=0)))
            assert not any(future.done() for future in futures)
        assert max(future.result() for future in futures) == 15 + 21
        eventually(lambda: not ledger.behind, "the ledger does not see that it may write")
    assert len(recorded(path)) == 22
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_disk_that_fails_in_the_middle_of_a_batch_writes_nothing_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = used()
    commit, tries = Ledger._commit, 0

    def fails_at_the_second_of_those_written_alone(ledger: Ledger, records: Any) -> Any:
        nonlocal tries
        tries += len(records) == 1
        if tries == 3:  # behind `first` itself and one of the batch that it breaks
            tries += 1
            raise StorageError("disk full")
        return commit(ledger, records)

    monkeypatch.setattr(Ledger, "_commit", fails_at_the_second_of_those_written_alone)
    with ledger_at(path) as ledger:
        ledger.record(first).result()
        with another_writer(path):
            futures = [ledger.record(usage) for usage in (used(), used(), first, used())]
        failed = [type(future.exception()) for future in futures]
    assert tries > 3
    assert failed == [type(None), type(None), Conflict, type(None)]
    assert len(recorded(path)) == 4
    assert month_totals(Database(path, SCHEMA), "2026-11") == {"acme": 60}


def test_what_an_ended_ledger_could_not_write_is_in_the_log(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("adapthub.runtime.tenants.ledger._CLOSING", 0.05)
    lost = [used(prompt=123), used("zeta")]
    with ledger_at(path, busy_seconds=0.01) as ledger, another_writer(path):
        futures = [ledger.record(usage) for usage in lost]
        ledger.close()
        late = used()
        futures.append(ledger.record(late))
        for future in futures:
            with pytest.raises(StorageError, match="is not recorded") as failed:
                future.result()
            assert str(path) not in str(failed.value)
    assert recorded(path) == []
    said = [record.message for record in caplog.records if record.levelname == "CRITICAL"]
    assert [usage.id in text for usage, text in zip([*lost, late], said, strict=True)] == [True] * 3
    assert '"prompt_tokens": 123' in said[0]


def test_a_record_that_can_never_be_written_holds_nothing_up(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = used(prompt=2**70)
    with ledger_at(path) as ledger:
        with another_writer(path):
            futures = [ledger.record(usage) for usage in (used(), broken, used())]
        assert [future.exception() is None for future in futures] == [True, False, True]
    assert len(recorded(path)) == 2
    assert f'"prompt_tokens": {2**70}' in caplog.text


@pytest.mark.parametrize("acknowledged", [1, 400])
def test_a_process_that_is_killed_lost_nothing_it_acknowledged(path: Path, acknowledged: int) -> None:
    with ledger_at(path):
        pass  # so that both connections find the tables
    script = Path(__file__).with_name("recording.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    lines = []
    for _ in range(acknowledged):
        lines.append(process.stdout.readline())
    process.kill()
    lines += process.stdout.readlines()  # what it had said before it died
    process.stdout.close()
    assert process.wait() == -9
    said = dict(line.decode().split() for line in lines if line.endswith(b"\n"))
    assert len(said) >= acknowledged
    kept = {usage.id: usage for usage in recorded(path)}
    assert {id: str(kept[id].tokens) for id in said} == said
    totals = Counter[str]()
    for usage in kept.values():
        totals[usage.tenant] += usage.tokens
    assert month_totals(Database(path, SCHEMA), "2026-11") == totals
    with ledger_at(path) as ledger:
        assert ledger.record(used("tenant-1", prompt=1, completion=0)).result() == totals["tenant-1"] + 1


_RECORDS = st.lists(
    st.builds(
        used,
        st.sampled_from(["acme", "zeta"]),
        st.integers(0, 10**6),
        st.integers(0, 10**6),
        kind=st.sampled_from(["chat", "embedding"]),
        adapter=st.sampled_from(["", "acme/sql@v1", "0.5*acme/sql@v1 + 0.5*acme/tone@v2"]),
        cached_tokens=st.integers(0, 100),
        when=st.datetimes(datetime(2026, 10, 30), datetime(2026, 11, 3), timezones=st.just(UTC)),
    ),
    max_size=12,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=_RECORDS,
    by=st.lists(st.sampled_from(GROUPS), unique=True),
    days=st.tuples(*[st.integers(0, 4)] * 2),
)
def test_reports_add_up_to_the_token(
    tmp_path_factory: pytest.TempPathFactory, records: list[UsageRecord], by: list[str], days: tuple[int, int]
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "tenants.sqlite"
    with ledger_at(path) as ledger:
        wait([ledger.record(usage) for usage in records])
    first, last = (date(2026, 10, 30) + timedelta(days=day) for day in sorted(days))
    expected: dict[tuple[str, ...], list[int]] = {}
    for usage in records:
        if not first <= usage.when.date() <= last:
            continue
        values = {**vars(usage), "day": str(usage.when.date())}
        sums = expected.setdefault(tuple(values[name] for name in by), [0, 0, 0, 0])
        for place, used_ in enumerate((1, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)):
            sums[place] += used_
    report = usage_report(Database(path, SCHEMA), by, first=first, last=last)
    keys = [tuple(record[name] for name in by) for record in report]
    assert keys == sorted(keys)
    assert {
        key: list(record.values())[len(by) :] for key, record in zip(keys, report, strict=True)
    } == expected


def test_a_report_of_one_tenant_and_of_nothing(path: Path) -> None:
    with ledger_at(path) as ledger:
        wait([ledger.record(used()), ledger.record(used("zeta"))])
    database = Database(path, SCHEMA)
    assert [record["tenant"] for record in usage_report(database, tenant="zeta")] == ["zeta"]
    assert usage_report(database, tenant="nobody") == []
    assert usage_report(database, (), tenant="nobody") == []
    assert usage_report(database, ("tenant",), last=date.max) != []
    with pytest.raises(InvalidSettings, match="Did you mean 'adapter'"):
        usage_report(database, ("adpter",))
    with pytest.raises(InvalidSettings, match="2026-11-01 is before 2026-11-02"):
        usage_report(database, first=date(2026, 11, 2), last=date(2026, 11, 1))


def test_days_and_months_are_utc(path: Path) -> None:
    late = datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    with ledger_at(path) as ledger:
        ledger.record(used(when=late)).result()
    database = Database(path, SCHEMA)
    assert usage_report(database, ("day",))[0]["day"] == "2026-11-30"
    assert month_totals(database, "2026-11") == {"acme": 15}


def test_csv_quotes_what_it_must() -> None:
    records = [{"adapter": 'a,"b"', "requests": 1, "other": 2}, {"adapter": "", "requests": 2}]
    assert as_csv(records, ("adapter", "requests")) == 'adapter,requests\n"a,""b""",1\n,2\n'
    assert as_csv([], ("adapter",)) == "adapter\n"


def test_now_is_in_the_month_of_the_tests() -> None:
    assert f"{NOW:%Y-%m}" == "2026-11"
