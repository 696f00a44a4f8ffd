"""What every server bears of strangers' connections: one suite, for each of the servers that we have."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from adapthub.web.running import Running
from tests import asking
from tests.web.raw import answer_to, connected, read_all


class Connections:
    """The fixture `strict` is a server that gives headers 0.7 s."""

    def test_headers_that_come_too_slowly(self, strict: Running[Any]) -> None:
        """One connection in silence, one that goes on and on."""
        with connected(strict) as silent, connected(strict) as dripping:
            dripping.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
            stopped = threading.Event()

            def drip() -> None:
                while not stopped.wait(0.1):
                    try:
                        dripping.sendall(b"x-more: y\r\n")
                    except OSError:
                        return

            thread = threading.Thread(target=drip)
            thread.start()
            try:
                assert read_all(silent).startswith(b"HTTP/1.1 408 ")
                assert b"headers took longer than 0.7 s" in read_all(dripping)
            finally:
                stopped.set()
                thread.join()

    def test_many_in_silence_keep_nobody_out(self, strict: Running[Any]) -> None:
        silent = [connected(strict) for _ in range(200)]
        try:
            assert asking.get(f"{strict.address}/health").status_code == 200
            assert all(read_all(client).startswith(b"HTTP/1.1 408 ") for client in silent)
        finally:
            for client in silent:
                client.close()

    def test_a_second_request_gets_its_time_anew(self, strict: Running[Any]) -> None:
        with connected(strict) as client:
            for _ in range(2):
                client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
                answer = b""
                while not answer.endswith(b"}"):
                    answer += client.recv(1 << 16)
                assert answer.startswith(b"HTTP/1.1 200 ")
            client.sendall(b"GET /health HTTP/1.1\r\n")
            assert read_all(client).startswith(b"HTTP/1.1 408 ")

    def test_headers_that_are_too_large(self, strict: Running[Any]) -> None:
        endless = b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-large: " + b"y" * 200_000
        assert answer_to(strict, endless).startswith(b"HTTP/1.1 431 ")

    @pytest.mark.parametrize(
        "request_",
        [
            b"no http at all\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost x\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabc",
            b"POST /v1/completions HTTP/1.1\r\nhost: [::1]\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc",
            b"GET /\x00 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        ],
    )
    def test_what_is_no_http(self, strict: Running[Any], request_: bytes) -> None:
        """It is answered as any other error of the server."""
        head, _, body = answer_to(strict, request_).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        answer = asking.get(f"{strict.address}/there/is/no/such/address/at/all")
        assert answer.status_code == 404
        assert shape(json.loads(body)) == shape(answer.json())

    def test_upgrades_are_not_taken(self, strict: Running[Any]) -> None:
        request = (
            b"GET /health HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n"
            b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
        )
        assert answer_to(strict, request).startswith(b"HTTP/1.1 200 ")

    def test_every_request_has_an_id(self, strict: Running[Any]) -> None:
        """What is answered and what is refused, each another one."""
        answers = [asking.get(f"{strict.address}/{path}") for path in ("health", "health", "no/such/address")]
        assert len({answer.headers["x-request-id"] for answer in answers}) == 3


def shape(value: Any) -> Any:
    """The names in a JSON document, without what they stand for."""
    return {name: shape(inner) for name, inner in value.items()} if isinstance(value, dict) else None
