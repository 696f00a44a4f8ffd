"""`hf auth login` without a token, and callers that ask too often."""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub.utils._http import parse_ratelimit_headers
from sqlalchemy import func, select, update
from starlette.requests import Request

from adapthub.cli.main import adapt
from adapthub.hub import audit, logins
from adapthub.hub.accounts import create_token, find_token, revoke_token
from adapthub.hub.logins import Outcome
from adapthub.hub.server.dependencies import address_of
from adapthub.hub.server.rates import Rates
from adapthub.hub.server.serving import Limits
from adapthub.hub.storage.upkeep_tables import LoginRow
from tests import asking
from tests.hub.server.live import HubServer, live


def begin(server: HubServer) -> dict[str, str]:
    answer = asking.post(f"{server.url}/oauth/device", data={"client_id": "any"})
    assert answer.status_code == 200
    return dict(answer.json())


def poll(server: HubServer, secret: str) -> dict[str, str]:
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": secret}
    return dict(asking.post(f"{server.url}/oauth/token", data=form).json())


def test_hf_logs_in_with_a_code(hub_server: HubServer, tmp_path: Path) -> None:
    hub_server.token()
    environment = hub_server.environment(tmp_path / "home") | {"PYTHONUNBUFFERED": "1", "BROWSER": "true"}
    script = "from huggingface_hub import login; login()"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None
    stream = process.stdout

    def read() -> None:
        for line in stream:
            lines.put(line)

    reader = threading.Thread(target=read)
    reader.start()
    seen = ""
    while not (match := re.search(r"\b([B-Z]{4}-[B-Z]{4})\b", seen)):
        seen += lines.get(timeout=60)
    data = ["--data", str(hub_server.data)]
    done = CliRunner().invoke(
        adapt, ["hub", "login", "allow", match[1].lower(), "--account", "bob", "--scope", "write", *data]
    )
    assert done.exit_code == 0, done.output
    assert process.wait(timeout=60) == 0
    reader.join()
    stream.close()
    hf = str(Path(sys.executable).with_name("hf"))
    who = subprocess.run([hf, "auth", "whoami"], env=environment, capture_output=True, text=True, check=True)
    assert "bob" in who.stdout


def test_a_person_allows_it_with_a_token_of_theirs(hub_server: HubServer) -> None:
    waiting = begin(hub_server)
    assert poll(hub_server, waiting["device_code"]) == {"error": "authorization_pending"}
    page = asking.get(waiting["verification_uri_complete"])
    assert waiting["user_code"] in page.text
    form = {"user_code": waiting["user_code"], "token": "ah_00000000_" + "x" * 43, "answer": "allow"}
    assert asking.post(waiting["verification_uri"], data=form).status_code == 401
    assert poll(hub_server, waiting["device_code"]) == {"error": "authorization_pending"}
    answer = asking.post(waiting["verification_uri"], data={**form, "token": hub_server.token("ada", "read")})
    assert "allowed" in answer.text
    token = poll(hub_server, waiting["device_code"])["access_token"]
    who = asking.get(f"{hub_server.url}/api/whoami-v2", headers={"Authorization": f"Bearer {token}"}).json()
    assert (who["name"], who["auth"]["accessToken"]["role"]) == ("ada", "read")
    assert poll(hub_server, waiting["device_code"]) == {"error": "expired_token"}  # it is handed out once
    other = begin(hub_server)
    form = {"user_code": other["user_code"], "token": hub_server.token(), "answer": "deny"}
    assert asking.post(waiting["verification_uri"], data=form).status_code == 200
    assert poll(hub_server, other["device_code"]) == {"error": "access_denied"}
    assert asking.post(waiting["verification_uri"], data=form).status_code == 404
    shown = asking.get(f"{hub_server.url}/oauth/activate?user_code=%3Cscript%3E").text
    assert "<script>" not in shown


def allow(server: HubServer, waiting: dict[str, str], token: str) -> int:
    form = {"user_code": waiting["user_code"], "token": token, "answer": "allow"}
    return asking.post(waiting["verification_uri"], data=form).status_code


def test_the_token_works_no_longer_than_the_one_that_allowed_it(hub_server: HubServer) -> None:
    store = hub_server.running.serving.store
    with store.database.writing() as session:
        short, text = create_token(session, "ada", "write", lifetime=timedelta(hours=1))
        ended, gone = create_token(session, "ada", "write")
    first, second = begin(hub_server), begin(hub_server)
    assert (allow(hub_server, first, text), allow(hub_server, second, gone)) == (200, 200)
    with store.database.writing() as session:
        revoke_token(session, ended.prefix)
    made = poll(hub_server, first["device_code"])["access_token"]
    assert poll(hub_server, second["device_code"]) == {"error": "access_denied"}
    with store.database.reading() as session:
        assert short.expires is not None
        found = find_token(session, made).expires
        assert found is not None
        assert abs(found - short.expires) < timedelta(seconds=5)
        actions = [
            (entry.action, entry.actor, entry.token)
            for entry in audit.entries(session)
            if entry.action != "token.revoked"
        ]
    assert actions[:3] == [
        ("token.created", "ada", short.prefix),
        ("login.allowed", "ada", ended.prefix),
        ("login.allowed", "ada", short.prefix),
    ]


def test_a_device_that_asks_takes_no_writers_turn(hub_server: HubServer) -> None:
    hub_server.token()
    waiting = begin(hub_server)
    with hub_server.running.serving.store.database.writing():  # SQLite has one writer
        assert poll(hub_server, waiting["device_code"]) == {"error": "authorization_pending"}
        assert poll(hub_server, "no secret") == {"error": "expired_token"}


@pytest.fixture
def few_may_wait(monkeypatch: pytest.MonkeyPatch) -> int:
    """A tenth of the logins that may wait at once."""
    few = logins._MOST_WAITING // 10
    monkeypatch.setattr(logins, "_MOST_WAITING", few)
    return few


def test_one_address_does_not_keep_others_from_logging_in(hub_server: HubServer, few_may_wait: int) -> None:
    store = hub_server.running.serving.store
    with store.database.writing() as session:
        other = logins.begin(session, "192.0.2.1")
        mine = [logins.begin(session, "192.0.2.2") for _ in range(few_may_wait + 10)]
    with store.database.reading() as session:
        assert logins.waiting_for(session, other.secret) == Outcome.PENDING
        states = [logins.waiting_for(session, one.secret) for one in mine]
    assert states[-20:] == [Outcome.PENDING] * 20
    assert set(states[:-20]) == {Outcome.EXPIRED}
    begin(hub_server)


def test_strangers_at_many_addresses_do_not_keep_others_from_logging_in(
    hub_server: HubServer, few_may_wait: int
) -> None:
    """1,000 that waited were all that could, and everybody else was refused for a quarter of an hour."""
    store = hub_server.running.serving.store
    with store.database.writing() as session:
        other = logins.begin(session, "192.0.2.1")
        theirs = [logins.begin(session, f"198.51.100.{n % 6}") for n in range(12 * few_may_wait // 10)]
        mine = logins.begin(session, "192.0.2.2")
    with store.database.reading() as session:
        assert [logins.waiting_for(session, one.secret) for one in (other, mine)] == [Outcome.PENDING] * 2
        states = [logins.waiting_for(session, one.secret) for one in theirs]
        assert states.count(Outcome.PENDING) == few_may_wait - 2
        assert session.scalar(select(func.count()).select_from(LoginRow)) == few_may_wait


def test_logins_that_ended_are_kept_no_longer(hub_server: HubServer) -> None:
    store = hub_server.running.serving.store
    with store.database.writing() as session:
        old = logins.begin(session, "192.0.2.1")
        session.execute(update(LoginRow).values(expires=datetime.now(UTC) - timedelta(seconds=1)))
        logins.begin(session, "192.0.2.2")
        assert session.scalar(select(func.count()).select_from(LoginRow)) == 1
    assert poll(hub_server, old.secret) == {"error": "expired_token"}


def test_an_address_asks_for_so_many_logins_a_minute(tmp_path: Path) -> None:
    with live(tmp_path / "served", limits=Limits(login_rate=(3, 100_000))) as server:
        waiting = begin(server)
        assert poll(server, waiting["device_code"]) == {"error": "authorization_pending"}
        assert allow(server, waiting, server.token()) == 200
        assert poll(server, waiting["device_code"]) == {"error": "slow_down"}
        assert allow(server, waiting, server.token()) == 429
        refused = asking.post(f"{server.url}/oauth/device", data={"client_id": "any"})
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= 100_000
        assert asking.get(f"{server.url}/api/models").status_code == 200  # all else goes on


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("testclient", "testclient"),
    ],
)
def test_an_address_of_ipv6_is_its_network(host: str, address: str) -> None:
    assert address_of(Request({"type": "http", "client": (host, 1)})) == address
    assert address_of(Request({"type": "http", "client": None})) == ""


def test_callers_that_ask_too_often(tmp_path: Path) -> None:
    with live(tmp_path / "served", limits=Limits(rate=(3, 100_000))) as server:
        token = {"Authorization": f"Bearer {server.token()}"}
        url = f"{server.url}/api/models"
        answers = [asking.get(url, headers=token) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        info = parse_ratelimit_headers(answers[0].headers)
        assert info is not None
        assert (info.remaining, info.limit, info.window_seconds) == (2, 3, 100_000)
        assert 0 < int(answers[3].headers["retry-after"]) <= 100_000
        assert "more than 3 requests" in answers[3].json()["error"]
        assert asking.get(url).status_code == 200  # others may
        wrong = [
            asking.get(url, headers={"Authorization": f"Bearer ah_0000000{n}_{'x' * 43}"}) for n in range(3)
        ]
        assert [answer.status_code for answer in wrong] == [401, 401, 429]
        assert asking.get(f"{server.url}/health").status_code == 200


def test_a_window_ends() -> None:
    now = [1000.0]
    rates = Rates(1, 10, now=lambda: now[0])
    assert [rates.count("a").remaining for _ in range(2)] == [0, -1]
    now[0] += 9
    assert rates.count("a").reset == 1
    now[0] += 1
    assert rates.count("a").remaining == 0


@pytest.mark.parametrize("text", ["x", "0/5m", "5", "5/0s/1"])
def test_rates_that_do_not_read(text: str) -> None:
    done = CliRunner().invoke(adapt, ["hub", "serve", "--rate-limit", text])
    assert done.exit_code == 2
