"""The write-only Xet facade: uploads of clients that speak nothing else, taken apart into plain files.

    client ──xorbs──> kept aside, one folder a generation ──shard──> files, checked by sha256 ──> FileStore

    .../xet/{epoch}/{generation}/v1/xorbs/default/{hash}     POST: compressed pieces of files
    .../xet/{epoch}/{generation}/v1/shards                   POST: which pieces, in which order, are which file

The formats are those of the Xet documentation of the Hugging Face Hub. Nothing is ever read through Xet: stored files are
served as LFS. Nothing here knows repositories, accounts or blobs; `store.FileStore` is all that it asks of the hub.
"""

from adapthub.hub.server.xet.access import WriteGrant
from adapthub.hub.server.xet.facade import XetFacade
from adapthub.hub.server.xet.limits import XetLimits
from adapthub.hub.server.xet.routes import router as xet_router
from adapthub.hub.server.xet.store import FileStore

__all__ = ["FileStore", "WriteGrant", "XetFacade", "XetLimits", "xet_router"]
