"""Clients that are slow or broken, and what the log says of them and of others."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from adapthub.hub.server.lifecycle import Running
from adapthub.hub.server.serving import Limits
from adapthub.web import logs
from tests import asking
from tests.hub.server.live import HubServer, live
from tests.web.live import eventually
from tests.web.raw import connected, read_all
from tests.web.strangers import Connections


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    limits = Limits(body_seconds=0.7, body_rate=1 << 30)
    with live(tmp_path_factory.mktemp("strangers") / "hub", limits=limits) as server:
        yield server


@pytest.fixture
def strict(hub: HubServer) -> Running:
    return hub.running


class TestConnections(Connections):
    def test_a_download_that_is_not_read_is_cut_off(
        self, hub: HubServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        size = 16 << 20  # more than lies between a server and its client
        api = hub.client()
        api.create_repo("ada/large")
        api.upload_file(path_or_fileobj=bytes(size), path_in_repo="a.dat", repo_id="ada/large")
        with caplog.at_level(logging.INFO, logs.__name__), connected(hub.running) as unread:
            unread.sendall(b"GET /ada/large/resolve/main/a.dat HTTP/1.1\r\nhost: localhost\r\n\r\n")
            eventually(lambda: "GET /ada/large/resolve/main/a.dat" in caplog.messages, "it waits for ever")
            assert len(read_all(unread)) < size


def test_every_request_has_a_line_without_its_query(hub: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"Authorization": f"Bearer {hub.token('eve')}"}
    with caplog.at_level(logging.INFO, logs.__name__):
        answer = asking.get(f"{hub.url}/api/models/ada/none?secret=1", headers=headers)
        asking.get(f"{hub.url}/health")
        eventually(lambda: bool(caplog.records), "nothing is logged")
    (line,) = (record for record in caplog.records if record.name == logs.__name__)
    assert line.getMessage() == "GET /api/models/ada/none"
    fields = vars(line)["fields"]
    assert (fields["status"], fields["account"]) == (404, "eve")
    assert fields["id"] == answer.headers["x-request-id"]
    assert "secret" not in str(vars(line))
