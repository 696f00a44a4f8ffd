"""The ledger: what every request used, exact to the token, and on the disk before its answer's end is given out.

    await asyncio.wrap_future(ledger.record(usage))         # committed, fsync and all

One thread writes. What comes while it waits for the disk goes into the next transaction together: the disk limits how
long a record takes, and not how many there are. Killed anywhere, the ledger holds every record whose future was done.
Does not judge what is used (accounts) or add it up for people (usage).
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from sqlalchemy import insert, select, tuple_
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import IntegrityError

from adapthub.adapters.errors import Conflict, StorageError
from adapthub.hub.storage.database import Database
from adapthub.runtime.tenants.accounts import month_of
from adapthub.runtime.tenants.gate import UsageRecord
from adapthub.runtime.tenants.tables import MonthRow, UsageRow

_TOGETHER = 1000  # records in one transaction at most
_Entry = tuple[UsageRecord, Future[int]]


class Ledger:
    """Writes to one database, which it does not close. Of several processes each has a ledger of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # nothing is queued behind the end
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="adapthub-ledger", daemon=True)
        self._thread.start()

    def record(self, usage: UsageRecord) -> Future[int]:
        """Write one record; it is on the disk when the future is done, which cannot be cancelled.

        Its result: the tokens of the record's tenant in its month so far. Its errors: StorageError, and Conflict for an id
        that is recorded already.
        """
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                future.set_exception(StorageError(f"the ledger is closed: {usage.id} is not recorded"))
            else:
                self._queue.put((usage, future))
        return future

    def close(self) -> None:
        """Write what is queued, and end the thread. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            entries = [self._queue.get()]
            while len(entries) < _TOGETHER and not self._queue.empty():
                entries.append(self._queue.get())
            ended = entries[-1] is None
            if batch := [entry for entry in entries if entry is not None]:
                self._write(batch)

    def _write(self, batch: Sequence[_Entry]) -> None:
        try:
            totals = self._commit([usage for usage, _ in batch])
        except IntegrityError:
            if len(batch) > 1:  # one id that was there before must not take the others with it
                for entry in batch:
                    self._write([entry])
            else:
                usage, future = batch[0]
                future.set_exception(Conflict(f"the request {usage.id} is recorded already"))
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
        else:
            for usage, future in batch:
                future.set_result(totals[usage.tenant, month_of(usage.when)])

    def _commit(self, records: Sequence[UsageRecord]) -> dict[tuple[str, str], int]:
        """One transaction; returns the totals of the months that it changed."""
        used: Counter[tuple[str, str]] = Counter()
        for usage in records:
            used[usage.tenant, month_of(usage.when)] += usage.tokens
        months = upsert(MonthRow)
        months = months.on_conflict_do_update(
            index_elements=[MonthRow.tenant, MonthRow.month],
            set_={"tokens": MonthRow.tokens + months.excluded.tokens},
        )
        with self._database.writing() as session:
            connection = session.connection()
            connection.execute(insert(UsageRow), [_columns(usage) for usage in records])
            connection.execute(
                months, [{"tenant": t, "month": m, "tokens": tokens} for (t, m), tokens in used.items()]
            )
            key = tuple_(MonthRow.tenant, MonthRow.month)
            rows = connection.execute(
                select(MonthRow.tenant, MonthRow.month, MonthRow.tokens).where(key.in_([*used]))
            )
            return {(tenant, month): tokens for tenant, month, tokens in rows}


def _columns(usage: UsageRecord) -> dict[str, Any]:
    values = asdict(usage)
    values["ended"] = values.pop("when")
    return values
