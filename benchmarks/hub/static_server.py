"""The peer of a hub: a folder as the repository acme/static, by as little of the protocol as `snapshot_download` asks for.

    python -m benchmarks.hub.static_server FOLDER

Looks nothing up: every answer but the files' bytes is made before the first request. Prints its address as JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from adapthub.adapters.files import sha256_bytes

NAME = "acme/static"
_COMMIT = "c" * 40


def main() -> None:
    files = {path.name: path for path in sorted(Path(sys.argv[1]).iterdir())}
    taken, address = listener()
    config = uvicorn.Config(_app(files), lifespan="off", log_config=None, access_log=False)
    print(json.dumps({"address": address}), flush=True)
    asyncio.run(uvicorn.Server(config).serve([taken]))


def listener() -> tuple[socket.socket, str]:
    """A free port of this machine, taken, and its URL."""
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # else asyncio delays
    taken.bind(("127.0.0.1", 0))
    taken.listen()  # its address is told before the server runs
    return taken, f"http://127.0.0.1:{taken.getsockname()[1]}"


def _app(files: dict[str, Path]) -> Starlette:
    digests = {name: sha256_bytes(path.read_bytes()) for name, path in files.items()}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    siblings = [{"rfilename": name} for name in files]
    known = {"_id": "0", "id": NAME, "sha": _COMMIT, "private": False, "tags": [], "siblings": siblings}
    listed: list[dict[str, Any]] = [
        {"type": "file", "path": name, "size": sizes[name], "oid": digests[name][:40]} for name in files
    ]
    headers = {
        name: {"ETag": f'"{digest}"', "X-Repo-Commit": _COMMIT, "Accept-Ranges": "bytes"}
        for name, digest in digests.items()
    }

    async def info(_: Request) -> Response:
        return JSONResponse(known)

    async def tree(_: Request) -> Response:
        return JSONResponse(listed)

    async def resolve(request: Request) -> Response:
        name = request.path_params["path"]
        if request.method == "HEAD":
            return Response(headers={**headers[name], "Content-Length": str(sizes[name])})
        return FileResponse(files[name], headers=headers[name])

    return Starlette(
        routes=[
            Route(f"/api/models/{NAME}", info),
            Route(f"/api/models/{NAME}/revision/{{revision}}", info),
            Route(f"/api/models/{NAME}/tree/{{revision}}", tree),
            Route(f"/{NAME}/resolve/{{revision}}/{{path:path}}", resolve, methods=["GET", "HEAD"]),
        ]
    )


if __name__ == "__main__":
    main()
