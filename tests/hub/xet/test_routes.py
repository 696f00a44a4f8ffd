"""The facade's addresses over a socket: hostile and broken clients, and many at once."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from adapthub.hub.server.xet import WriteGrant, XetLimits
from tests import asking
from tests.hub.xet.encoding import encode_xorb, shard_of
from tests.hub.xet.stub import Stub, running

XORB = encode_xorb([b"first ", b"second "])


LIMITS = XetLimits(xorb_bytes=100_000, shard_bytes=10_000)


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    with running(tmp_path / "xet", LIMITS) as stub:
        yield stub


def granted(stub: Stub) -> tuple[WriteGrant, httpx2.Client]:
    grant = stub.facade.grant("acme/ner", "alice", stub.url)
    return grant, asking.client(
        base_url=grant.cas_url, headers={"Authorization": f"Bearer {grant.access_token}"}
    )


def settled(stub: Stub) -> None:
    """Nothing is left of bodies that did not come whole."""
    for _ in range(500):
        if not stub.incoming():
            return
        time.sleep(0.01)
    assert stub.incoming() == []


def test_what_is_not_offered(stub: Stub) -> None:
    _, client = granted(stub)
    with client:
        for method, path in [
            ("GET", f"v1/chunks/default-merkledb/{XORB.name}"),
            ("POST", "v1/xorb-grants"),
            ("POST", "v2/shards"),
            ("GET", f"v1/reconstructions/{XORB.name}"),
            ("POST", f"v1/xorbs/other/{XORB.name}"),
        ]:
            answer = client.request(method, path)
            assert answer.status_code == 404
            assert "takes xorbs and shards" in answer.json()["error"]


def test_who_may_not(stub: Stub) -> None:
    grant, client = granted(stub)
    with client:
        for headers in ({"Authorization": ""}, {"Authorization": f"Basic {grant.access_token}"}):
            assert client.post("v1/shards", headers=headers).status_code == 401
        assert client.post("v1/shards", headers={"Authorization": "Bearer x"}).status_code == 401
        stub.store.writers.clear()
        assert client.post(f"v1/xorbs/default/{XORB.name}", content=XORB.data).status_code == 403
    assert list(stub.root.rglob(XORB.name)) == []


def test_bodies_that_are_refused(stub: Stub) -> None:
    _, client = granted(stub)
    with client:
        for name, body, status in [
            (XORB.name, b"junk", 400),
            ("x", XORB.data, 400),
            ("..%2f..%2fx", XORB.data, 404),
            (encode_xorb([b"x"]).name, XORB.data, 400),
            (XORB.name, bytes(100_001), 413),
        ]:
            assert client.post(f"v1/xorbs/default/{name}", content=body).status_code == status
        in_pieces = client.post(f"v1/xorbs/default/{XORB.name}", content=(bytes(30_000) for _ in range(4)))
        assert in_pieces.status_code == 413
        assert client.post("v1/shards", content=b"").status_code == 400
        assert client.post("v1/shards", content=bytes(10_001)).status_code == 413
        assert (
            "is not kept here"
            in client.post("v1/shards", content=shard_of(b"", [XORB.term()])).json()["error"]
        )
    settled(stub)


def send(stub: Stub, grant: WriteGrant, data: bytes, announced: int) -> socket.socket:
    path = grant.cas_url.removeprefix(stub.url)
    connection = socket.create_connection(("127.0.0.1", int(stub.url.rpartition(":")[2])))
    connection.sendall(
        f"POST {path}/v1/xorbs/default/{XORB.name} HTTP/1.1\r\nhost: x\r\ncontent-length: {announced}\r\n"
        f"authorization: Bearer {grant.access_token}\r\n\r\n".encode()
        + data
    )
    return connection


def test_a_client_that_is_cut_off(stub: Stub) -> None:
    """Nothing of it stays, and its next try is as any other."""
    grant, client = granted(stub)
    send(stub, grant, XORB.data[:-3], len(XORB.data)).close()
    while not any("xorbs" in path for _, path, _ in stub.requests):
        time.sleep(0.01)
    settled(stub)
    assert list(stub.root.rglob(XORB.name)) == []
    with client:
        assert client.post(f"v1/xorbs/default/{XORB.name}", content=XORB.data).json() == {
            "was_inserted": True
        }


def test_a_client_that_stops_sending(tmp_path: Path) -> None:
    with running(tmp_path / "xet", replace(LIMITS, body_seconds=0.5)) as stub:
        grant, _ = granted(stub)
        with send(stub, grant, XORB.data[:-3], len(XORB.data)) as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
        settled(stub)


def test_many_at_once(stub: Stub) -> None:
    """Half of them send what the others send too."""

    def upload(number: int) -> bool:
        data = random.Random(number // 2).randbytes(50_000)
        xorb = encode_xorb([data[:20_000], data[20_000:]])
        _, client = granted(stub)
        with client:
            client.post(f"v1/xorbs/default/{xorb.name}", content=xorb.data).raise_for_status()
            client.post("v1/shards", content=shard_of(data, [xorb.term()])).raise_for_status()
        return data in stub.store.files.values()

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(upload, range(32)))
    assert len(stub.store.files) == 16
    settled(stub)
