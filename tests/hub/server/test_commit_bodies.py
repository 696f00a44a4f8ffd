"""Commits as they are sent: read a text at a time, of large ones one in the whole server."""

from __future__ import annotations

import base64
import io
import json
from threading import Lock
from typing import Any

import pytest

from adapthub.adapters.errors import AdaptHubError, InvalidSettings
from adapthub.adapters.files import sha256_bytes
from adapthub.hub.server.commit_bodies import Body, LfsFile, read_commit
from adapthub.hub.server.receiving import LARGE_BYTES
from adapthub.hub.trees import Blob, Delete, Put

HEADER = {"key": "header", "value": {"summary": "x"}}


class Kept:
    """The texts that were kept, and whether the lock was held then."""

    def __init__(self) -> None:
        self.large = Lock()
        self.texts: dict[str, tuple[bytes, bool]] = {}

    def keep(self, path: str, data: bytes) -> Blob:
        self.texts[path] = (data, self.large.locked())
        return Blob(sha256_bytes(data), len(data))


def text(path: str, data: bytes, encoding: str = "base64") -> dict[str, Any]:
    content = base64.b64encode(data).decode() if encoding == "base64" else data.decode()
    return {"key": "file", "value": {"path": path, "content": content, "encoding": encoding}}


def read(kept: Kept, *lines: dict[str, Any], end: bytes = b"\n") -> Body:
    body = b"\n\n".join(json.dumps(line).encode() for line in lines) + end
    return read_commit(io.BytesIO(body), kept.keep, kept.large)


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_what_a_commit_says(end: bytes) -> None:
    kept = Kept()
    lfs = {"path": "a.safetensors", "oid": "0" * 64, "size": 3}
    body = read(
        kept,
        HEADER,
        text("a.txt", b"hello"),
        {"key": "lfsFile", "value": lfs},
        {"key": "deletedFile", "value": {"path": "gone"}},
        {"key": "deletedFolder", "value": {"path": "/old/"}},
        text("b.txt", b"plain", "utf-8"),
        end=end,
    )
    assert body.header.summary == "x"
    assert body.changes == [
        Put("a.txt", Blob(sha256_bytes(b"hello"), 5)),
        LfsFile.model_validate(lfs),
        Delete("gone"),
        Delete("old", folder=True),
        Put("b.txt", Blob(sha256_bytes(b"plain"), 5)),
    ]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_large_text_is_alone(end: bytes) -> None:
    kept = Kept()
    large = bytes(range(256)) * (LARGE_BYTES // 256)
    read(kept, HEADER, text("1", b"a"), text("2", large), text("3", b"b"), text("4", large), end=end)
    assert kept.texts == {"1": (b"a", False), "2": (large, True), "3": (b"b", False), "4": (large, True)}
    assert not kept.large.locked()


@pytest.mark.parametrize(
    "line",
    [
        {"key": "file", "value": {"path": "a", "content": "?" * LARGE_BYTES}},
        {"key": "file", "value": {"path": "../a", "content": "a" * LARGE_BYTES}},
        {"key": "file", "value": {"content": "a" * LARGE_BYTES}},
        {"key": "surprise", "value": "a" * LARGE_BYTES},
        ["a" * LARGE_BYTES],
    ],
)
def test_after_one_that_is_refused_others_go_on(line: Any) -> None:
    kept = Kept()
    with pytest.raises(AdaptHubError) as caught:
        read(kept, HEADER, line)
    assert not kept.large.locked()  # while the error, and the frames that it has, are still held
    assert len(str(caught.value)) < 500


def test_a_commit_without_a_header() -> None:
    with pytest.raises(InvalidSettings, match="no line of the key 'header'"):
        read(Kept(), text("a.txt", b""))
