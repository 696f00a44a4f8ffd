"""A large file that is cut off in the middle goes on where it stopped, against a real server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import func, select

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import Forbidden, IntegrityError, Unreachable
from adapthub.adapters.files import sha256_bytes
from adapthub.hub import quotas, sending
from adapthub.hub.checking import check
from adapthub.hub.remote import RemoteHub
from adapthub.hub.storage.upkeep_tables import PendingRow
from adapthub.hub.wire import Parts
from tests import asking
from tests.hub.adapters import contents, write_adapter
from tests.hub.server.live import HubServer
from tests.hub.server.test_our_client import CutBody, Network, open_as

PART = 2**20
SIZE = 5 * PART + 1000
NAME = "spiece.model"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PART_BYTES", PART)


class Counting(Network):
    """The network. The connection is cut once `room` bytes of bodies of PUTs were sent; `sent` are they."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.sent = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "PUT":
            size = int(request.headers["content-length"])
            if self.sent + size > self.room:
                request.stream = CutBody(request.stream, max(1, self.room - self.sent))
            self.sent = min(self.room, self.sent + size)
        return super().handle_request(request)


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    """An adapter with one large file of several parts, two of them equal."""
    folder = write_adapter(tmp_path / "made").path
    (folder / "adapthub.json").unlink(missing_ok=True)
    data = random.Random(1).randbytes(SIZE - PART)
    (folder / NAME).write_bytes(data[:PART] + data)
    return Artifact.read(folder)


def pushed(server: HubServer, network: Network, tmp_path: Path) -> RemoteHub:
    return open_as(server, server.token(), tmp_path / "cache", network)


@pytest.mark.parametrize("room", [1, PART - 1, PART, 3 * PART + 100, 4 * PART + 999])
def test_a_large_file_goes_on_where_it_was_cut(
    hub_server: HubServer, made: Artifact, tmp_path: Path, room: int
) -> None:
    with pytest.raises(Unreachable):
        pushed(hub_server, Counting(room), tmp_path).push(made, "ada/ner")
    others = sum(one.size for path, one in made.files.items() if path.endswith(".safetensors"))
    network = Counting(10 * SIZE)
    hub = pushed(hub_server, network, tmp_path)
    assert hub.push(made, "ada/ner").number == 1
    whole = (SIZE - PART) + others  # equal parts are sent once
    assert network.sent <= whole - (room // PART) * PART + others
    assert contents(hub.pull("ada/ner").path) == contents(made.path)
    store = hub_server.running.serving.store
    with store.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(PendingRow)) == 0
    parts = made.path.joinpath(NAME).read_bytes()
    for begin in range(0, SIZE, PART):
        assert store.blobs.size(sha256_bytes(parts[begin : begin + PART])) is None
    assert check(store).whole


def test_an_answer_that_is_lost_is_asked_for_again(
    hub_server: HubServer, made: Artifact, tmp_path: Path
) -> None:
    """The parts are gone by then."""

    class Forgetful(Counting):
        lost = 0

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            answer = super().handle_request(request)
            if request.method == "POST" and "/blobs/" in request.url.path and self.lost < 2:
                self.lost += 1
                answer.close()
                raise httpx2.ReadError("the connection was cut")
            return answer

    network = Forgetful(10 * SIZE)
    hub = pushed(hub_server, network, tmp_path)
    hub.push(made, "ada/ner")
    assert network.lost == 2
    assert network.sent < SIZE
    assert contents(hub.pull("ada/ner").path) == contents(made.path)


@pytest.mark.parametrize("is_published", [False, True])
def test_of_two_pushes_of_the_same_bytes_both_end_well(
    hub_server: HubServer,
    made: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_published: bool,
) -> None:
    """The second one's file takes the place of the parts while the first one's is put together from them."""
    blobs = hub_server.running.serving.store.blobs
    real, raced = blobs.pieces, list[str]()
    first = pushed(hub_server, Counting(10 * SIZE), tmp_path)
    second = pushed(hub_server, Counting(10 * SIZE), tmp_path / "second")

    def pieces(sha256: str) -> Iterator[bytes]:
        raced.append(sha256)
        # Not on one of the threads that all other requests are answered on.
        assert hub_server.running.serving.large_files.borrowed_tokens > 0
        if len(raced) == 1 and is_published:
            second.push(made, "ada/ner")
        elif len(raced) == 1:
            where = f"/api/models/ada/ner/blobs/{made.files[NAME].sha256}"
            asked = Parts(parts=[*sending._parts(made.path / NAME, SIZE)]).model_dump()
            headers = {"Authorization": f"Bearer {hub_server.token()}"}
            assert asking.post(hub_server.url + where, json=asked, headers=headers).json()["receipt"]
        return real(sha256)

    monkeypatch.setattr(blobs, "pieces", pieces)
    assert first.push(made, "ada/ner").number == 1
    assert contents(first.pull("ada/ner").path) == contents(made.path)


def test_a_file_that_changes_meanwhile_is_refused(
    hub_server: HubServer, made: Artifact, tmp_path: Path
) -> None:
    data = bytearray((made.path / NAME).read_bytes())
    data[-1] ^= 1
    (made.path / NAME).write_bytes(data)
    with pytest.raises(IntegrityError):
        pushed(hub_server, Counting(10 * SIZE), tmp_path).push(made, "ada/ner")


def test_parts_take_room_until_the_file_takes_their_place(
    hub_server: HubServer, made: Artifact, tmp_path: Path
) -> None:
    store = hub_server.running.serving.store
    total = sum(one.size for one in made.files.values())
    for most, enough in ((total - PART, False), (total, True)):
        with store.database.writing() as session:
            quotas.set_quota(session, "ada", most)
        hub = pushed(hub_server, Counting(10 * SIZE), tmp_path)
        if enough:
            assert hub.push(made, "ada/ner").number == 1
        else:
            with pytest.raises(Forbidden, match="may hold"):
                hub.push(made, "ada/ner")
