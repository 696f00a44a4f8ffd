"""Organisations, roles and tokens against a real server, and what goes wrong with them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from sqlalchemy import update

from adapthub.adapters.errors import Conflict, InvalidReference
from adapthub.cli.main import adapt
from adapthub.hub import accounts, logins, members, namespaces
from adapthub.hub.storage.account_tables import TokenRow
from adapthub.hub.store import Store
from tests.hub.adapters import write_adapter
from tests.hub.server.governed import Api
from tests.hub.server.live import HubServer

MEMBERS = "/api/namespaces/acme/members"


def test_roles_read_write_and_admin(hub_server: HubServer, tmp_path: Path) -> None:
    ada = Api(hub_server, "ada")
    assert ada("POST", "/api/namespaces/acme/create") == {"name": "acme", "admin": "ada"}
    clients = {name: hub_server.client(name) for name in ("ada", "reader", "writer", "other")}
    ada("PUT", f"{MEMBERS}/reader", {"role": "read"})
    ada("PUT", f"{MEMBERS}/writer", {"role": "write"})
    assert ada("GET", MEMBERS) == [
        {"account": "ada", "role": "admin"},
        {"account": "reader", "role": "read"},
        {"account": "writer", "role": "write"},
    ]
    clients["writer"].create_repo("acme/secret", private=True)
    folder = write_adapter(tmp_path / "made").path
    clients["writer"].upload_folder(repo_id="acme/secret", folder_path=folder)
    for name in ("ada", "reader", "writer"):
        assert clients[name].model_info("acme/secret").private
        assert [model.id for model in clients[name].list_models()] == ["acme/secret"]
    with pytest.raises(RepositoryNotFoundError):
        clients["other"].model_info("acme/secret")
    assert list(clients["other"].list_models()) == []
    with pytest.raises(HfHubHTTPError, match="reader may not write to acme/"):
        clients["reader"].upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="acme/secret")
    writer = Api(hub_server, "writer")
    assert "may not administer acme/" in writer.refused("PUT", f"{MEMBERS}/other", {"role": "admin"})
    assert "may not administer" in writer.refused(
        "PUT", "/api/namespaces/acme/gates", {"alias": "prod", "reviewers": 1}
    )
    assert writer("DELETE", f"{MEMBERS}/writer")["role"] == "write"
    assert {"name": "acme", "roleInOrg": "admin", "type": "org"} in ada("GET", "/api/whoami-v2")["orgs"]


@pytest.mark.parametrize("name", ["audit", "leaderboard", "login", "settings", "api"])
def test_no_account_or_organisation_is_called_as_a_page_of_the_hub(
    hub_server: HubServer, tmp_path: Path, name: str
) -> None:
    root = Api(hub_server, "root", "admin")
    assert "Choose another one" in root.refused("POST", f"/api/namespaces/{name}/create", status=400)
    member = f"/api/namespaces/{name}/members/root"
    assert "Choose another one" in root.refused("PUT", member, {"role": "admin"}, 400)
    with hub_server.running.serving.store.database.writing() as session:
        with pytest.raises(InvalidReference, match=f"no namespace is called {name}"):
            accounts.create_token(session, name, "write")
        code = logins.begin(session, "").code
        with pytest.raises(InvalidReference, match=f"no namespace is called {name}"):
            logins.allow(session, code, name, "write")
    for command in (["org", "create", name, "--admin", "root"], ["token", "create", name]):
        done = CliRunner().invoke(adapt, ["hub", *command, "--data", str(hub_server.data)])
        assert done.exit_code != 0
        assert f"no namespace is called {name}" in done.output
    with hub_server.running.serving.store.database.reading() as session:
        assert members.list_members(session, name) == []


def test_a_name_from_before_it_was_reserved_stays(
    hub_server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_server.running.serving.store.database.writing() as session:
        with monkeypatch.context() as before:
            before.setattr(namespaces, "RESERVED", frozenset())
            accounts.create_token(session, "audit", "write")
        accounts.create_token(session, "ada", "write")
        assert accounts.create_token(session, "audit", "write")[0].account == "audit"
        assert members.set_member(session, "audit", "ada", "read").role == "read"


def test_a_role_that_ends_while_a_token_lives(hub_server: HubServer) -> None:
    ada, client = Api(hub_server, "ada"), hub_server.client("grace")
    ada("POST", "/api/namespaces/acme/create")
    ada("PUT", f"{MEMBERS}/grace", {"role": "write"})
    client.create_repo("acme/secret", private=True)
    ada("PUT", f"{MEMBERS}/grace", {"role": "read"})
    assert client.model_info("acme/secret").private
    with pytest.raises(HfHubHTTPError, match="may not write"):
        client.update_repo_settings("acme/secret", private=False)
    ada("DELETE", f"{MEMBERS}/grace")
    with pytest.raises(RepositoryNotFoundError):
        client.model_info("acme/secret")
    assert client.whoami()["orgs"] == []


def test_the_last_admin_stays(hub_server: HubServer) -> None:
    ada, grace = Api(hub_server, "ada"), Api(hub_server, "grace")
    ada("POST", "/api/namespaces/acme/create")
    for body in ({"role": "read"}, None):
        method = "DELETE" if body is None else "PUT"
        assert "ada is the last admin of acme" in ada.refused(method, f"{MEMBERS}/ada", body, status=409)
    with (
        hub_server.running.serving.store.database.writing() as session,
        pytest.raises(Conflict, match="last admin"),
    ):
        accounts.remove_account(session, "ada")
    ada("PUT", f"{MEMBERS}/grace", {"role": "admin"})
    ada("DELETE", f"{MEMBERS}/ada")
    assert "last admin" in grace.refused("DELETE", f"{MEMBERS}/grace", status=409)
    assert "may not read acme/" in ada.refused("GET", MEMBERS)


def test_an_expired_token_and_one_of_a_removed_account(hub_server: HubServer) -> None:
    database = hub_server.running.serving.store.database
    Api(hub_server, "root", "admin")
    grace, ada = Api(hub_server, "grace"), Api(hub_server, "ada")
    hub_server.client("ada").create_repo("ada/mine", private=True)
    with database.writing() as session:
        session.execute(
            update(TokenRow)
            .where(TokenRow.prefix == grace.token[:11])
            .values(expires=datetime.now(UTC) - timedelta(seconds=1))
        )
    assert "is expired" in grace.refused("GET", "/api/whoami-v2", status=401)
    with database.writing() as session:
        accounts.remove_account(session, "ada")
    assert "the account ada was removed" in ada.refused("GET", "/api/whoami-v2", status=401)
    assert ada.raw("GET", "/api/models/ada/mine").status_code == 401
    for name in ("grace", "root"):
        status = Api(hub_server, name, "admin" if name == "root" else "write").raw(
            "GET", "/api/models/ada/mine"
        )
        assert status.status_code == (200 if name == "root" else 404)
    with database.writing() as session, pytest.raises(Conflict, match="ada was removed"):
        accounts.create_token(session, "ada", "write")


def test_a_name_is_an_account_or_an_organisation(hub_server: HubServer) -> None:
    ada, grace = Api(hub_server, "ada"), Api(hub_server, "grace")
    ada("POST", "/api/namespaces/acme/create")
    with pytest.raises(Conflict, match="acme is an organisation"):
        hub_server.token("acme")
    assert "may not" in grace.refused("POST", "/api/namespaces/acme/create")
    assert "already" in ada.refused("POST", "/api/namespaces/acme/create", status=409)
    assert "may not" in ada.refused("POST", "/api/namespaces/grace/create")
    assert "is an account" in ada.refused("POST", "/api/namespaces/ada/create", status=409)
    hub_server.client("grace").create_repo("shared/ner")
    assert "has repositories already" in ada.refused("POST", "/api/namespaces/shared/create", status=409)
    assert "may not administer" in grace.refused(
        "PUT", "/api/namespaces/shared/members/grace", {"role": "admin"}
    )
    reader = Api(hub_server, "ada", "read")
    assert "has the scope read" in reader.refused("POST", "/api/namespaces/new/create")


def test_somebody_helps_in_an_accounts_own_namespace(hub_server: HubServer) -> None:
    ada, grace = Api(hub_server, "ada"), hub_server.client("grace")
    with pytest.raises(HfHubHTTPError):
        grace.create_repo("ada/ner")
    ada("PUT", "/api/namespaces/ada/members/grace", {"role": "write"})
    grace.create_repo("ada/ner")
    ada("DELETE", "/api/namespaces/ada/members/grace")
    assert "own namespace" in ada.refused(
        "PUT", "/api/namespaces/ada/members/ada", {"role": "read"}, status=409
    )
    assert "no account 'nobody'" in ada.refused(
        "PUT", "/api/namespaces/ada/members/nobody", {"role": "read"}, status=404
    )


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def test_two_last_admins_do_not_leave_together(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("new_database")() if kind == "postgres" else None
    store = Store.open(tmp_path, database=url)
    with store.database.writing() as session:
        for name in ("ada", "grace"):
            accounts.create_token(session, name, "write")
        members.create_organisation(session, "acme", "ada")
        members.set_member(session, "acme", "grace", "admin")

    def leave(name: str) -> bool:
        try:
            with store.database.writing() as session:
                members.remove_member(session, "acme", name)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(leave, ("ada", "grace"))) == [False, True]


def test_a_token_that_reads_does_not_leave(hub_server: HubServer) -> None:
    """Anybody may leave, by a token that may change something."""
    ada = Api(hub_server, "ada")
    reading, writing = Api(hub_server, "grace", "read"), Api(hub_server, "grace")
    ada("POST", "/api/namespaces/acme/create")
    ada("PUT", f"{MEMBERS}/grace", {"role": "admin"})
    assert "has the scope read" in reading.refused("DELETE", f"{MEMBERS}/grace")
    assert writing("DELETE", f"{MEMBERS}/grace")["role"] == "admin"
