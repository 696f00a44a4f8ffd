"""Bounds on bodies, each kept however the body comes."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import pytest
from fastapi import FastAPI, Request

from adapthub.web.bodies import BoundedBodies, Bounds, read_body
from adapthub.web.running import Running
from tests import asking
from tests.web.raw import answer_to, connected
from tests.web.serving import served

BOUNDS = Bounds(1000, 0.5, parts=100, keys=50)


def application(bounds: Bounds) -> FastAPI:
    app = FastAPI()
    app.add_middleware(BoundedBodies, bounds=bounds)

    @app.post("/json")
    async def json(request: Request) -> int:
        return len(await request.body())

    @app.post("/large")
    async def large(request: Request) -> int:
        return len(await read_body(request, 5000))

    return app


@pytest.fixture(scope="module")
def server() -> Iterator[Running[None]]:
    with served(application(BOUNDS)) as running:
        yield running


def pieces(body: bytes) -> Iterator[bytes]:
    """Of unknown length, for who receives it."""
    for start in range(0, len(body), 300):
        yield body[start : start + 300]


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("json", b"x" * 1000, 200),
        ("json", b"x" * 1001, 413),
        ("json", b"[{," * 33 + b"[", 200),
        ("json", b"[{," * 33 + b"[[", 413),
        ("json", b":" * 50, 200),
        ("json", b":" * 51, 413),
        ("large", b"x" * 5000, 200),
        ("large", b"x" * 5001, 413),
        ("large", b"[{," * 34, 413),
    ],
)
def test_what_a_body_may_be(
    server: Running[None], path: str, body: bytes, status: int, in_pieces: bool
) -> None:
    content = pieces(body) if in_pieces else body
    answer = asking.post(f"{server.address}/{path}", content=content)
    assert (answer.status_code, answer.status_code == 200 and answer.json() == len(body)) == (
        status,
        status == 200,
    )


def test_one_that_is_declared_too_large_is_refused_before_it_comes(server: Running[None]) -> None:
    head = b"POST /json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 1001\r\n\r\n"
    assert b"larger than 1,000 bytes" in answer_to(server, head)


def test_one_that_comes_too_slowly(server: Running[None]) -> None:
    head = b"POST /json HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nx"
    answer = answer_to(server, head)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"took longer than 0.5 s" in answer


def test_what_has_come_gives_more_time() -> None:
    """At a rate of 100 bytes a second, 900 bytes are good for nine more seconds."""
    with served(application(Bounds(1000, 0.2, 100))) as server, connected(server) as client:
        head = b"POST /json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 901\r\n\r\n"
        client.sendall(head + b"x" * 900)
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.recv(100)
        client.sendall(b"x")
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_there_are_no_bounds_but_those_that_are_given() -> None:
    assert Bounds(1, 1) == Bounds(1, 1, inf, inf, inf)
