"""Repositories that are gated: everybody sees them, and no address gives their files to those who were not let in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from adapthub.adapters.description import FileRecord
from adapthub.hub.embedded import EmbeddedHub
from tests import asking
from tests.hub.adapters import write_adapter
from tests.hub.server.governed import Api
from tests.hub.server.live import HubServer

WEIGHTS = "adapter_model.safetensors"


def doors(weights: FileRecord) -> dict[tuple[str, str], dict[str, Any]]:
    """Every address that gives files of ada/ner or says what is in them, and what it is sent."""
    wanted = {"operation": "download", "objects": [{"oid": weights.sha256, "size": weights.size}]}
    return {
        ("GET", f"/ada/ner/resolve/main/{WEIGHTS}"): {},
        ("GET", "/api/models/ada/ner/auth-check"): {},
        ("GET", "/api/models/ada/ner/versions/v1/bundle"): {},
        ("GET", "/api/models/ada/ner/diff/v1..v1"): {},
        ("GET", "/api/models/all/own/diff/v1..ada%2Fner@v1"): {},
        ("GET", "/api/models/ada/ner/lfs-files"): {},
        ("POST", "/ada/ner.git/info/lfs/objects/batch"): {"json": wanted},
    }


@pytest.mark.parametrize("gated", ["auto", "manual"])
def test_files_are_for_those_who_were_let_in(
    hub_server: HubServer, tmp_path: Path, gated: Literal["auto", "manual"]
) -> None:
    hub = EmbeddedHub(hub_server.data, cache=tmp_path / "cache")
    adapter = write_adapter(tmp_path / "made")
    hub.push(adapter, "ada/ner")
    hub.push(adapter, "all/own")
    ada, bob, grace = (Api(hub_server, name) for name in ("ada", "bob", "grace"))
    ada("PUT", "/api/namespaces/ada/members/grace", {"role": "read"})
    hub_server.client("ada").update_repo_settings("ada/ner", gated=gated)
    assert asking.get(f"{hub_server.url}/api/models/ada/ner").status_code == 200
    with asking.client(base_url=hub_server.url) as nobody:
        for (method, path), body in doors(adapter.files[WEIGHTS]).items():
            assert "gated" in nobody.request(method, path, **body).json()["error"], path
            statuses = [one.raw(method, path, **body).status_code for one in (ada, grace, bob)]
            assert statuses == [200, 200, 200 if gated == "auto" else 403], path
