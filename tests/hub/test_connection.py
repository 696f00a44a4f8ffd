"""What a hub's answers become, and where its token goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from adapthub.adapters.errors import (
    AdapterNotFound,
    AdaptHubError,
    AdmissionError,
    Conflict,
    EntryNotFound,
    Forbidden,
    IntegrityError,
    InvalidSettings,
    NotFound,
    RateLimited,
    RevisionNotFound,
    StorageError,
    TensorMismatch,
    Unauthorized,
    Unreachable,
)
from adapthub.hub.connection import Connection
from adapthub.hub.file_body import FileBody
from adapthub.hub.plain_reading import PlainReading
from adapthub.hub.reference import Reference

HUB = "https://hub.example"
Handler = Callable[[httpx2.Request], httpx2.Response]


def connect(handler: Handler, *, waits: list[float] | None = None, url: str = HUB) -> Connection:
    return Connection(
        url,
        "secret",
        transport=httpx2.MockTransport(handler),
        sleep=(waits if waits is not None else []).append,
    )


def answering(status: int, headers: dict[str, str] | None = None, **content: object) -> Handler:
    return lambda _: httpx2.Response(status, headers=headers, **content)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, None, InvalidSettings),
        (401, None, Unauthorized),
        (401, "RepoNotFound", AdapterNotFound),
        (403, None, Forbidden),
        (403, "GatedRepo", Forbidden),
        (404, "RepoNotFound", AdapterNotFound),
        (404, "RevisionNotFound", RevisionNotFound),
        (404, "EntryNotFound", EntryNotFound),
        (404, None, NotFound),
        (409, None, Conflict),
        (413, None, AdmissionError),
        (418, None, StorageError),
        (429, None, RateLimited),
        (500, None, StorageError),
        (502, None, Unreachable),
        (503, None, Unreachable),
        (504, None, Unreachable),
    ],
)
def test_every_status_is_an_error_of_ours(status: int, code: str | None, kind: type[AdaptHubError]) -> None:
    headers = {} if code is None else {"X-Error-Code": code, "X-Error-Message": "the hub's own words"}
    with pytest.raises(AdaptHubError) as caught:
        connect(answering(status, headers)).ask("GET", "/api/models/acme/ner")
    assert type(caught.value) is kind
    if code is not None:
        assert "the hub's own words" in str(caught.value)
    else:
        assert HUB in str(caught.value)


def test_a_hub_of_ours_raises_its_very_error() -> None:
    body = {"error": "x", "kind": "TensorMismatch", "message": "lora_A is gone", "hint": "Save it again."}
    with pytest.raises(TensorMismatch) as caught:
        connect(answering(422, json=body)).ask("GET", "/")
    assert (caught.value.message, caught.value.hint) == ("lora_A is gone", "Save it again.")
    for kind in ("annotations", "SystemExit", "builtins", ""):
        with pytest.raises(AdmissionError):
            connect(answering(422, json={**body, "kind": kind})).ask("GET", "/")


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (503, {"Retry-After": "2"}, 2.0),
        (429, {"RateLimit": '"api";r=0;t=5'}, 5.0),
    ],
)
def test_it_waits_as_long_as_the_hub_asks(status: int, headers: dict[str, str], wait: float) -> None:
    answers = iter([httpx2.Response(status, headers=headers), httpx2.Response(200, json={"ok": True})])
    waits: list[float] = []
    assert connect(lambda _: next(answers), waits=waits).read(dict[str, bool], "/") == {"ok": True}
    assert waits == [wait]


def test_a_wait_that_is_too_long_is_the_callers_decision() -> None:
    waits: list[float] = []
    with pytest.raises(RateLimited, match="Try again in 3600 s") as caught:
        connect(answering(429, {"Retry-After": "3600"}), waits=waits).ask("GET", "/")
    assert (caught.value.retry_after, waits) == (3600.0, [])


def test_it_gives_up() -> None:
    asked: list[str] = []

    def refuse(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.method)
        return httpx2.Response(502)

    waits: list[float] = []
    with pytest.raises(StorageError, match="Try again later"):
        connect(refuse, waits=waits).ask("GET", "/")
    assert len(asked) == 4
    assert waits == sorted(waits)
    assert len(waits) == 3


@pytest.mark.parametrize(
    ("error", "words", "times"),
    [
        (httpx2.ConnectError("refused"), "cannot be reached: refused", 1),
        (httpx2.ReadTimeout("slow"), "does not answer in time", 4),
        (httpx2.RemoteProtocolError("cut"), "cannot be reached: cut", 4),
    ],
)
def test_nobody_there(error: Exception, words: str, times: int) -> None:
    asked: list[str] = []

    def fail(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.method)
        raise error

    with pytest.raises(Unreachable, match=f"hub at {HUB} {words}.*Check the address"):
        connect(fail).ask("GET", "/")
    assert len(asked) == times


@pytest.mark.parametrize("broken", [httpx2.Response(502), httpx2.ReadError("cut")])
def test_what_must_not_happen_twice_is_sent_once(broken: httpx2.Response | Exception) -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.method)
        if isinstance(broken, Exception):
            raise broken
        return broken

    with pytest.raises(StorageError):
        connect(answer).ask("POST", "/rollback", once=True)
    assert asked == ["POST"]


def test_offline_asks_nobody() -> None:
    connection = Connection(HUB, offline="HF_HUB_OFFLINE is set")
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set"):
        connection.ask("GET", "/")


@pytest.mark.parametrize("body", ["<html>", "[1]", '"x"'])
def test_what_is_no_hub(body: str) -> None:
    with pytest.raises(StorageError):
        PlainReading(connect(answering(200, text=body))).info(Reference.parse("acme/ner"))


# the token


ELSEWHERE = [
    "https://cdn.example/file",
    "http://hub.example/file",
    "https://hub.example:8443/file",
    "https://hub.example.evil.example/file",
    "https://evil.example/hub.example",
    "//cdn.example/file",
    "https://user@cdn.example/hub.example",
]


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_redirect_elsewhere_gets_no_token(target: str) -> None:
    seen: list[tuple[str, str]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append((request.url.host, request.headers.get("authorization", "")))
        if request.url.path == "/start":
            return httpx2.Response(302, headers={"location": target})
        return httpx2.Response(200, json={})

    connect(answer).ask("GET", "/start", params={"a": "b"})
    (_, first), (_, second) = seen
    assert first == "Bearer secret"
    assert "Bearer" not in second


def test_a_redirect_at_home_keeps_the_token() -> None:
    seen: list[str | None] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers.get("authorization"))
        moved = {"/start": "/moved", "/moved": "https://HUB.example:443/end"}.get(request.url.path)
        return httpx2.Response(200) if moved is None else httpx2.Response(307, headers={"location": moved})

    connect(answer).ask("GET", "/start")
    assert seen == ["Bearer secret"] * 3


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_next_page_elsewhere_gets_no_token(target: str) -> None:
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers.get("authorization", ""))
        first = request.url.path == "/api/models"
        return httpx2.Response(200, json=[{}], headers={"link": f'<{target}>; rel="next"'} if first else {})

    assert len([*PlainReading(connect(answer)).pages(dict[str, str], "/api/models")]) == 2
    assert seen[0] == "Bearer secret"
    assert "Bearer" not in seen[1]


def test_what_is_written_is_not_sent_elsewhere() -> None:
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.host)
        return httpx2.Response(307, headers={"location": "https://evil.example/take"})

    with pytest.raises(StorageError, match=r"evil\.example"):
        connect(answer).ask("POST", "/api/models/acme/ner/versions", content=b"weights")
    assert asked == ["hub.example"]


def test_redirects_without_an_end() -> None:
    with pytest.raises(StorageError, match="without an end"):
        connect(answering(302, {"location": "/again"})).ask("GET", "/")


def test_a_page_that_names_itself_for_ever_ends() -> None:
    asked: list[int] = []

    def answer(_: httpx2.Request) -> httpx2.Response:
        asked.append(1)
        return httpx2.Response(200, json=[], headers={"link": '</api/models>; rel="next"'})

    assert [*PlainReading(connect(answer)).pages(dict[str, str], "/api/models")] == []
    assert len(asked) < 1000


def test_a_hub_below_a_path() -> None:
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        return httpx2.Response(200, json={})

    connect(answer, url="https://acme.example/hub/").ask("GET", "/api/models")
    assert seen == ["https://acme.example/hub/api/models"]


@pytest.mark.parametrize("url", ["ftp://hub.example", "https://", "http://[::1", "http://hub:port"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InvalidSettings):
        Connection(url, "secret").ask("GET", "/")


def test_a_file_is_sent_again_from_its_beginning(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(data + b"what was added since")
    came: list[tuple[str | None, bytes]] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        came.append((request.headers.get("content-length"), request.read()))
        return httpx2.Response(503 if len(came) < 3 else 200)

    body = FileBody(tmp_path / "file", len(data))
    connect(handler).ask("PUT", "/file", content=body, headers=body.headers)
    assert came == [(str(len(data)), data)] * 3


def test_a_file_that_is_no_longer_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"four")
    for path, match in (
        (tmp_path / "file", "has 4 bytes, not 5"),
        (tmp_path / "none", "can no longer be read"),
    ):
        body = FileBody(path, 5)
        with pytest.raises(IntegrityError, match=match):
            connect(lambda request: httpx2.Response(200, content=request.read())).ask(
                "PUT", "/file", content=body, headers=body.headers
            )
