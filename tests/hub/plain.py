"""A real server that answers in the Hugging Face protocol alone: what is AdaptHub's own is not there for this client."""

from __future__ import annotations

import httpx2

from tests import asking

OWN = ("/api/adapthub", "/api/adapters")
OWN_PARTS = ("/versions", "/aliases", "/available", "/may-push", "/blobs/")


class PlainOnly(httpx2.HTTPTransport):
    """The network, but for what a plain hub has not got. `asked`: method and path of every request."""

    def __init__(self) -> None:
        super().__init__(verify=asking.CERTIFICATES)
        self.asked: list[tuple[str, str]] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        self.asked.append((request.method, path))
        if path in OWN:
            return httpx2.Response(404, request=request)
        assert not any(part in path for part in OWN_PARTS), path
        return super().handle_request(request)
