"""One request of an upload: a body becomes a kept xorb, or a shard becomes files in the hub.

Does not read requests or check tokens.
"""

from __future__ import annotations

import mmap
from contextlib import AbstractContextManager
from pathlib import Path

from adapthub.adapters.errors import InvalidData
from adapthub.hub.server.xet.hashes import from_hex
from adapthub.hub.server.xet.kept import Incoming, KeptXorbs
from adapthub.hub.server.xet.reassembly import Reassembly, XorbGone
from adapthub.hub.server.xet.shards import parse_shard
from adapthub.hub.server.xet.store import FileStore
from adapthub.hub.server.xet.xorbs import DamagedXorb, seal


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

    def keep_xorb(self, name: str, body: Incoming) -> bool:
        """Keep the received xorb under its hash in hex, `name`; whether it is new.

        Raises InvalidData where it is malformed or too large, IntegrityError where it has another hash.
        """
        seal(body.path, from_hex(name), self._kept.limits)
        return self._kept.keep(body, self._folder, name)

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
