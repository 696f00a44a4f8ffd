"""A token is revoked, or a role ends, while the body of a request comes: what it would have changed is not changed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from huggingface_hub.errors import HfHubHTTPError
from sqlalchemy.orm import Session

from adapthub.hub import accounts, audit, members, repos
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.lookup import require_repo
from adapthub.hub.reference import Reference
from adapthub.hub.server import publish_api, review_api, upload_api
from adapthub.hub.server.receiving import Spooled
from adapthub.hub.signing import sign
from adapthub.hub.store import Store
from adapthub.hub.wire import Publication, PublishedFile
from tests.hub.adapters import contents, write_adapter
from tests.hub.server.governed import Api
from tests.hub.server.live import HubServer


def commit(folder: Path) -> tuple[ModuleType, str, str, bytes]:
    lines = [
        {"key": "header", "value": {"summary": "late"}},
        {"key": "file", "value": {"path": "a.txt", "content": "eA==", "encoding": "base64"}},
    ]
    return upload_api, "POST", "commit/main", "\n".join(map(json.dumps, lines)).encode()


def version(folder: Path) -> tuple[ModuleType, str, str, bytes]:
    artifact = write_adapter(folder / "late", seed=2)
    texts = contents(artifact.path)
    files = {
        path: PublishedFile(sha256=record.sha256, size=record.size, content=texts[path])
        for path, record in artifact.files.items()
    }
    body = Publication(files=files, message="", alias=None).model_dump_json()
    return publish_api, "POST", "versions", body.encode()


def signature(folder: Path) -> tuple[ModuleType, str, str, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    return review_api, "PUT", "signature/v1", sign(write_adapter(folder / "again").sha256s, key)


def meanwhile(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, store: Store, change: Callable[[Session], None]
) -> None:
    """Let `change` be made while the endpoints of `module` read a body, into memory or aside."""
    name = "read_body" if hasattr(module, "read_body") else "spooled"
    read = getattr(module, name)

    def changed() -> None:
        with store.database.writing() as session:
            change(session)

    async def into_memory(*given: Any) -> bytes:
        came: bytes = await read(*given)
        changed()
        return came

    @asynccontextmanager
    async def aside(*given: Any) -> AsyncIterator[Spooled]:
        async with read(*given) as body:
            changed()
            yield body

    monkeypatch.setattr(module, name, into_memory if name == "read_body" else aside)


@pytest.mark.parametrize("what", ["token", "role"])
@pytest.mark.parametrize("change", [commit, version, signature])
def test_while_a_body_comes(
    hub_server: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], tuple[ModuleType, str, str, bytes]],
    what: str,
) -> None:
    store = hub_server.running.serving.store
    ada = Api(hub_server, "ada")
    EmbeddedHub(hub_server.data).push(write_adapter(tmp_path / "made"), "acme/ner")
    with store.database.writing() as session:
        members.create_organisation(
            session, "acme", accounts.create_token(session, "grace", "read")[0].account
        )
        members.set_member(session, "acme", "ada", "write")
    module, method, where, body = change(tmp_path)

    def take_away(session: Session) -> None:
        if what == "token":
            accounts.revoke_token(session, ada.token)
        else:
            members.remove_member(session, "acme", "ada")

    meanwhile(monkeypatch, module, store, take_away)
    answer = ada.raw(method, f"/api/models/acme/ner/{where}", content=body)
    assert answer.status_code == (401 if what == "token" else 403), answer.text
    with store.database.reading() as session:
        actions = [entry.action for entry in audit.entries(session, repo="acme/ner")]
    assert actions == ["version", "commit", "repo.made"]


def test_a_name_that_goes_meanwhile_is_answered_without_others(
    hub_server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not see all is told of none that is like it."""
    hub_server.client("ada").create_repo("ada/project-falcon", private=True)
    eve = hub_server.client("eve")
    eve.create_repo("eve/project-falcom")

    def remove(session: Session) -> None:
        repos.remove(session, require_repo(session, Reference.parse("eve/project-falcom")))

    meanwhile(monkeypatch, upload_api, hub_server.running.serving.store, remove)
    with pytest.raises(HfHubHTTPError) as refused:
        eve.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id="eve/project-falcom")
    assert refused.value.response.status_code == 404
    assert "falcon" not in str(refused.value)
