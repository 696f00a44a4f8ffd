"""Webhooks with a real receiver on loopback: signed, tried again, kept across a kill, and sent nowhere private unasked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, update
from sqlalchemy.orm import Session
from standardwebhooks import Webhook, WebhookVerificationError

from adapthub.adapters.errors import Conflict, InvalidReference, InvalidSettings
from adapthub.hub import webhooks
from adapthub.hub.audit import MACHINE
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.events import happened
from adapthub.hub.server.webhook_sender import WebhookSettings, is_public, send, send_due
from adapthub.hub.storage.governance_tables import DeliveryRow, WebhookRow
from adapthub.hub.store import Store
from tests.hub.adapters import write_adapter
from tests.hub.server.governed import Api, receiver
from tests.hub.server.live import live

LOOPBACK = WebhookSettings(private=True, schedule=(0.0, 0.0), poll=0.02)


def hooked(root: Path, url: str, **options: object) -> str:
    """A hub with a webhook on acme/, and its secret."""
    with Store.open(root).database.writing() as session:
        return webhooks.add(session, "acme", url, **options)[1]  # type: ignore[arg-type]


def states(root: Path) -> list[tuple[str, int, str | None]]:
    with Store.open(root).database.reading() as session:
        return [
            (one.state, one.attempts, one.answer)
            for hook in webhooks.list_all(session)
            for one in webhooks.deliveries(session, webhooks.require(session, hook.id))
        ]


def test_what_happens_is_told_and_signed(tmp_path: Path) -> None:
    with receiver() as got, live(tmp_path / "hub", webhooks=LOOPBACK) as server:
        ada = Api(server, "ada")
        ada("POST", "/api/namespaces/acme/create")
        made = ada("POST", "/api/namespaces/acme/webhooks", {"url": got.url})
        assert "secret" not in json.dumps(ada("GET", "/api/namespaces/acme/webhooks"))
        api = server.client()
        api.create_repo("acme/ner")
        api.upload_folder(repo_id="acme/ner", folder_path=write_adapter(tmp_path / "made").path)
        ada("PUT", "/api/namespaces/acme/gates", {"alias": "prod", "reviewers": 1})
        ada.refused("PUT", "/api/models/acme/ner/aliases/prod", {"revision": "v1"})
        ada("PUT", "/api/models/acme/ner/aliases/staging", {"revision": "v1"})
        api.delete_repo("acme/ner")
        api.create_repo("elsewhere/ner")
        found = got.wait_for(lambda all: len(all) == 5)
        check = Webhook(made["secret"])
        for request in found:
            assert check.verify(request.body, request.headers)["data"]["repo"] == "acme/ner"
            with pytest.raises(WebhookVerificationError):
                check.verify(request.body.replace(b"acme", b"evil"), request.headers)
        assert {request.type for request in found} == {*webhooks.EVENTS} - {"signature", "history.rewritten"}
        assert len({request.headers["webhook-id"] for request in found}) == 5
        version = next(json.loads(one.body) for one in found if one.type == "version")
        assert (version["data"]["actor"], version["data"]["version"]) == ("ada", 1)
        ada("POST", f"/api/namespaces/acme/webhooks/{made['id']}/test")
        assert got.wait_for(lambda all: len(all) == 6)[-1].type == "ping"
        ada("DELETE", f"/api/namespaces/acme/webhooks/{made['id']}")
        assert ada("GET", "/api/namespaces/acme/webhooks") == []


def test_only_what_was_asked_for(tmp_path: Path) -> None:
    hub = EmbeddedHub(tmp_path / "hub")
    hooked(tmp_path / "hub", "https://ci.example.com/", name="ner", events=["alias.moved"])
    hub.push(write_adapter(tmp_path / "1"), "acme/ner", alias="prod")
    hub.push(write_adapter(tmp_path / "2"), "acme/other", alias="prod")
    assert states(tmp_path / "hub") == [("waiting", 0, None)]


def test_it_is_tried_again_with_the_same_id_until_it_is_given_up(tmp_path: Path) -> None:
    root, store = tmp_path / "hub", Store.open(tmp_path / "hub")
    with receiver(500, 503, 204, 302, 404, 400) as got:
        hooked(root, got.url, events=["version"])
        EmbeddedHub(root).push(write_adapter(tmp_path / "1", seed=1), "acme/ner")
        assert send_due(store.database, LOOPBACK) == 3
        assert states(root) == [("arrived", 3, "status 204")]
        assert len({one.headers["webhook-id"] for one in got.got}) == 1
        EmbeddedHub(root).push(write_adapter(tmp_path / "2", seed=2), "acme/ner")
        assert send_due(store.database, LOOPBACK) == 3
        assert states(root)[0] == ("given up", 3, "status 400")


def test_each_wait_is_longer(tmp_path: Path) -> None:
    root, store = tmp_path / "hub", Store.open(tmp_path / "hub")
    waits = []
    with receiver(500) as got:
        hooked(root, got.url, events=["version"])
        EmbeddedHub(root).push(write_adapter(tmp_path / "1"), "acme/ner")
        settings = WebhookSettings(private=True)
        for _ in settings.schedule:
            assert send_due(store.database, settings) == 1
            assert send_due(store.database, settings) == 0
            with store.database.writing() as session:
                row = session.query(DeliveryRow).one()
                assert row.due is not None
                waits.append(row.due - datetime.now(UTC))
                row.due = datetime.now(UTC)
        assert send_due(store.database, settings) == 1
    assert waits == sorted(waits)
    assert timedelta(days=3) < sum(waits, timedelta()) < timedelta(days=3.5)
    assert states(root) == [("given up", 10, "status 500")]


@pytest.mark.slow
def test_what_was_taken_by_a_server_that_was_killed_is_sent_again(tmp_path: Path) -> None:
    """The receiver has got it, and the server dies before it hears so."""
    root = tmp_path / "hub"
    listener = socket.create_server(("127.0.0.1", 0))
    hooked(root, f"http://127.0.0.1:{listener.getsockname()[1]}/", events=["version"])
    EmbeddedHub(root).push(write_adapter(tmp_path / "1"), "acme/ner")
    code = (
        "import sys, pathlib; from adapthub.hub.store import Store;"
        "from adapthub.hub.server.webhook_sender import WebhookSettings, send_due;"
        "send_due(Store.open(pathlib.Path(sys.argv[1])).database, WebhookSettings(private=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(root)]) as sender:
        connection, _ = listener.accept()
        with connection:
            first = connection.recv(4096)
            os.kill(sender.pid, signal.SIGKILL)
        sender.wait()
    listener.close()
    assert states(root) == [("waiting", 1, None)]
    store = Store.open(root)
    assert send_due(store.database, LOOPBACK) == 0
    with receiver() as got, store.database.writing() as session:
        session.execute(update(DeliveryRow).values(due=datetime.now(UTC)))
        session.execute(update(WebhookRow).values(url=got.url))
        session.commit()
        assert send_due(store.database, LOOPBACK) == 1
        assert got.got[0].headers["webhook-id"].encode() in first


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def test_of_two_servers_one_sends(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("new_database")() if kind == "postgres" else None
    store, other = (Store.open(tmp_path, database=url) for _ in range(2))
    with receiver() as got:
        with store.database.writing() as session:
            made, _ = webhooks.add(session, "acme", got.url)
            for _ in range(20):
                webhooks.ping(session, webhooks.require(session, made.id))
        settings = WebhookSettings(private=True)
        with ThreadPoolExecutor(2) as pool:
            sent = [*pool.map(lambda one: send_due(one.database, settings), (store, other))]
        assert sum(sent) == 20
        assert len({one.headers["webhook-id"] for one in got.got}) == len(got.got) == 20


def test_an_event_that_did_not_happen_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "hub"
    hooked(root, "https://ci.example.com/")
    hub = EmbeddedHub(root)
    monkeypatch.setattr("adapthub.hub.publishing.promote", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hub.push(write_adapter(tmp_path / "1"), "acme/ner", alias="prod")
    assert states(root) == []


PRIVATE = {
    "http://127.0.0.1:9/": "127.0.0.1",
    "http://localhost:9/": "not of the public internet",
    "http://[::1]:9/": "::1",
    "http://10.1.2.3/": "10.1.2.3",
    "http://169.254.169.254/latest/meta-data/": "169.254.169.254",
    "http://[::ffff:127.0.0.1]/": "not of the public internet",
    "http://2130706433/": "127.0.0.1",
    "http://0.0.0.0/": "0.0.0.0",
}


def test_nothing_is_sent_to_a_private_address(tmp_path: Path) -> None:
    root, store = tmp_path / "hub", Store.open(tmp_path / "hub")
    for url in PRIVATE:
        hooked(root, url, events=["version"])
    EmbeddedHub(root).push(write_adapter(tmp_path / "1"), "acme/ner")
    assert send_due(store.database, WebhookSettings()) == len(PRIVATE)
    for (state, _, answer), (url, words) in zip(states(root), PRIVATE.items(), strict=True):
        assert state == "waiting"
        assert words in str(answer), url
        assert "--webhooks-to-private" in str(answer), url


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("2606:4700:4700::1111", True),
        ("::ffff:1.1.1.1", True),
        ("64:ff9b::101:101", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("224.0.0.1", False),
        ("ff02::1", False),
        ("100.64.0.1", False),
        ("192.168.0.1", False),
        ("::", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("64:ff9b:1::7f00:1", False),
        ("fec0::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_the_name_is_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a second look-up would say makes no difference: nothing is connected to but what was checked."""
    looked_up: list[str] = []
    with receiver() as got:
        port = got.url.rsplit(":", 1)[1].removesuffix("/hook")

        def lookup(host: str, *_: object, **__: object) -> object:
            looked_up.append(str(host))
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

        root, store = tmp_path / "hub", Store.open(tmp_path / "hub")
        hooked(root, f"http://ci.example.com:{port}/hook")
        with store.database.reading() as session:
            delivery = webhooks.ping_of(webhooks.require(session, webhooks.list_all(session)[0].id))
        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        assert asyncio.run(send(delivery, LOOPBACK)).arrived
        assert got.got[0].headers["host"] == f"ci.example.com:{port}"
    assert [host for host in looked_up if host != "127.0.0.1"] == ["ci.example.com"]


@pytest.mark.parametrize(("host", "arrives"), [("ci.example.com", True), ("other.example.com", False)])
def test_the_certificate_is_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, arrives: bool
) -> None:
    """Though an address is connected to."""
    served, trusting = certificate(tmp_path, "ci.example.com")
    with receiver(tls=served) as got:
        port = int(got.url.rsplit(":", 1)[1].removesuffix("/hook"))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", port))])
        monkeypatch.setattr("adapthub.hub.server.webhook_sender._certificates", lambda: trusting)
        store = Store.open(tmp_path / "hub")
        hooked(tmp_path / "hub", f"https://{host}:{port}/hook")
        with store.database.reading() as session:
            delivery = webhooks.ping_of(webhooks.require(session, webhooks.list_all(session)[0].id))
        answer = asyncio.run(send(delivery, LOOPBACK))
        assert (answer.arrived, len(got.got)) == (arrives, int(arrives)), answer
        assert arrives or "Hostname mismatch" in answer.words


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server that is called `name`, and for a client that believes it."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem"
    )
    subprocess.run(
        [
            *command.split(),
            "-out",
            "cert.pem",
            "-subj",
            f"/CN={name}",
            "-addext",
            f"subjectAltName=DNS:{name}",
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=str(folder / "cert.pem"))


def test_what_is_over_is_kept_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapthub.hub.server.webhook_sender._KEPT", 2)
    root, store = tmp_path / "hub", Store.open(tmp_path / "hub")
    with receiver(500, 200) as got:
        hooked(root, got.url)
        for _ in range(5):
            with store.database.writing() as session:
                webhooks.ping(session, session.query(WebhookRow).one())
            send_due(store.database, WebhookSettings(private=True))
    assert [state for state, _, _ in states(root)] == ["arrived", "arrived", "waiting"]


def test_redirects_are_not_followed(tmp_path: Path) -> None:
    root, store = tmp_path / "hub", Store.open(tmp_path / "hub")
    with receiver() as other, receiver(307, headers={"location": other.url}) as got:
        hooked(root, got.url, events=["version"])
        EmbeddedHub(root).push(write_adapter(tmp_path / "1"), "acme/ner")
        send_due(store.database, WebhookSettings(private=True))
        assert (len(got.got), len(other.got)) == (1, 0)
    assert states(root)[0][2] == "status 307"


def test_a_receiver_that_never_ends_does_not_hold_the_rest(tmp_path: Path) -> None:
    """Bytes that keep coming, one at a time, are no answer."""
    root, store = tmp_path / "hub", Store.open(tmp_path / "hub")
    listener, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"a")
                except OSError:
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    with receiver() as got:
        hooked(root, f"http://127.0.0.1:{listener.getsockname()[1]}/", events=["version"])
        hooked(root, got.url, events=["version"])
        EmbeddedHub(root).push(write_adapter(tmp_path / "1"), "acme/ner")
        assert send_due(store.database, WebhookSettings(private=True, seconds=0.5)) == 2
        assert len(got.got) == 1
    stop.set()
    thread.join()
    listener.close()
    assert [answer for _, _, answer in states(root)] == ["no answer in 0.5 seconds", "status 200"]


def test_receivers_that_never_answer_hold_up_their_own_namespace_alone(tmp_path: Path) -> None:
    """Of 40 deliveries before another's only a few are under way, and its own arrives while they wait."""
    store, closed = Store.open(tmp_path), threading.Event()
    settings = WebhookSettings(private=True, seconds=60, poll=0.02, at_once=16, each=3)
    with socket.create_server(("127.0.0.1", 0)) as deaf, receiver() as got:
        with store.database.writing() as session:
            slow, _ = webhooks.add(session, "eve", f"http://127.0.0.1:{deaf.getsockname()[1]}/")
            for _ in range(40):
                webhooks.ping(session, webhooks.require(session, slow.id))
        sending = threading.Thread(target=send_due, args=(store.database, settings, closed))
        sending.start()
        while sum(attempts for _, attempts, _ in states(tmp_path)) < 3:
            time.sleep(0.01)
        with store.database.writing() as session:
            made, _ = webhooks.add(session, "bob", got.url)
            webhooks.ping(session, webhooks.require(session, made.id))
        got.wait_for(lambda all: len(all) == 1)
        assert sum(attempts for _, attempts, _ in states(tmp_path)) == 3 + 1
        closed.set()
    sending.join()  # the receiver has ended, and so have the attempts


def test_a_name_server_that_never_answers_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def hang(*_: object, **__: object) -> object:
        ended.wait()
        raise socket.gaierror("ended")

    store = Store.open(tmp_path)
    with store.database.writing() as session:
        made, _ = webhooks.add(session, "acme", "https://slow.example.com/")
        webhooks.ping(session, webhooks.require(session, made.id))
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    assert send_due(store.database, WebhookSettings(seconds=0.05)) == 1
    assert states(tmp_path) == [("waiting", 1, "no answer in 0.05 seconds")]
    ended.set()


def test_a_namespace_has_so_many_webhooks(tmp_path: Path) -> None:
    for _ in range(webhooks.MOST_WEBHOOKS):
        hooked(tmp_path, "https://ci.example.com/")
    with pytest.raises(Conflict, match="acme has 20 webhooks"):
        hooked(tmp_path, "https://ci.example.com/")
    with Store.open(tmp_path).database.writing() as session:
        webhooks.add(session, "other", "https://ci.example.com/")
        with counted(session) as statements:
            happened(session, MACHINE, "version", repo="acme/ner")
    assert [one for one in statements if "INTO deliveries" in one][1:] == []
    assert len(states(tmp_path)) == 20


@contextmanager
def counted(session: Session) -> Iterator[list[str]]:
    """The statements that a session runs within."""
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    bind = session.get_bind()
    event.listen(bind, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(bind, "before_cursor_execute", note)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ci",
        "ftp://x/",
        "http://",
        "http://a b/",
        "http://u:p@x/",
        "https://x/#y",
        "http://x:99999/",
        "http://ü/",
    ],
)
def test_addresses_that_cannot_be(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidSettings):
        hooked(tmp_path, url)


def test_webhooks_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="Did you mean"):
        hooked(tmp_path, "https://x/", events=["versions"])
    with pytest.raises(InvalidReference):
        hooked(tmp_path, "https://x/", name="../x")
