"""The hub that a command works with: the one of --hub, with a bar while a pull brings much."""

from __future__ import annotations

import sys
from threading import Lock
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from adapthub.hub.registry import Registry

_WORTH_A_BAR = 2**20  # bytes


def open_chosen(hub: str | None) -> Registry:
    """The hub that --hub names, or the usual one. Raises InvalidSettings, StorageError."""
    from adapthub.hub import open_hub

    if not sys.stderr.isatty():
        return open_hub(hub)
    bar = PullBar()
    click.get_current_context().call_on_close(bar.close)
    return open_hub(hub, watch=bar)


class PullBar:
    """Shows on stderr how far a pull is, bytes of bytes; from any thread."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._lock = Lock()

    def __call__(self, done: int, total: int) -> None:
        with self._lock:
            if total < _WORTH_A_BAR:
                return
            if self._bar is None:
                self._bar, self._task = _started(total)
            assert self._task is not None
            self._bar.update(self._task, completed=done, total=total)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Take the bar away, however far it came. Idempotent."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None


def _started(total: int) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("Pulling"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.start()
    return bar, bar.add_task("", total=total)
