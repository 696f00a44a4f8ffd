"""A hub that takes what clients upload and keeps nothing: what a push costs a client, whatever the hub does with it.

    python -m benchmarks.hub.forgetful_server

Answers what `upload_folder` asks for by LFS and by Xet, and our own client, as for a new adapter. Hashes and writes
nothing, and looks nothing up. Prints its address as JSON.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from adapthub.hub.wire import PROTOCOL
from benchmarks.hub.static_server import listener

NAME = "bench/pushed"
_COMMIT = "c" * 40


def main() -> None:
    taken, address = listener()
    config = uvicorn.Config(_app(address), lifespan="off", log_config=None, access_log=False)
    print(json.dumps({"address": address}), flush=True)
    asyncio.run(uvicorn.Server(config).serve([taken]))


def _app(address: str) -> Starlette:
    lfs = f"/{NAME}.git/info/lfs/objects"
    grant = {"casUrl": f"{address}/xet", "accessToken": "token", "exp": int(time.time()) + 3600}

    async def preupload(request: Request) -> Response:
        files = [
            {"path": one["path"], "uploadMode": _mode(one["path"]), "shouldIgnore": False}
            for one in (await request.json())["files"]
        ]
        return JSONResponse({"files": files})

    async def batch(request: Request) -> Response:
        objects = [_with_actions(one, f"{address}{lfs}") for one in (await request.json())["objects"]]
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def versions(request: Request) -> Response:
        files = (await request.json())["files"].values()
        missing = [one["sha256"] for one in files if one["content"] is None and one["receipt"] is None]
        return JSONResponse({"version": None if missing else _version(), "missing": missing})

    async def thrown_away(request: Request) -> Response:
        async for _ in request.stream():
            pass
        return JSONResponse({"was_inserted": True, "result": 1, "receipt": "receipt"})

    answers: dict[str, dict[str, Any]] = {
        "/api/repos/create": {"url": f"{address}/{NAME}"},
        "/api/validate-yaml": {"errors": [], "warnings": []},
        f"/api/models/{NAME}/xet-write-token/main": grant,
        f"{lfs}/verify": {},
        f"/api/models/{NAME}/commit/main": {
            "commitOid": _COMMIT,
            "commitUrl": f"{address}/{NAME}/commit/{_COMMIT}",
        },
        "/api/adapthub": {"protocol": PROTOCOL},
    }
    return Starlette(
        routes=[
            *(Route(path, _always(answer), methods=["GET", "POST"]) for path, answer in answers.items()),
            Route(f"/api/models/{NAME}/preupload/main", preupload, methods=["POST"]),
            Route(f"{lfs}/batch", batch, methods=["POST"]),
            Route(f"{lfs}/{{oid}}", thrown_away, methods=["PUT"]),
            Route("/xet/v1/xorbs/default/{hash}", thrown_away, methods=["POST"]),
            Route("/xet/v1/shards", thrown_away, methods=["POST"]),
            Route(f"/api/models/{NAME}/versions", versions, methods=["POST"]),
            Route(f"/api/models/{NAME}/blobs/{{sha256}}", thrown_away, methods=["PUT"]),
        ]
    )


def _always(answer: dict[str, Any]) -> Any:
    async def same(request: Request) -> Response:
        await request.body()
        return JSONResponse(answer)

    return same


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


def _with_actions(one: dict[str, Any], lfs: str) -> dict[str, Any]:
    actions = {"upload": {"href": f"{lfs}/{one['oid']}"}, "verify": {"href": f"{lfs}/verify"}}
    return {"oid": one["oid"], "size": one["size"], "actions": actions}


def _version() -> dict[str, Any]:
    created = datetime.now(UTC).isoformat()
    return {
        "name": NAME,
        "number": 1,
        "digest": f"sha256:{'0' * 64}",
        "created": created,
        "message": "",
        "size": 1,
    }


if __name__ == "__main__":
    main()
