"""Whatever is put into any field of any request, the hub's answer is never that it failed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import quote

import httpx2
import pytest
from fastapi.routing import APIRoute
from huggingface_hub import HfApi
from pydantic import BaseModel

from adapthub.hub.server.app import ROUTERS
from adapthub.hub.server.commit_bodies import Gone, Header, LfsFile, TextFile
from adapthub.hub.server.lfs_transfer_api import Completion
from tests import asking
from tests.hub.adapters import write_adapter
from tests.hub.server.live import HubServer, live

HOSTILE: list[Any] = ["\ud800", "a\0b", "é", "hf::ada/ner", "v" + "9" * 30, "[" * 5_000, "", 2**70, -(2**70)]
# What gets a request as far as what is tried.
GOOD = {
    "namespace": "ada",
    "name": "ner",
    "organization": "ada",
    "revision": "main",
    "path": "adapter_config.json",
    "alias": "prod",
    "oid": "0" * 64,
    "sha256": "0" * 64,
    "sha": "0" * 64,
    "number": "1",
    "operation": "upload",
    "url": "http://127.0.0.1:9/",
    "evaluations": "test/f1",
    "with": "ada/ner",
    "metric": "f1>=0",
    "role": "read",
    "fromRepo": "ada/ner",
    "toRepo": "ada/moved",
}


def body_of(annotation: Any, name: str = "") -> Any:
    """A body that reads."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return inner[0]
    if origin in (list, tuple):
        return [body_of(inner[0], name)]
    if inner:
        return body_of(inner[0], name)
    if issubclass(annotation, BaseModel):
        return {key: body_of(field.annotation, key) for key, field in annotation.model_fields.items()}
    return {int: 1, bool: True}.get(annotation, GOOD.get(name, "x"))


def spoilt(document: Any) -> Iterator[Any]:
    """The document with each of its values in turn made hostile."""
    if isinstance(document, dict):
        for key, value in document.items():
            for other in spoilt(value):
                yield {**document, key: other}
    elif isinstance(document, list):
        for other in spoilt(document[0]):
            yield [other]
    else:
        yield from HOSTILE


def routes() -> list[tuple[str, APIRoute]]:
    found = [route for module in ROUTERS for route in module.router.routes if isinstance(route, APIRoute)]
    return [(method, route) for route in found for method in sorted(route.methods or ())]


def names_of(route: APIRoute) -> list[str]:
    return re.findall(r"{(\w+)(?::path)?}", route.path)


def address(route: APIRoute, spoil: str | None = None, value: str = "") -> str:
    """An address of the route, with one part of it spoilt."""

    def part(match: re.Match[str]) -> str:
        if match[1] == spoil:
            return quote(value, safe="")
        return "v1..v1" if "/diff/" in route.path else GOOD.get(match[1], "x")

    return re.sub(r"{(\w+)(?::path)?}", part, route.path)


@dataclass(frozen=True)
class Asking:
    """An admin's requests to a hub, none of which may find that it failed."""

    url: str
    api: HfApi
    adapter: Path
    http: httpx2.Client

    def prepare(self) -> None:
        """Let there be one adapter, whatever became of it."""
        self.api.create_repo("ada/ner", exist_ok=True)
        self.api.upload_folder(repo_id="ada/ner", folder_path=self.adapter)

    def __call__(self, method: str, path: str, **request: Any) -> httpx2.Response:
        answer = self.http.request(method, self.url + path, **request)
        assert answer.status_code < 500, (method, path, request, answer.status_code, answer.text)
        return answer


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubServer]:
    url = request.getfixturevalue("new_database")() if request.param == "postgres" else None
    with live(tmp_path / "served", database=url) as running:
        yield running


@pytest.fixture
def ask(server: HubServer, tmp_path: Path) -> Iterator[Asking]:
    api = server.client("ada", "admin")
    adapter = write_adapter(tmp_path / "made").path
    with asking.client(headers={"Authorization": f"Bearer {api.token}"}) as http:
        asker = Asking(server.url, api, adapter, http)
        asker.prepare()
        yield asker


def test_addresses_and_queries(ask: Asking) -> None:
    texts = [value for value in HOSTILE if isinstance(value, str) and value not in ("\ud800", "")]
    texts += ["9" * 30, "-1", "main"]
    for method, route in routes():
        for name in names_of(route):
            for text in texts:
                ask(method, address(route, name, text))
        query = [parameter.alias for parameter in route.dependant.query_params]
        for name in query:
            for text in [*texts, *([] if name in GOOD else ["x"])]:
                ask(method, address(route), params={**{n: GOOD[n] for n in query if n in GOOD}, name: text})


def test_bodies(ask: Asking) -> None:
    for method, route in routes():
        if route.body_field is None:
            continue
        ask.prepare()
        document = body_of(route.body_field.field_info.annotation)
        for body in [document, *spoilt(document), [], None, "x"]:
            content = json.dumps(body)
            ask(method, address(route), content=content, headers={"Content-Type": "application/json"})


def test_commits(ask: Asking) -> None:
    header = {"key": "header", "value": {"summary": "x"}}
    kinds = {
        "header": Header,
        "file": TextFile,
        "lfsFile": LfsFile,
        "deletedFile": Gone,
        "deletedFolder": Gone,
    }
    for key, model in kinds.items():
        for value in spoilt(body_of(model)):
            lines = [*([] if key == "header" else [header]), {"key": key, "value": value}]
            ask("POST", "/api/models/ada/ner/commit/main", content="\n".join(map(json.dumps, lines)))


def test_forms(ask: Asking) -> None:
    for text in ("%00", "%ff", "%ED%A0%80", "9" * 30, "hf::ada/ner"):
        for form in (f"paths={text}", f"paths={text}&expand=true", f"paths=a&expand={text}"):
            ask("POST", "/api/models/ada/ner/paths-info/main", content=form)
        for name in ("grant_type", "device_code", "user_code", "token", "answer"):
            grant = "grant_type=urn:ietf:params:oauth:grant-type:device_code&answer=allow"
            for path in ("/oauth/token", "/oauth/activate"):
                ask("POST", path, content=f"{grant}&{name}={text}")


def test_the_parts_of_an_upload(hub_server: HubServer) -> None:
    """Their addresses are signed: only who may upload comes as far as this."""
    api = hub_server.client()
    api.create_repo("ada/ner")
    size = hub_server.running.serving.limits.part_bytes + 1
    batch = {"operation": "upload", "transfers": ["multipart"], "objects": [{"oid": "0" * 64, "size": size}]}
    headers = {"Authorization": f"Bearer {api.token}"}
    url = f"{hub_server.url}/ada/ner.git/info/lfs/objects/batch"
    (entry,) = asking.post(url, json=batch, headers=headers).json()["objects"]
    etags = ["a-1-1-\ud800", "a-1-1-é", "\0", f"a-{'9' * 30}-1-a", "a-x-x-a", ""]
    bodies = [{"oid": "0" * 64, "parts": [{"partNumber": 1, "etag": etag}]} for etag in etags]
    for body in [*bodies, *spoilt(body_of(Completion))]:
        content = json.dumps(body)
        answer = asking.post(
            entry["actions"]["upload"]["href"],
            content=content,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code in (400, 403), (body, answer.text)


@pytest.mark.parametrize(
    "path",
    [
        "/api/models?" + "&".join(f"filter=t{n}" for n in range(33)),
        "/api/models?filter=" + ",".join(f"t{n}" for n in range(33)),
        "/api/models?search=" + "+".join(f"w{n}" for n in range(65)),
        "/api/adapters?text=" + "+".join(f"w{n}" for n in range(65)),
        "/api/models?cursor=" + "9" * 30,
        "/api/models?cursor=-1",
        "/api/models/ada/ner/composes?with=hf::ada/ner",
        "/api/models/ada/ner/diff/v1..hf%3A%3Aada%2Fner@v1",
    ],
)
def test_what_is_refused(ask: Asking, path: str) -> None:
    answer = ask("GET", path)
    assert answer.status_code == 400, answer.text


def test_as_much_as_may_be_asked_for(ask: Asking) -> None:
    assert ask("GET", "/api/models?" + "&".join(f"filter=t{n}" for n in range(32))).json() == []
    assert ask("GET", "/api/models?search=" + "+".join(f"w{n}" for n in range(64))).json() == []
