"""Who is let in, before a body is read: keys, requests a minute, and without tenants only what this machine sends itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import openai
import pytest

from adapthub.hub.registry import Registry
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.server.serving import ServerLimits
from adapthub.runtime.tenants.tenant_gate import open_gate
from tests.runtime.server.live import live, settings_for
from tests.runtime.server.test_tenants import add
from tests.web.raw import answer_to

ELSEWHERE = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}


@pytest.fixture(scope="module")
def keys() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def keyed(
    served_base: Path,
    served_hub: Registry,
    keys: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    """acme may do what it likes, two sends two requests a minute."""
    path = tmp_path_factory.mktemp("door") / "tenants.sqlite"
    keys["acme"] = add(path, "acme", "acme/*")
    keys["two"] = add(path, "two", "acme/*", requests_per_minute=2)
    keys["watching"] = add(path, "watching", "acme/*", requests_per_minute=1)
    settings = settings_for(served_base, server=ServerLimits(body_seconds=5.0))
    with live(settings, served_hub, open_gate(path)) as running:
        yield running


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/models/acme/sql", "/", "/admin/drain"])
@pytest.mark.parametrize("length", [1_000_000, 100_000_000])
def test_without_a_key_no_body_is_read(keyed: Running, path: str, length: int) -> None:
    """It is answered though not a byte of the body comes; in the address' own shape."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: anything\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\nconnection: close\r\n\r\n"
    )
    top, _, body = answer_to(keyed, head.encode()).partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 401 ")
    assert b"x-request-id: " in top.lower()
    error = json.loads(body)["error"]
    assert "no key was given" in (error if path in ("/", "/models/acme/sql") else error["message"])


def test_no_endpoint_is_without_a_key_by_mistake(keyed: Running) -> None:
    documented = httpx.get(f"{keyed.address}/openapi.json").json()["paths"]
    routes = {(method.upper(), path) for path, methods in documented.items() for method in methods}
    free = {
        (method, path)
        for method, path in routes
        if httpx.request(method, keyed.address + path).status_code != 401
    }
    assert free == {("GET", "/health"), ("GET", "/ready")}
    assert len(routes) > 30


def test_docs_and_the_page_need_no_key_but_take_nothing(keyed: Running) -> None:
    for path in ("/", "/pages/app.js", "/health", "/ready", "/openapi.json"):
        assert httpx.get(keyed.address + path).status_code == 200
        assert httpx.post(keyed.address + path, json={}).status_code in (401, 405)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"a":[' + b"[]," * 1_000_000 + b"1]}", "more than 400,000 brackets and commas"),
        (b"[" * 3_000_000, "more than 400,000 brackets and commas"),
        (b'{"a":[' + b"1," * 500_000 + b"1]}", "more than 400,000 brackets and commas"),
        (b"{" + b",".join(b'"%d":1' % key for key in range(150_000)) + b"}", "more than 100,000 colons"),
        (b'{"prompt":"' + b"a" * (4 << 20) + b'"}', "larger than 4,194,304 bytes"),
    ],
    ids=["lists", "depth", "numbers", "keys", "bytes"],
)
def test_bodies_that_would_hold_everybody_up_are_refused(server: Running, body: bytes, words: str) -> None:
    answer = httpx.post(
        f"{server.address}/v1/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert words in answer.json()["error"]["message"]


def test_as_many_tokens_as_an_embedding_may_have_are_let_in(server: Running) -> None:
    """2,048 inputs, 300,000 tokens: what is wrong with them is said by who reads them."""
    body = {"model": server.serving.catalog.base_name, "input": [[99_999] * 146] * 2048}
    answer = httpx.post(f"{server.address}/v1/embeddings", json=body, timeout=60)
    assert "brackets" not in answer.text
    assert answer.status_code == 400


def test_what_is_refused_and_what_is_only_read_counts_too(keyed: Running, keys: dict[str, str]) -> None:
    with openai.OpenAI(base_url=f"{keyed.address}/v1", api_key=keys["two"], max_retries=0) as client:
        client.models.retrieve("acme/sql")
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="acme/none", prompt="ada")
        with pytest.raises(openai.RateLimitError, match="two may use 2 requests a minute") as refused:
            client.completions.create(model="acme/sql", prompt="ada", max_tokens=1)
    assert 0 < int(refused.value.response.headers["Retry-After"]) <= 30


def test_one_request_counts_once_and_who_watches_the_page_sends_none(
    keyed: Running, keys: dict[str, str]
) -> None:
    headers = {"Authorization": f"Bearer {keys['watching']}"}
    for _ in range(3):
        assert httpx.get(f"{keyed.address}/api/live", headers=headers).status_code == 200
    with openai.OpenAI(base_url=f"{keyed.address}/v1", api_key=keys["watching"], max_retries=0) as client:
        client.completions.create(model="acme/sql", prompt="ada", max_tokens=1)
        with pytest.raises(openai.RateLimitError):
            client.completions.create(model="acme/sql", prompt="ada", max_tokens=1)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "[", ""]
)
def test_without_tenants_no_foreign_name_means_this_server(server: Running, host: str) -> None:
    for method, path in (("GET", "/admin/status"), ("GET", "/metrics"), ("POST", "/admin/adapters/load")):
        answer = httpx.request(method, server.address + path, headers={"Host": host})
        assert answer.status_code == 403
        assert "answers as localhost" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.8.8.8", "[::1]:8000"])
def test_every_name_of_this_machine_does(server: Running, host: str) -> None:
    assert httpx.get(f"{server.address}/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        ELSEWHERE,
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
@pytest.mark.parametrize(
    "type_", [None, "text/plain", "application/json", "application/x-www-form-urlencoded"]
)
@pytest.mark.parametrize("path", ["/admin/drain", "/v1/load_lora_adapter", "/v1/completions", "/"])
def test_other_websites_change_nothing(
    server: Running, headers: dict[str, str], type_: str | None, path: str
) -> None:
    content_type = {} if type_ is None else {"Content-Type": type_}
    answer = httpx.post(server.address + path, content=b"{}", headers=headers | content_type)
    assert answer.status_code == 403
    assert "another website" in answer.text
    assert not server.serving.draining


def test_the_own_page_and_programs_without_a_content_type_are_let_in(server: Running) -> None:
    own = {"Origin": server.address, "Sec-Fetch-Site": "same-origin"}
    body = {"model": server.serving.catalog.base_name, "prompt": "ada", "max_tokens": 1}
    assert httpx.post(f"{server.address}/v1/completions", json=body, headers=own).status_code == 200
    # As InferenceClient sends bytes.
    inputs = json.dumps({"inputs": "ada", "parameters": {"max_new_tokens": 1}}).encode()
    assert httpx.post(f"{server.address}/models/acme/sql", content=inputs).status_code == 200


def test_with_tenants_keys_are_what_counts(keyed: Running, keys: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {keys['acme']}", "Host": "llm.example", **ELSEWHERE}
    body = {"model": "acme/sql", "prompt": "ada", "max_tokens": 1}
    assert httpx.post(f"{keyed.address}/v1/completions", json=body, headers=headers).status_code == 200
