"""As much of a hub as an upload needs: create, preupload, write token, commit, and the facade; served on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from adapthub.adapters.errors import (
    AdaptHubError,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    Unauthorized,
)
from adapthub.hub.server.xet import XetFacade, XetLimits, xet_router
from adapthub.web.bodies import BoundedBodies, Bounds
from tests.hub.xet.memory import MemoryStore

STATUS: list[tuple[type[AdaptHubError], int]] = [
    (Unauthorized, 401),
    (Forbidden, 403),
    (NotFound, 404),
    (Overloaded, 503),
    (InvalidInput, 400),
    (AdaptHubError, 400),
]


@dataclass
class Stub:
    """A running hub: where, what it stored, what it was asked."""

    root: Path
    store: MemoryStore
    facade: XetFacade
    url: str = ""
    committed: dict[str, str] = field(default_factory=dict)  # path to sha256
    requests: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, status
    casts: list[str] = field(default_factory=list)  # addresses handed out

    def xorbs_received(self) -> int:
        return sum("/v1/xorbs/" in path and status == 200 for _, path, status in self.requests)

    def incoming(self) -> list[Path]:
        return list((self.root / "incoming").iterdir())


def application(stub: Stub) -> FastAPI:
    app = FastAPI()
    app.state.xet = stub.facade
    app.add_middleware(BoundedBodies, bounds=Bounds(1 << 20, 60))
    app.include_router(xet_router)

    @app.exception_handler(AdaptHubError)
    def failed(request: Request, error: AdaptHubError) -> JSONResponse:
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        return JSONResponse({"error": str(error)}, status, {"X-Error-Message": str(error)})

    @app.exception_handler(ClientDisconnect)
    def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.middleware("http")
    async def recorded(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        stub.requests.append((request.method, request.url.path, response.status_code))
        return response

    @app.post("/api/repos/create")
    async def create(request: Request) -> dict[str, str]:
        return {"url": f"{stub.url}/acme/{(await request.json())['name']}"}

    @app.post("/api/models/{ns}/{name}/preupload/{revision}")
    async def preupload(request: Request) -> dict[str, Any]:
        files = (await request.json())["files"]
        return {
            "files": [{"path": file["path"], "uploadMode": "lfs", "shouldIgnore": False} for file in files]
        }

    @app.get("/api/models/{ns}/{name}/xet-write-token/{revision}")
    def write_token(ns: str, name: str) -> JSONResponse:
        grant = stub.facade.grant(f"{ns}/{name}", "alice", stub.url)
        stub.casts.append(grant.cas_url)
        return JSONResponse(grant.body, headers=grant.headers)

    @app.post("/api/models/{ns}/{name}/commit/{revision}")
    async def commit(request: Request, ns: str, name: str) -> JSONResponse:
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            if entry["key"] == "lfsFile":
                sha256 = entry["value"]["oid"]
                if not stub.store.holds(sha256):
                    return JSONResponse({"error": f"no file {sha256}"}, 400)
                stub.committed[entry["value"]["path"]] = sha256
        oid = "0" * 40
        return JSONResponse({"commitOid": oid, "commitUrl": f"{stub.url}/{ns}/{name}/commit/{oid}"})

    return app


@contextmanager
def running(root: Path, limits: XetLimits | None = None) -> Iterator[Stub]:
    """A stub hub that answers on a port of its own."""
    store = MemoryStore()
    stub = Stub(root, store, XetFacade(root, store, b"secret", limits))
    server = uvicorn.Server(uvicorn.Config(application(stub), port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        stub.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield stub
    finally:
        server.should_exit = True
        thread.join()
