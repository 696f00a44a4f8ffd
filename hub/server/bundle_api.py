"""A whole version in one answer: an uncompressed tar whose first member, SHA256SUMS, has the sha256 of every other.

The sha256 of that member is the version's digest, so whoever knows the digest can verify each file, as `sha256sum -c` does.
Never compressed: weights do not shrink. Bundles are for small adapters; a larger one is named alone, and comes file by file,
which can be gone on with after a cut. A signature is no part of a version: a header has its sha256.
"""

from __future__ import annotations

import tarfile
from typing import Annotated

from fastapi import APIRouter, Header, Response

from adapthub.adapters.description import sums_of
from adapthub.hub import signatures
from adapthub.hub.access import check_gate
from adapthub.hub.records import files_of
from adapthub.hub.revisions import standing_commit
from adapthub.hub.server.dependencies import Revision, Target, TheCaller, TheServing
from adapthub.hub.server.entity_tags import held
from adapthub.hub.server.registry_api import readable_version
from adapthub.hub.wire import BUNDLE_BYTES, DIGEST_HEADER, SIGNATURE_HEADER, SIZE_HEADER, SUMS

router = APIRouter(tags=["files"])

_BLOCK = tarfile.BLOCKSIZE


@router.get("/api/models/{namespace}/{name}/versions/{revision}/bundle")
def bundle(
    target: Target,
    revision: Revision,
    serving: TheServing,
    caller: TheCaller,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The files of the version that a revision means now; 304 where `If-None-Match` has its digest, 204 for large ones."""
    with serving.store.database.reading() as session:
        row = readable_version(session, caller, target, revision)
        check_gate(session, caller, row.repo)
        files = files_of(row)
        etag = f'"{row.digest}"'
        headers = {
            "ETag": etag,
            DIGEST_HEADER: f"sha256:{row.digest}",
            SIZE_HEADER: str(row.size),
            "X-Repo-Commit": standing_commit(session, row.id).oid,
            "Content-Disposition": f'attachment; filename="{target.name}.tar"',
        }
        signature = signatures.signature_of(session, row)
        if signature is not None:
            headers[SIGNATURE_HEADER] = f"{signature.sha256}:{signature.size}"
    if held(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    if row.size > BUNDLE_BYTES:
        return Response(status_code=204, headers=headers)
    members = [(SUMS, sums_of({file.path: file.sha256 for file in files}).encode())]
    where = f"{target.full_name}@v{row.number}"
    members += [
        (file.path, serving.store.blobs.get(file.sha256, origin=f"{file.path} of {where}")) for file in files
    ]
    content = b"".join(_member(name, data) for name, data in members) + bytes(2 * _BLOCK)
    return Response(content, headers=headers, media_type="application/x-tar")


def _member(name: str, data: bytes) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % _BLOCK)
