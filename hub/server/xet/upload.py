"""One request of an upload: a body becomes a kept xorb, or a shard becomes files in the hub.

Does not read requests or check tokens.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapthub.adapters.errors import InvalidData
from adapthub.hub.server.xet.hashes import from_hex
from adapthub.hub.server.xet.kept import Incoming, KeptXorbs
from adapthub.hub.server.xet.reassembly import Reassembly, XorbGone
from adapthub.hub.server.xet.shards import parse_shard
from adapthub.hub.server.xet.store import FileStore
from adapthub.hub.server.xet.xorbs import DamagedXorb, Sealing


@dataclass(frozen=True)
class ArrivingXorb:
    """A xorb that comes, and is to have the hash `name`."""

    name: str
    body: Incoming
    sealing: Sealing

    def write(self, data: bytes | memoryview) -> None:
        """Keep and check the next bytes. Raises as `Incoming.write`."""
        self.body.write(data)
        self.sealing.take(data)


class Upload:
    """What may be done with one access token at one address: by `holder` into `repo`, with the xorbs of one generation."""

    def __init__(self, kept: KeptXorbs, store: FileStore, repo: str, holder: str, folder: Path) -> None:
        self._kept = kept
        self._store = store
        self._repo = repo
        self._holder = holder
        self._folder = folder

    def receive(self) -> AbstractContextManager[Incoming]:
        """A file for a body of this upload (KeptXorbs.receive)."""
        return self._kept.receive(self._holder)

    @contextmanager
    def receive_xorb(self, name: str) -> Iterator[ArrivingXorb]:
        """A file for the xorb with the hash `name`, in hex. Raises InvalidData where that is none."""
        sealing = Sealing(from_hex(name), self._kept.limits)
        with self.receive() as body:
            yield ArrivingXorb(name, body, sealing)

    def keep_xorb(self, xorb: ArrivingXorb) -> bool:
        """Keep the received xorb under its hash; whether it is new.

        Raises InvalidData where it is malformed or too large, IntegrityError where it has another hash.
        """
        xorb.sealing.seal(xorb.body.path)
        return self._kept.keep(xorb.body, self._folder, xorb.name)

    def store_files(self, body: Incoming) -> None:
        """Store every file of the received shard, unless one cannot be: what came before that one stays stored.

        All terms of all files are checked before the first file is stored. Where a xorb is gone or damaged, the generation
        is retired: clients would go on believing in it. Raises InvalidData, IntegrityError, DamagedXorb, and what the store
        refuses.
        """
        if body.size == 0:
            raise InvalidData("the shard is empty")
        with body.path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                files = parse_shard(data, self._kept.limits)
                with Reassembly(self._folder) as reassembly:
                    for file in files:
                        reassembly.check(file)
                    for file in files:
                        blocks = reassembly.blocks(file)
                        self._store.store(self._repo, self._holder, file.sha256, file.size, blocks)
            except (XorbGone, DamagedXorb):
                self._kept.retire(self._folder)
                raise
