"""The ledger: what every request used, exact to the token, and on the disk before its answer's end is given out.

    await asyncio.wrap_future(ledger.record(usage))         # committed, fsync and all

One thread writes. What comes while it waits for the disk goes into the next transaction together: the disk limits how
long a record takes, and not how many there are. Killed anywhere, the ledger holds every record whose future was done. What
a disk that is full or locked does not take is kept in memory and tried again, until it is written or the ledger ends.
Does not judge what is used (accounts) or add it up for people (usage).
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
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

_LOG = logging.getLogger(__name__)
_TOGETHER = 1000  # records in one transaction at most
_WAITING = 10_000  # records above which there should not be more
_FIRST_PAUSE, _LAST_PAUSE = 0.05, 2.0  # seconds between one try and the next
_CLOSING = 10.0  # seconds that an ending ledger goes on trying
_Entry = tuple[UsageRecord, Future[int]]


class Ledger:
    """Writes to one database, which it does not close. Of several processes each has a ledger of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # nothing is queued behind the end
        self._closed = False
        self._deadline = float("inf")  # by time.monotonic: when what cannot be written is given up
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="adapthub-ledger", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> bool:
        """Whether the disk does not take what it should, or not as fast as it comes: nothing new should be begun."""
        return self._failing or self._queue.qsize() > _WAITING

    def record(self, usage: UsageRecord) -> Future[int]:
        """Write one record; it is on the disk when the future is done, which cannot be cancelled and may take long.

        Its result: the tokens of the record's tenant in its month so far. Its errors: StorageError once the ledger ended
        without it, and Conflict for an id that is recorded already.
        """
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                _lose((usage, future), "the ledger is closed")
            else:
                self._queue.put((usage, future))
        return future

    def close(self) -> None:
        """Write what is queued, and end the thread. Idempotent.

        What the disk does not take within ten seconds goes into the log, every record in full.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                self._deadline = time.monotonic() + _CLOSING
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
                self._write_at_last(batch)

    def _write_at_last(self, batch: Sequence[_Entry]) -> None:
        """Try until all of it is written, or given up."""
        pause = _FIRST_PAUSE
        while batch:
            if self._failing and time.monotonic() >= self._deadline:
                for entry in batch:
                    _lose(entry, "the ledger ended and the disk did not take it")
                return
            try:
                self._write(batch)
            except StorageError as error:
                if not self._failing:
                    _LOG.error("usage cannot be written, is kept and tried again: %s", error)
                self._failing = True
                time.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE)
            else:
                if self._failing:
                    _LOG.warning("usage is written again")
                self._failing = False
            batch = [entry for entry in batch if not entry[1].done()]

    def _write(self, batch: Sequence[_Entry]) -> None:
        """One try. Raises StorageError; then entries whose future is not done are not written."""
        try:
            totals = self._commit([usage for usage, _ in batch])
        except StorageError:
            raise
        except Exception as error:
            if len(batch) > 1:  # one that can never be written must not take the others with it
                for entry in batch:
                    self._write([entry])
            elif isinstance(error, IntegrityError):
                usage, future = batch[0]
                future.set_exception(Conflict(f"the request {usage.id} is recorded already"))
            else:
                _lose(batch[0], f"it cannot be written, {type(error).__name__}", error)
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


def _lose(entry: _Entry, why: str, error: Exception | None = None) -> None:
    """The log is the last place for a record that the ledger will not have."""
    usage, future = entry
    _LOG.critical(
        "usage was not written (%s): %s", why, json.dumps(asdict(usage), default=str), exc_info=error
    )
    future.set_exception(StorageError(f"what the request {usage.id} used is not recorded: {why}"))


def _columns(usage: UsageRecord) -> dict[str, Any]:
    values = asdict(usage)
    values["ended"] = values.pop("when")
    return values
