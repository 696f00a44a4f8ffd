"""Clients that are slow, broken or hostile: each is refused with its status, and a neighbour's stream goes on meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from adapthub.hub.registry import Registry
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.server.serving import ServerLimits
from tests.runtime.server.live import live, settings_for
from tests.runtime.server.recording import idle
from tests.web.live import eventually
from tests.web.raw import answer_to
from tests.web.strangers import Connections

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "ada was"}], "max_tokens": 2}
LIMITS = ServerLimits(body_bytes=5_000_000, body_seconds=0.7)


@pytest.fixture(scope="module")
def strict(served_base: Path, served_hub: Registry) -> Iterator[Running]:
    with live(settings_for(served_base, server=LIMITS), served_hub) as running:
        yield running


@pytest.fixture(scope="class")
def neighbour(strict: Running) -> Iterator[None]:
    """Streams from beginning to end of a class of tests, and must get the text that it would get alone."""
    messages: Any = CHAT["messages"]
    (wanted,) = strict.serving.runtime.generate([messages], max_new_tokens=60, ignore_eos=True)
    over = threading.Event()
    texts: list[str] = []
    errors: list[Exception] = []

    def stream() -> None:
        with openai.OpenAI(base_url=f"{strict.address}/v1", api_key="x", max_retries=0) as client:
            while not (over.is_set() and texts):
                try:
                    chunks = client.chat.completions.create(
                        model=strict.serving.catalog.base_name,
                        messages=messages,
                        temperature=0,
                        max_tokens=60,
                        stream=True,
                        extra_body={"ignore_eos": True},
                    )
                    texts.append("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
                except Exception as error:
                    errors.append(error)
                    return

    thread = threading.Thread(target=stream)
    thread.start()
    eventually(lambda: strict.serving.runtime.generation.load.running > 0 or bool(texts), "it never began")
    yield
    over.set()
    thread.join()
    assert errors == []
    assert set(texts) == {wanted.text}
    idle(strict)


def post(server: Running, body: Any, path: str = "/v1/chat/completions") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        server.address + path, content=content, headers={"content-type": "application/json"}, timeout=60
    )


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error object of an answer with this status."""
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]
    return error


def chat(server: Running, **options: Any) -> dict[str, Any]:
    return {"model": server.serving.catalog.base_name, **CHAT, **options}


@pytest.mark.usefixtures("neighbour")
class TestBodies:
    def test_one_that_is_declared_too_large(self, strict: Running) -> None:
        """It is refused before it has come."""
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            "content-length: 5000001\r\nconnection: close\r\n\r\n"
        )
        assert answer_to(strict, head.encode()).startswith(b"HTTP/1.1 413 ")

    def test_one_that_is_too_large_is_read_to_its_end_and_refused(self, strict: Running) -> None:
        """Clients that send before they read get their answer, and may go on."""
        body = json.dumps(chat(strict, user="x" * 8_000_000))
        with httpx.Client(base_url=strict.address, timeout=60) as client:
            for _ in range(2):
                headers = {"content-type": "application/json"}
                error = error_of(client.post("/v1/chat/completions", content=body, headers=headers), 413)
                assert "5,000,000 bytes" in error["message"]
            assert client.post("/v1/chat/completions", json=chat(strict)).status_code == 200

    def test_one_of_chunks_that_is_too_large(self, strict: Running) -> None:
        response = httpx.post(
            f"{strict.address}/v1/chat/completions",
            content=iter([b" " * 600_000] * 10),
            headers={"content-type": "application/json"},
        )
        error_of(response, 413)

    def test_one_that_comes_too_slowly(self, strict: Running) -> None:
        head = (
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 99\r\n\r\n{"
        )
        answer = answer_to(strict, head)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"took longer than 0.7 s" in answer

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"null",
            b"[]",
            b'"text"',
            b"\xff\xfe{}",
            b'{"model": "\xff"}',
            b"[" * 200_000,
            b'{"model":' * 20_000,
            b"1" * 10_000,
        ],
        ids=lambda body: repr(body[:12]),
    )
    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
    def test_what_is_no_request(self, strict: Running, body: bytes, path: str) -> None:
        error_of(post(strict, body, path), 400)

    @pytest.mark.parametrize(
        "field",
        [
            b'"temperature": NaN',
            b'"temperature": Infinity',
            b'"temperature": 1e999',
            b'"top_p": -Infinity',
            b'"max_tokens": 1e999',
            b'"seed": 99999999999999999999999999',
            b'"n": 1' + b"0" * 5000,
            b'"user": "\\ud800"',
            b'"\\ud800": 1',
            b'"stop": ["\\udc00"]',
            b'"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "\\ud800"}}}',
            b'"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": '
            + b'{"a":' * 400
            + b"1"
            + b"}" * 402,
        ],
        ids=lambda field: repr(field[:60]),
    )
    def test_values_that_are_none(self, strict: Running, field: bytes) -> None:
        whole = json.dumps(chat(strict)).encode()
        closing = b"" if field.endswith(b"}" * 402) else b"}"
        error_of(post(strict, whole[:-1] + b", " + field + closing), 400)

    @pytest.mark.parametrize(
        ("body", "told"), [(b"{", "the body is not JSON: Expecting"), (b"", "the body is missing")]
    )
    def test_what_is_wrong_with_a_body_is_told(self, strict: Running, body: bytes, told: str) -> None:
        error = error_of(post(strict, body), 400)
        assert error["message"].startswith(told)
        assert error["param"] is None

    def test_a_message_that_is_no_unicode(self, strict: Running) -> None:
        body = json.dumps(chat(strict)).encode().replace(b"ada was", b"\\ud800")
        error_of(post(strict, body), 400)

    def test_a_model_that_is_no_unicode(self, strict: Running) -> None:
        body = json.dumps(chat(strict) | {"model": "\ud800"}).encode()
        error_of(post(strict, body), 400)

    def test_another_type_of_content(self, strict: Running) -> None:
        response = httpx.post(
            f"{strict.address}/v1/chat/completions",
            content=json.dumps(chat(strict)),
            headers={"content-type": "text/plain"},
        )
        error_of(response, 400)


WRONG: list[Any] = ["x", 1, -1, 1.5, True, [], ["x"], [[]], {}, {"x": 1}, "", "\x00", 2**70, None]
CHAT_FIELDS = [
    "model", "messages", "temperature", "top_p", "n", "stop", "seed", "max_tokens", "max_completion_tokens",
    "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "stream", "stream_options",
    "response_format", "tools", "tool_choice", "user", "metadata", "store", "logit_bias", "top_k", "min_p",
    "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "structured_outputs", "priority",
]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_no_value_of_any_field_makes_the_server_fail(strict: Running, path: str) -> None:
    start = {"model": strict.serving.catalog.base_name, "max_tokens": 1}
    start |= {"messages": CHAT["messages"]} if "chat" in path else {"prompt": "ada"}
    fields = CHAT_FIELDS if "chat" in path else ["prompt", "echo", "suffix", "best_of", "logprobs", "stop"]
    with httpx.Client(base_url=strict.address, timeout=60) as client:
        for field in fields:
            refused = 0
            for value in WRONG:
                response = client.post(path, json=start | {field: value})
                assert response.status_code in (200, 400, 404), (field, value, response.text)
                if response.status_code != 200:
                    assert response.json()["error"]["message"], (field, value)
                    refused += 1
            assert refused > 3, f"{field} takes anything"


@pytest.mark.usefixtures("neighbour")
class TestLongPrompts:
    """A million tokens are 400, whoever tells them, and so are as many numbers as a body may have."""

    @pytest.mark.parametrize("kind", ["words", "one word", "ids"])
    def test_far_too_many_tokens(self, strict: Running, kind: str) -> None:
        prompt: Any = {"words": "ada " * 1_000_000, "one word": "a" * 4_000_000, "ids": [5] * 399_000}[kind]
        body = {"model": strict.serving.catalog.base_name, "prompt": prompt}
        error = error_of(post(strict, body, "/v1/completions"), 400)
        assert error["code"] == "context_length_exceeded"
        assert ("tokens" if kind == "ids" else "characters") in error["message"].partition("and")[2]

    def test_a_long_conversation(self, strict: Running) -> None:
        messages = [{"role": "user", "content": "ada " * 100}] * 9_000
        error = error_of(post(strict, chat(strict) | {"messages": messages}), 400)
        assert error["code"] == "context_length_exceeded"


class TestErrors:
    @pytest.mark.parametrize(
        ("method", "path", "status"), [("GET", "/v1/chat/completions", 405), ("POST", "/v1/nothing", 404)]
    )
    def test_there_is_no_such_route(self, strict: Running, method: str, path: str, status: int) -> None:
        error = error_of(httpx.request(method, strict.address + path), status)
        assert error["type"] == "invalid_request_error"

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_defect_is_500_without_its_words(
        self, strict: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
    ) -> None:
        def defective(*_: Any) -> None:
            raise ValueError("a secret")

        monkeypatch.setattr(strict.serving.runtime, "room", defective)
        error = error_of(post(strict, chat(strict, stream=stream)), 500)
        assert error["message"] == "the server failed: ValueError"


@pytest.mark.usefixtures("neighbour")
class TestConnections(Connections):
    def test_headers_cannot_be_injected(self, strict: Running) -> None:
        """Whatever a client names comes back in bodies alone."""
        name = "acme/sql\r\nx-evil: 1"
        response = post(strict, chat(strict) | {"model": name})
        error_of(response, 400)
        assert "x-evil" not in response.headers
        request = (
            b"GET /v1/models/a%0d%0ax-evil:%201 HTTP/1.1\r\nhost: localhost\r\n"
            b"x-request-id: a\r\nconnection: close\r\n\r\n"
        )
        head, _, body = answer_to(strict, request).partition(b"\r\n\r\n")
        assert b"x-evil" not in head
        assert b"x-evil" in body
