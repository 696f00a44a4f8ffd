"""Requests and answers kept in a file, and a hub that gives those answers again.

`public_exchange.json` has the shape of the public Hub's answers, as what is known of its protocol says. It was NOT recorded
from it: nothing here reaches it. `python -m tests.hub.exchange` makes it of our own server's answers and of what the public
Hub does otherwise: files of LFS are redirected to another host, entries have more fields, training left files, lists have
pages.
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx2

from tests import asking
from tests.hub.adapters import manifest, write_adapter
from tests.hub.server.live import live

FILE = Path(__file__).with_name("public_exchange.json")
HUB = "https://hub.example"
CDN = "https://cdn.example"
_KEPT = ("content-type", "etag", "link", "location", "x-repo-commit", "x-error-code", "x-error-message")


class Replay(httpx2.BaseTransport):
    """Answers as it was recorded; what was not recorded fails the test. `asked`: every request."""

    def __init__(self) -> None:
        self.asked: list[httpx2.Request] = []
        self._answers = {(one["method"], one["url"]): one for one in json.loads(FILE.read_text())}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        one = self._answers[request.method, str(request.url)]
        return httpx2.Response(
            one["status"], headers=one["headers"], content=base64.b64decode(one["body"]), request=request
        )


def record() -> None:
    """Write the file."""
    kept: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, live(Path(folder) / "hub") as server:
        api = server.client("acme")
        adapters = [write_adapter(Path(folder) / str(seed), seed=seed, card=_card(seed)) for seed in range(2)]
        adapters.append(write_adapter(Path(folder) / "2", seed=2, card=_card(2), manifest=manifest()))
        api.create_repo("acme/ner")
        for number, adapter in enumerate(adapters, start=1):
            api.upload_folder(repo_id="acme/ner", folder_path=adapter.path, commit_message=f"Upload {number}")
        api.create_tag("acme/ner", tag="release", revision="v2")
        model = "/api/models/acme/ner"
        commits = [one.commit_id for one in api.list_repo_commits("acme/ner")]
        paths = ["/api/adapthub", model, f"{model}/refs", f"{model}/commits/main", "/api/models/acme/none"]
        paths += [f"{model}/revision/{one}" for one in ("release", "main", "nothing", *commits)]
        paths += [f"{model}/tree/{commit}?recursive=false" for commit in commits]
        paths += [f"/acme/ner/resolve/{commit}/{name}" for commit in commits for name in adapters[2].files]
        paths += ["/api/models?author=acme&filter=peft&full=true&cardData=true&limit=100"]
        for path in paths:
            answer = asking.get(server.url + path)
            kept += _as_the_public_hub(path, answer, server.url)
    FILE.write_text(json.dumps(kept, indent=1) + "\n")


def _as_the_public_hub(path: str, answer: httpx2.Response, server: str) -> list[dict[str, Any]]:
    body, status = answer.content.replace(server.encode(), HUB.encode()), answer.status_code
    headers = {name: value for name, value in answer.headers.items() if name in _KEPT}
    if path == "/api/adapthub":
        return [
            _entry(
                f"{HUB}{path}", 404, {}, b'{"error":"Sorry, we can\'t find the page you are looking for."}'
            )
        ]
    if status == 200 and path.endswith(".safetensors"):
        there = f"{CDN}/{answer.headers['etag'].strip(chr(34))}?X-Amz-Signature=1"
        moved = {
            **headers,
            "location": there,
            "x-linked-etag": headers["etag"],
            "x-linked-size": str(len(body)),
        }
        return [_entry(f"{HUB}{path}", 302, moved, b""), _entry(there, 200, {"etag": '"other"'}, body)]
    if status == 200 and "/tree/" in path:
        body = json.dumps(_with_more_files(json.loads(body))).encode()
    if status == 200 and path.startswith("/api/models?"):
        first = json.loads(body)[0] | {"downloads": 12, "likes": 3, "trendingScore": 0, "private": False}
        second = {
            "id": "acme/zeta",
            "tags": ["peft", "base_model:adapter:org/other", "lora"],
            "pipeline_tag": None,
        }
        next_page = f"{HUB}{path}&cursor=eyJfaWQi"
        link = {**headers, "link": f'<{next_page}>; rel="next"'}
        return [
            _entry(f"{HUB}{path}", 200, link, json.dumps([first]).encode()),
            _entry(next_page, 200, headers, json.dumps([second, {"id": "gpt2", "tags": ["peft"]}]).encode()),
        ]
    return [_entry(f"{HUB}{path}", status, headers, body)]


def _with_more_files(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for item in items:
        item["securityFileStatus"] = {"status": "safe"}
        if "lfs" in item:
            item["xetHash"] = "ab" * 32
    lfs = {"oid": "cd" * 32, "size": 5304, "pointerSize": 129}
    return [
        {"type": "directory", "oid": "ef" * 20, "size": 0, "path": "runs"},
        {"type": "file", "oid": "ef" * 20, "size": 1519, "path": ".gitattributes"},
        {"type": "file", "oid": "ef" * 20, "size": 5304, "path": "training_args.bin", "lfs": lfs},
        *items,
    ]


def _entry(url: str, status: int, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    return {
        "method": "GET",
        "url": url,
        "status": status,
        "headers": headers,
        "body": base64.b64encode(body).decode(),
    }


def _card(seed: int) -> str:
    return f"---\nbase_model: org/base\nlibrary_name: peft\npipeline_tag: token-classification\n---\n# Names {seed}\n"


if __name__ == "__main__":
    record()
