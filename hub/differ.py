"""Differences between versions for a server: a few computed at once, each in a process of its own, remembered by digests.

A digest names the same bytes for ever, so an answer never gets old, and neither does a refusal of what was read. What is
asked for while it is computed is computed once. Compares nothing itself (adapters/diff), and knows neither callers nor
repositories.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from adapthub.adapters import errors
from adapthub.adapters.errors import AdaptHubError, Overloaded, TensorMismatch, UnsupportedAdapter
from adapthub.hub.registry import StoredFile
from adapthub.hub.storage.blobs import PIECE_BYTES, Blobs

COMMAND = (sys.executable, "-m", "adapthub.hub.diff_process")
MOST_BYTES = 512 * 2**20
"""Of the files of both: so much may lie in a temporary folder, and about so much in the memory of the process."""

_AT_ONCE = 2
_WAITING = 16
_SECONDS = 300
_REMEMBERED = 256
_Refusal = TensorMismatch | UnsupportedAdapter


@dataclass(frozen=True)
class Side:
    """A version to compare: its digest and its files."""

    digest: str
    files: Sequence[StoredFile]


class Differ:
    """Compares versions whose files are in `blobs`."""

    def __init__(self, blobs: Blobs, *, command: Sequence[str] = COMMAND) -> None:
        """`command` takes a folder and a digest of each side, and prints as `diff_process` does."""
        self._blobs = blobs
        self._command = command
        self._closed = False
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="hub-diff")
        self._lock = Lock()
        self._remembered: OrderedDict[tuple[str, str], bytes | _Refusal] = OrderedDict()
        self._pending: dict[tuple[str, str], Future[bytes]] = {}
        self._processes: set[subprocess.Popen[bytes]] = set()

    def difference(self, before: Side, after: Side) -> Future[bytes]:
        """The JSON of `adapters.diff.difference_record`, to come.

        Raises UnsupportedAdapter for more than MOST_BYTES, Overloaded where too many wait; the future raises what
        `adapters.diff.difference` raises, and UnsupportedAdapter for what takes longer than five minutes.
        """
        _check_size(before, after)
        pair = (before.digest, after.digest)
        with self._lock:
            if pair in self._remembered:
                self._remembered.move_to_end(pair)
                return _known(self._remembered[pair])
            if pair in self._pending:
                return self._pending[pair]
            if len(self._pending) >= _AT_ONCE + _WAITING:
                raise Overloaded(
                    f"{len(self._pending)} comparisons wait already", hint="Try again in a minute."
                )
            asked = self._pending[pair] = self._threads.submit(self._compare, before, after)
        asked.add_done_callback(lambda done: self._settle(pair, done))
        return asked

    def close(self) -> None:
        """End what runs. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()

    def _settle(self, pair: tuple[str, str], done: Future[bytes]) -> None:
        with self._lock:
            del self._pending[pair]
            if done.cancelled():
                return
            error = done.exception()
            if error is None:
                self._remembered[pair] = zlib.compress(done.result())
            elif isinstance(error, _Refusal):
                self._remembered[pair] = error
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)

    def _compare(self, before: Side, after: Side) -> bytes:
        with tempfile.TemporaryDirectory(prefix="adapthub-diff-") as folder:
            arguments: list[str] = []
            for name, side in (("before", before), ("after", after)):
                path = Path(folder) / name
                self._write(path, side)
                arguments += [str(path), side.digest]
            answer = self._run([*self._command, *arguments])
        if answer.startswith(b'{"error":'):
            name, message, hint = json.loads(answer)["error"]
            kind: type[AdaptHubError] = getattr(errors, name, AdaptHubError)
            raise kind(message.replace(folder, ""), hint=hint)
        return answer

    def _write(self, folder: Path, side: Side) -> None:
        """The files of `side`, unverified: the process that reads them does that."""
        folder.mkdir()
        for file in side.files:
            with (folder / file.path).open("xb") as target:
                for offset in range(0, file.size, PIECE_BYTES):
                    length = min(PIECE_BYTES, file.size - offset)
                    target.write(self._blobs.read(file.sha256, offset, length))

    def _run(self, command: list[str]) -> bytes:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        with process:
            with self._lock:
                self._processes.add(process)
                if self._closed:
                    process.kill()
            try:
                answer, _ = process.communicate(timeout=_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise UnsupportedAdapter(f"comparing these takes more than {_SECONDS} seconds") from None
            finally:
                with self._lock:
                    self._processes.discard(process)
        if process.returncode != 0:
            raise Overloaded(
                "the comparison ended before it was done: there was no memory for it, or the server ends",
                hint="Try again later.",
            )
        return answer


def _check_size(before: Side, after: Side) -> None:
    size = sum(file.size for side in (before, after) for file in side.files)
    if size > MOST_BYTES:
        raise UnsupportedAdapter(
            f"these two have {size:,} bytes; a server compares {MOST_BYTES:,}",
            hint="Pull both, and compare them with adapt diff.",
        )


def _known(answer: bytes | _Refusal) -> Future[bytes]:
    future: Future[bytes] = Future()
    if isinstance(answer, bytes):
        future.set_result(zlib.decompress(answer))
    else:
        future.set_exception(answer)
    return future
