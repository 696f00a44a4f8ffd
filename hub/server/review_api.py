"""What stands in the way of a promotion, and what takes it away: versions approved and signed."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.admission import MAX_BYTES, SIGNATURE
from adapthub.adapters.files import sha256_bytes
from adapthub.hub import gates, repos, signatures, signing
from adapthub.hub.access import Caller, check_still, readable_repo, require_role, writable_repo
from adapthub.hub.commits import add_signature
from adapthub.hub.reference import Reference, check_alias
from adapthub.hub.revisions import require_version_at
from adapthub.hub.server.dependencies import Revision, Target, TheCaller, TheServing
from adapthub.hub.server.serving import Serving
from adapthub.hub.storage.retrying import retried
from adapthub.hub.storage.tables import RepoRow, VersionRow
from adapthub.hub.trees import Blob, git_oid
from adapthub.web.bodies import read_body

router = APIRouter(prefix="/api/models/{namespace}/{name}", tags=["review"])


@router.get("/gates/{revision}")
def unmet(
    target: Target, revision: Revision, alias: str, serving: TheServing, caller: TheCaller
) -> dict[str, Any]:
    """What a revision still lacks for `alias` to move to it, and who approved it: for who has a role in its namespace."""
    with serving.store.database.reading() as session:
        repo = readable_repo(session, caller, target)
        require_role(session, caller, repo.namespace, "read")
        version = require_version_at(session, repo, revision)
        missing = gates.unmet(session, serving.store, version, check_alias(alias))
        return {
            **_item(repo, version, alias),
            "unmet": missing,
            "approvals": gates.approvals(session, version),
        }


@router.put("/approval/{revision}")
@retried
def approve(target: Target, revision: Revision, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """Find a version good."""
    with serving.store.database.writing() as session:
        repo = writable_repo(session, caller, target)
        version = require_version_at(session, repo, revision)
        gates.approve(session, version, str(caller.account), actor=caller.actor)
        return {**_item(repo, version), "approvals": gates.approvals(session, version)}


@router.delete("/approval/{revision}")
@retried
def withdraw(target: Target, revision: Revision, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """Take an approval of one's own back."""
    with serving.store.database.writing() as session:
        repo = writable_repo(session, caller, target)
        version = require_version_at(session, repo, revision)
        gates.withdraw(session, version, str(caller.account), actor=caller.actor)
        return {**_item(repo, version), "approvals": gates.approvals(session, version)}


@router.put("/signature/{revision}")
async def sign(
    target: Target, revision: Revision, request: Request, serving: TheServing, caller: TheCaller
) -> dict[str, Any]:
    """Give a version a signature: the body is its model.sig. Refused where that is not over exactly the version's files."""

    def may() -> None:
        with serving.store.database.reading() as session:
            writable_repo(session, caller, target)

    await run_in_threadpool(may)
    bundle = await read_body(request, MAX_BYTES[SIGNATURE])
    return await run_in_threadpool(_sign, serving, caller, target, revision, bundle)


@retried
def _sign(
    serving: Serving, caller: Caller, target: Reference, revision: str, bundle: bytes
) -> dict[str, Any]:
    store = serving.store
    with store.database.reading() as session:
        repo = writable_repo(session, caller, target)
        version = require_version_at(session, repo, revision)
        files = signatures.digests_of(signatures.files_of_version(session, version))
        number = version.number
    signing.check_is_of(bundle, files, f"v{number} of {target.full_name}")
    blob = Blob(sha256_bytes(bundle), len(bundle), git_oid(bundle))
    store.blobs.put(blob.sha256, bundle, origin=SIGNATURE)
    store.register([blob])
    with store.database.writing() as session:
        repo = repos.lock(session, writable_repo(session, caller, target))
        check_still(session, caller.token, repo.namespace)
        version = require_version_at(session, repo, f"v{number}")
        add_signature(session, store, repo, version, blob, caller.actor)
        return _item(repo, version)


def _item(repo: RepoRow, version: VersionRow, alias: str | None = None) -> dict[str, Any]:
    return {
        "name": repo.full_name,
        "version": version.number,
        "digest": f"sha256:{version.digest}",
        "commit": version.commit.oid,
        **({} if alias is None else {"alias": alias}),
    }
