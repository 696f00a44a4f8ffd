"""Publishing by our own client: the bytes that the hub lacks, then the version and its alias in one transaction.

Texts come with the version; other files one by one before it, and only those whose bytes the hub has not got.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.admission import MAX_BYTES, SIGNATURE, WEIGHTS
from adapthub.adapters.errors import AdmissionError, IntegrityError, InvalidSettings
from adapthub.adapters.files import sha256_bytes
from adapthub.hub import quotas, signatures, signing, uploads
from adapthub.hub.access import Caller, readable_repo, require_write
from adapthub.hub.inspection import inspect_tree
from adapthub.hub.lookup import find_repo
from adapthub.hub.paths import check_path
from adapthub.hub.publishing import check_words, publish
from adapthub.hub.reference import Reference
from adapthub.hub.server.dependencies import Target, TheCaller, TheServing
from adapthub.hub.server.lfs_transfer_api import Sha256
from adapthub.hub.server.lfs_urls import read_receipt, receipt
from adapthub.hub.server.receiving import LARGE_BYTES, Spooled, keep_body, run_with, spooled
from adapthub.hub.server.serving import Serving
from adapthub.hub.trees import Blob, git_oid
from adapthub.hub.wire import Kept, Publication, Published
from adapthub.web.bodies import too_large

router = APIRouter(prefix="/api/models/{namespace}/{name}", tags=["publishing"])


@router.put("/blobs/{sha256}")
async def put_blob(
    target: Target, sha256: Sha256, request: Request, serving: TheServing, caller: TheCaller
) -> Kept:
    """The bytes of a file that is about to be published; the receipt proves to `add_version` that its sender has them."""
    size = request.headers.get("content-length", "")
    if not size.isdigit():
        raise InvalidSettings("an upload says how long it is", hint="Send Content-Length.")
    if int(size) > MAX_BYTES[WEIGHTS]:
        raise too_large(MAX_BYTES[WEIGHTS])
    await run_in_threadpool(check_may, serving, caller, target, [Blob(sha256, int(size))])
    await keep_body(request, serving.store.blobs, int(size), sha256=sha256)
    await run_in_threadpool(
        uploads.await_publication, serving.store, target, [Blob(sha256, int(size))], caller.token
    )
    return Kept(receipt=receipt(serving.signer, target, sha256, sha256, int(size)))


@router.post("/versions")
async def add_version(target: Target, request: Request, serving: TheServing, caller: TheCaller) -> Published:
    """The next version of a name, made if it is new; or which bytes the hub has not got, and then nothing is changed."""
    await run_in_threadpool(check_may, serving, caller, target)
    async with spooled(request, serving.limits.commit_bytes) as body:
        return await run_with(serving, body, _read_and_publish, serving, caller, target, body)


@router.get("/may-push", status_code=204)
def may_push(target: Target, serving: TheServing, caller: TheCaller) -> None:
    """Whether the caller may publish under a name, whether something has it or not."""
    check_may(serving, caller, target)


def _read_and_publish(serving: Serving, caller: Caller, target: Reference, body: Spooled) -> Published:
    """Publish what is all in memory at once: if that is large, it alone."""
    with serving.large_text if body.size > LARGE_BYTES else nullcontext():
        return _publish(serving, caller, target, _publication(body.lines.read()))


def _publication(body: bytes) -> Publication:
    try:
        return Publication.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidSettings(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def check_may(serving: Serving, caller: Caller, target: Reference, blobs: Sequence[Blob] = ()) -> None:
    """Raises unless the caller may write to that name, whether something has it or not, and there is room for `blobs`."""
    with serving.store.database.reading() as session:
        if find_repo(session, target) is not None:
            readable_repo(session, caller, target)
        require_write(session, caller, target.namespace)
        quotas.check(session, target.namespace, blobs)


def _publish(serving: Serving, caller: Caller, target: Reference, wanted: Publication) -> Published:
    check_words(wanted.message, wanted.alias)
    store = serving.store
    sent = _sent_before(serving, target, wanted)
    texts = {file.sha256 for file in wanted.files.values() if file.content is not None}
    missing = sorted({file.sha256 for file in wanted.files.values()} - texts - sent.keys())
    if missing:
        store.register(sent.values())  # they were asked for: they are not garbage now
        return Published(version=None, missing=missing)
    stored = _store_texts(serving, wanted)
    store.register([*stored.values(), *sent.values()])
    known = {**sent, **stored}
    tree = {check_path(path): known[file.sha256] for path, file in sorted(wanted.files.items())}
    for path, file in wanted.files.items():
        if tree[path].size != file.size:
            raise IntegrityError(f"{path} has {tree[path].size} bytes, not {file.size}")
    inspected = inspect_tree(tree, store.read, where=target.full_name)
    if inspected.adapter is None:
        raise AdmissionError(
            f"what was sent for {target.full_name} is no adapter",
            hint="It needs adapter_config.json and adapter_model.safetensors.",
        )
    if SIGNATURE in tree:
        signature = tree[SIGNATURE]
        bundle = store.read(signature, 0, signature.size)
        signing.check_is_of(bundle, signatures.digests_of(tree), target.full_name)
    version = publish(
        store,
        target,
        tree,
        inspected,
        message=wanted.message,
        alias=wanted.alias,
        actor=caller.actor,
    )
    return Published(version=version, missing=[])


def _sent_before(serving: Serving, target: Reference, wanted: Publication) -> Mapping[str, Blob]:
    """The blobs of files that the repository has in its trees or was sent, of those that were sent to be published under its
    name, also if that was cut off since, and of those with a receipt; by sha256.

    That the hub has the bytes of a digest from elsewhere gives nobody a right to them.
    """
    others = {file.sha256 for file in wanted.files.values() if file.content is None}
    proven: set[str] = set()
    for file in wanted.files.values():
        if file.receipt is not None:
            read_receipt(serving.signer, target, file.sha256, file.receipt)
            proven.add(file.sha256)
    known = serving.store.known(proven) if proven else {}
    unproven = others - proven
    if not unproven:
        return known
    with serving.store.database.reading() as session:
        repo = find_repo(session, target)
        found = uploads.awaiting(session, target, unproven)
        if repo is not None:
            found |= uploads.held(session, repo, unproven)
    return {**found, **known}


def _store_texts(serving: Serving, wanted: Publication) -> Mapping[str, Blob]:
    """The blobs of the files whose bytes came along, stored and not yet known to the database; by sha256."""
    blobs: dict[str, Blob] = {}
    for path, file in wanted.files.items():
        if file.content is None:
            continue
        check_path(path)
        if sha256_bytes(file.content) != file.sha256:
            raise IntegrityError(f"the bytes of {path} are not those of {file.sha256}")
        serving.store.blobs.put(file.sha256, file.content, origin=path)
        blobs[file.sha256] = Blob(file.sha256, len(file.content), git_oid(file.content))
    return blobs
