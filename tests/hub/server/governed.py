"""What the tests of gates, members and webhooks share: requests with a token, signed adapters, and a receiver."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

from adapthub.hub.accounts import Scope
from tests import asking
from tests.hub.server.live import HubServer


class Api:
    """The hub's own endpoints, as the account `name`."""

    def __init__(self, server: HubServer, name: str, scope: Scope = "write") -> None:
        self.token = server.token(name, scope)
        self._url = server.url

    def raw(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """One request."""
        headers = {"authorization": f"Bearer {self.token}"}
        with asking.client(headers=headers, verify=False) as client:  # without TLS
            return client.request(method, self._url + path, **options)

    def __call__(self, method: str, path: str, body: object = None, **options: Any) -> Any:
        """The answer of one that is not refused."""
        answer = self.raw(method, path, **options, **({} if body is None else {"json": body}))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, method: str, path: str, body: object = None, status: int = 403) -> str:
        """Why a request is refused."""
        answer = self.raw(method, path, **({} if body is None else {"json": body}))
        assert answer.status_code == status, answer.text
        message: str = answer.json()["error"]
        return message


@dataclass
class Received:
    """A request that the receiver got."""

    headers: dict[str, str]
    body: bytes

    @property
    def type(self) -> str:
        """The event's."""
        kind: str = json.loads(self.body)["type"]
        return kind


@dataclass
class Receiver:
    """Answers with `statuses`, one after another and the last for ever, and keeps what it got."""

    statuses: list[int] = field(default_factory=lambda: [200])
    got: list[Received] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)
    url: str = ""

    def wait_for(self, enough: Callable[[list[Received]], bool]) -> list[Received]:
        """What it got, once that is enough."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: enough(self.got), timeout=60), self.got
            return list(self.got)


@contextmanager
def receiver(
    *statuses: int, headers: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[Receiver]:
    """Within: a real HTTP server on loopback; with `tls`, for HTTPS."""
    kept = Receiver(list(statuses) or [200])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with kept.arrived:
                status = kept.statuses[min(len(kept.got), len(kept.statuses) - 1)]
                kept.got.append(Received({k.lower(): v for k, v in self.headers.items()}, body))
                kept.arrived.notify_all()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    kept.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
