"""Every point at which the embedded hub writes: count them, and die or fail at any one of them.

Below Python's own file calls, obstore's and SQLite's statements, no write of a push happens anywhere else. A
point comes before each call and, for dying, after it too.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import obstore

FILE_CALLS = ("fsync", "replace", "rename", "mkdir", "unlink")
STORE_CALLS = ("put", "rename", "copy", "delete")


class WritePoints:
    """Calls `act(kind)` at the point number `at` (from 1), where kind says which call it is at."""

    def __init__(self, at: int, act: Callable[[str], None]) -> None:
        self.at = at
        self.act = act
        self.reached: list[str] = []

    def reach(self, kind: str) -> None:
        self.reached.append(kind)
        if len(self.reached) == self.at:
            self.act(kind)

    def around(self, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call` with a point before it."""

        def watched(*arguments: Any, **options: Any) -> Any:
            self.reach(kind)
            return call(*arguments, **options)

        return watched

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Watch the calls of this process until the block ends."""
        watched = [
            patch.object(os, name, self.around(f"os.{name}", getattr(os, name))) for name in FILE_CALLS
        ]
        watched += [
            patch.object(obstore, name, self.around(f"obstore.{name}", getattr(obstore, name)))
            for name in STORE_CALLS
        ]
        watched.append(patch.object(sqlite3.dbapi2, "connect", self._connect))
        for one in watched:
            one.start()
        try:
            yield
        finally:
            for one in watched:
                one.stop()

    def _connect(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        points = self

        class Cursor(sqlite3.Cursor):
            def execute(self, statement: str, *parameters: Any) -> Any:
                kind = f"sql {statement.split(maxsplit=1)[0]}"
                if kind == "sql SELECT":
                    return super().execute(statement, *parameters)
                return points.around(kind, super().execute)(statement, *parameters)

            def executemany(self, statement: str, *parameters: Any) -> Any:
                return points.around(f"sql {statement.split(maxsplit=1)[0]}", super().executemany)(
                    statement, *parameters
                )

        class Connection(sqlite3.Connection):
            def cursor(self, *_arguments: Any) -> Any:
                return super().cursor(Cursor)

            def commit(self) -> None:
                points.around("sql COMMIT", super().commit)()

        return sqlite3.connect(*arguments, factory=Connection, **options)
