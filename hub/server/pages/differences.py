"""What changed between two versions, computed aside: one pair at a time, in a thread of its own, and remembered by digests.

Bounded: weights that are too large are not compared here, and whoever asks waits a few seconds at the most before they are
told that it still runs. `adapters/diff` compares.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from adapthub.adapters.admission import IGNORED, WEIGHTS, check_name
from adapthub.adapters.errors import Overloaded, UnsupportedAdapter
from adapthub.hub.store import Store
from adapthub.hub.trees import Tree

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.adapters.diff import Difference

MOST_BYTES = 512 * 2**20
"""Of the weights of both."""

PATIENCE = 5.0
"""Seconds that one request waits."""

_REMEMBERED = 64
_WAITING = 8


class Differences:
    """Of adapters in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hub-diff")
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[str, str], Future[Difference]] = OrderedDict()

    async def between(self, before: tuple[str, Tree], after: tuple[str, Tree]) -> Difference | None:
        """From one adapter, its digest and its files, to another; None while it is being computed.

        Raises UnsupportedAdapter for what is too large, Overloaded where too many others wait, and what `difference` raises.
        """
        future = self._start(before, after)
        with suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), PATIENCE)
        return None

    def _start(self, before: tuple[str, Tree], after: tuple[str, Tree]) -> Future[Difference]:
        pair = before[0], after[0]
        with self._lock:
            known = self._found.get(pair)
            if known is not None and not (known.done() and known.exception()):
                self._found.move_to_end(pair)
                return known
            if sum(not future.done() for future in self._found.values()) >= _WAITING:
                raise Overloaded("too many adapters are being compared", hint="Try again in a minute.")
            _check_size(before[1], after[1])
            future = self._thread.submit(self._compare, before, after)
            self._found[pair] = future
            while len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)
        return future

    def _compare(self, before: tuple[str, Tree], after: tuple[str, Tree]) -> Difference:
        from adapthub.adapters.diff import difference

        with tempfile.TemporaryDirectory(prefix="adapthub-diff-") as folder:
            first, second = (
                self._artifact(Path(folder) / side, *one)
                for side, one in (("before", before), ("after", after))
            )
            return difference(first, second)

    def _artifact(self, folder: Path, digest: str, files: Tree) -> Artifact:
        from adapthub.adapters.artifact import Artifact

        folder.mkdir()
        for path, blob in files.items():
            if path not in IGNORED:
                check_name(path)
                (folder / path).write_bytes(self._store.blobs.get(blob.sha256, origin=path))
        return Artifact.read(folder, expected_digest=digest)


def _check_size(before: Tree, after: Tree) -> None:
    size = sum(tree[WEIGHTS].size for tree in (before, after) if WEIGHTS in tree)
    if size > MOST_BYTES:
        raise UnsupportedAdapter(
            f"these weights have {size:,} bytes; {MOST_BYTES:,} are compared here",
            hint="Pull both, and compare them with adapt diff.",
        )
