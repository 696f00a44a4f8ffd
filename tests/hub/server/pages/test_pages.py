"""The hub's pages as HTTP: which addresses they have, who sees what, what the cookie opens, errors, and bounds."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute
from huggingface_hub.errors import HfHubHTTPError
from sqlalchemy import update
from starlette.routing import Match, Route

from adapthub.adapters.errors import InvalidReference
from adapthub.adapters.manifest import DataRecord
from adapthub.hub import differ
from adapthub.hub.accounts import revoke_token
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.lineage import parent_of
from adapthub.hub.namespaces import RESERVED
from adapthub.hub.server.app import create_app
from adapthub.hub.server.pages import browsing, diffing
from adapthub.hub.server.pages.routes import MODULES
from adapthub.hub.server.pages.visitors import COOKIE
from adapthub.hub.server.serving import Serving
from adapthub.hub.storage.tables import RepoRow
from tests import asking
from tests.hub.server.live import HubServer
from tests.hub.server.pages.filled import CARD, CERTIFICATES, write

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def web() -> Iterator[httpx2.Client]:
    with asking.client(headers=BROWSER) as client:
        yield client


@pytest.fixture
def mine(hub_server: HubServer) -> Iterator[httpx2.Client]:
    """Signed in as ada."""
    with asking.client(headers=BROWSER, cookies={COOKIE: hub_server.token()}) as client:
        yield client


def push(server: HubServer, folder: Path, name: str, **fields: Any) -> None:
    EmbeddedHub(server.data, cache=folder / "cache").push(
        write(folder / "made" / name, seed=1, **fields), name
    )


def test_no_page_is_at_an_address_of_the_protocol(tmp_path: Path) -> None:
    serving = Serving.open(tmp_path)
    app = create_app(serving)
    serving.close()
    protocol = app.routes[: -len(MODULES)]
    operations = [(path, method) for path, item in app.openapi()["paths"].items() for method in item]
    assert len(operations) > 25
    for path, method in operations:
        asked = re.sub(r"{\w+}", "x", path)
        scope = {"type": "http", "method": method.upper(), "path": asked, "headers": [], "root_path": ""}
        assert any(route.matches(scope)[0] is Match.FULL for route in protocol), (method, path)
    for module in MODULES:
        for route in module.router.routes:
            assert isinstance(route, APIRoute)
            assert not route.path.startswith("/api/")
            assert route.methods is not None
            assert route.methods <= {"GET", "HEAD"} or route.path.startswith("/-/")


def test_the_document_of_the_protocol_is_at_its_address_and_no_page(
    hub_server: HubServer, web: httpx2.Client
) -> None:
    document = web.get(f"{hub_server.url}/openapi.json").json()
    assert {"/health", "/api/models"} <= document["paths"].keys()


def test_no_namespace_is_called_as_a_part_of_an_address(
    hub_server: HubServer, web: httpx2.Client, tmp_path: Path
) -> None:
    app = create_app(hub_server.running.serving)
    pages = [route for module in MODULES for route in module.router.routes]
    paths = [
        *app.openapi()["paths"],
        *(route.path for route in (*app.routes, *pages) if isinstance(route, Route)),
    ]
    first = {path.split("/")[1] for path in paths}
    assert first >= {"api", "health", "openapi.json", "leaderboard"}
    assert {name for name in first if name not in ("", "-") and "{" not in name} <= RESERVED
    with pytest.raises(InvalidReference, match="no namespace is called audit"):
        push(hub_server, tmp_path, "audit/ner")
    api = hub_server.client("root", "admin")
    with pytest.raises(HfHubHTTPError, match="Choose another one") as refused:
        api.create_repo("leaderboard/ner")
    assert refused.value.response.status_code == 400
    push(hub_server, tmp_path, "ada/ner")
    with pytest.raises(HfHubHTTPError, match="no namespace is called compare"):
        api.move_repo("ada/ner", "compare/ner")
    # One from before that was so keeps a page, and a list.
    with hub_server.running.serving.store.database.writing() as session:
        session.execute(update(RepoRow).values(namespace="compare"))
    assert 'href="/?namespace=compare"' in web.get(f"{hub_server.url}/compare/ner").text
    assert "/compare/ner" in web.get(f"{hub_server.url}/?namespace=compare").text


def test_a_filter_that_no_database_takes_is_refused(filled: HubServer, web: httpx2.Client) -> None:
    for address in ("/?q=%00", "/leaderboard?base=a%00", "/audit?repo=%00"):
        assert web.get(filled.url + address).status_code == 400, address


@pytest.mark.parametrize(
    "address",
    ["/acme/none/resolve/main/a.json", "/acme/ner/resolve/none/a.json", "/api/models/acme/none", "/api/none"],
)
def test_the_protocol_answers_browsers_as_it_answers_programs(
    filled: HubServer, web: httpx2.Client, address: str
) -> None:
    answer = web.get(filled.url + address)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-error-code"] in ("RepoNotFound", "RevisionNotFound")
    assert answer.json() == asking.get(filled.url + address).json()


def test_errors_are_pages_for_browsers_and_json_for_programs(filled: HubServer, web: httpx2.Client) -> None:
    for address, status, words in (
        ("/acme/nerr", 404, "Did you mean"),
        ("/acme/ner/tree/v9", 404, "no revision v9"),
        ("/acme/ner/blob/v1/none.json", 404, "no file none.json"),
        ("/acme/ner/diff/v1", 400, "Write v1..v2"),
        ("/acme/ner/diff/v1..main2", 404, "no revision main2"),
        ("/-x-", 400, "is not a valid name"),
        ("/a/b/c/d/e", 404, "Not Found"),
        ("/?after=x", 400, "after"),
        ("/-/0/style.css", 404, "no file style.css"),
    ):
        page, json = web.get(filled.url + address), asking.get(filled.url + address)
        assert (page.status_code, json.status_code) == (status, status), address
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert words in page.text, address
        assert words in json.json()["error"], address


def test_where_clients_say_that_a_commit_is_there_is_a_page(
    hub_server: HubServer, web: httpx2.Client, tmp_path: Path
) -> None:
    api = hub_server.client()
    api.create_repo("ada/ner")
    adapter = write(tmp_path / "made", seed=1, card=CARD)
    done = api.upload_folder(repo_id="ada/ner", folder_path=adapter.path)
    assert "v1" in web.get(done.commit_url, follow_redirects=True).text
    api.create_branch("ada/ner", branch="feat/x")
    api.delete_file("adapthub.json", "ada/ner", revision="feat/x")
    page = web.get(f"{hub_server.url}/ada/ner/tree/feat%2Fx").text
    assert "which is no version" in page
    assert "adapthub.json</a>" not in page
    assert "lora_alpha" in web.get(f"{hub_server.url}/ada/ner/blob/feat%2Fx/adapter_config.json").text


def test_a_repository_without_an_adapter_has_a_page(hub_server: HubServer, web: httpx2.Client) -> None:
    hub_server.client().create_repo("ada/empty")
    assert "no version yet" in web.get(hub_server.url).text
    assert "There is no whole adapter here yet" in web.get(f"{hub_server.url}/ada/empty").text


def test_pages_of_a_list_have_each_adapter_once(
    hub_server: HubServer, web: httpx2.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "PAGE", 3)
    names = [f"many/a{number}" for number in range(8)]
    for number, name in enumerate(names):
        push(hub_server, tmp_path, name, f1=0.5 + number % 3 / 100)
    for start in ("/many", "/?metric=f1>=0.1", "/?sort=created", "/?q=many&task=token-classification"):
        seen: list[str] = []
        address: str | None = start
        while address:
            page = web.get(hub_server.url + address).text
            seen += re.findall(r'name="ref" value="([^"]+)"', page)
            found = re.search(r'rel="next" href="([^"]+)"', page)
            address = found[1].replace("&amp;", "&") if found else None
        assert sorted(seen) == sorted(names), start


def test_private_adapters_are_on_no_page_without_a_token(
    hub_server: HubServer, web: httpx2.Client, mine: httpx2.Client, tmp_path: Path
) -> None:
    hub = EmbeddedHub(hub_server.data, cache=tmp_path / "cache")
    secret = hub.push(write(tmp_path / "secret", seed=1, f1=0.7), "ada/secret")
    child = write(tmp_path / "open", seed=2, f1=0.8, parents=[parent_of(secret)])
    hub.push(child, "ada/open")
    hub_server.client().update_repo_settings("ada/secret", private=True)
    pages = (
        "/",
        "/ada",
        "/?q=secret",
        "/?metric=f1>0.1",
        "/ada/open",
        "/compare?ref=ada/open&ref=ada/secret",
    )
    for address in pages:
        text = web.get(hub_server.url + address).text
        shown = re.sub(r'value="[^"]*"|href="/-/sign-in[^"]*"', "", text)
        assert "/ada/secret" not in shown, address
    assert "ada/secret" in web.get(f"{hub_server.url}/ada/open").text  # its child says so
    assert "not here" in web.get(f"{hub_server.url}/ada/open").text
    for rest in ("", "/tree/v1", "/blob/v1/adapthub.json", "/raw/v1/adapthub.json", "/diff/v1..v1"):
        address = f"/ada/secret{rest}"
        assert web.get(hub_server.url + address).status_code == 404, address
        assert mine.get(hub_server.url + address).status_code == 200, address
    assert "/ada/secret" in mine.get(f"{hub_server.url}/ada/open").text


def test_gated_files_are_shown_to_those_who_were_let_in(
    hub_server: HubServer, web: httpx2.Client, mine: httpx2.Client, tmp_path: Path
) -> None:
    push(hub_server, tmp_path, "ada/gated", card=CARD)
    hub_server.client().update_repo_settings("ada/gated", gated="manual")
    shown = web.get(f"{hub_server.url}/ada/gated").text
    assert "is gated" in shown
    assert "lora_alpha" not in shown
    assert "Alpha" not in shown
    assert "Alpha" in mine.get(f"{hub_server.url}/ada/gated").text
    for address in ("blob/v1/adapthub.json", "raw/v1/adapthub.json", "diff/v1..v1"):
        assert web.get(f"{hub_server.url}/ada/gated/{address}").status_code == 403, address
        with_token = mine.get(f"{hub_server.url}/ada/gated/{address}")
        assert with_token.status_code == 200, address


def test_the_cookie_opens_pages_and_nothing_else(
    hub_server: HubServer, web: httpx2.Client, tmp_path: Path
) -> None:
    push(hub_server, tmp_path, "ada/secret")
    token = hub_server.token(scope="admin")
    hub_server.client().update_repo_settings("ada/secret", private=True)
    web.cookies.set(COOKIE, token)
    assert web.get(f"{hub_server.url}/ada/secret").status_code == 200
    assert web.get(f"{hub_server.url}/api/whoami-v2").status_code == 401
    assert web.get(f"{hub_server.url}/api/models/ada/secret").status_code == 404
    assert web.get(f"{hub_server.url}/ada/secret/resolve/v1/adapthub.json").status_code == 404
    assert web.post(f"{hub_server.url}/api/repos/create", json={"name": "ada/new"}).status_code == 401
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for address in ("/", "/ada", "/ada/secret", "/ada/secret/tree/v1", "/compare", "/audit"):
            assert web.request(method, hub_server.url + address).status_code == 405, (method, address)


def test_signing_in_and_out(hub_server: HubServer, web: httpx2.Client) -> None:
    form = f"{hub_server.url}/-/sign-in"
    token = hub_server.token()
    wrong = web.post(form, data={"token": "ah_wrong", "next": "/"})
    assert (wrong.status_code, COOKIE in wrong.headers.get("set-cookie", "")) == (401, False)
    done = web.post(form, data={"token": f" {token}\n", "next": "/ada?q=1"})
    assert (done.status_code, done.headers["location"]) == (303, "/ada?q=1")
    kept = done.headers["set-cookie"].lower()
    assert "httponly" in kept
    assert "samesite=strict" in kept
    assert "max-age" not in kept
    assert "ada" in web.get(hub_server.url).text
    gone = web.post(f"{hub_server.url}/-/sign-out")
    assert (gone.status_code, gone.headers["location"]) == (303, "/")
    assert COOKIE not in web.cookies


@pytest.mark.parametrize(
    "back", ["//elsewhere.invalid", "https://elsewhere.invalid", "/\\elsewhere.invalid", "/\t/x", "x"]
)
def test_signing_in_leads_to_no_other_site(hub_server: HubServer, web: httpx2.Client, back: str) -> None:
    done = web.post(f"{hub_server.url}/-/sign-in", data={"token": hub_server.token(), "next": back})
    assert done.headers["location"] == "/"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://elsewhere.invalid"},
    ],
)
def test_other_sites_sign_nobody_in_or_out(
    hub_server: HubServer, web: httpx2.Client, headers: dict[str, str]
) -> None:
    data = {"token": hub_server.token(), "next": "/"}
    for address in ("/-/sign-in", "/-/sign-out"):
        answer = web.post(hub_server.url + address, data=data, headers=headers)
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


def test_a_token_that_was_revoked_is_forgotten(hub_server: HubServer, web: httpx2.Client) -> None:
    token = hub_server.token()
    with hub_server.running.serving.store.database.writing() as session:
        revoke_token(session, token)
    web.cookies.set(COOKIE, token)
    answer = web.get(hub_server.url)
    assert answer.status_code == 401
    assert "is revoked" in answer.text
    assert f"{COOKIE}=" in answer.headers["set-cookie"]
    assert "max-age=0" in answer.headers["set-cookie"].lower()


def test_a_name_that_is_made_to_mean_this_machine_is_refused(filled: HubServer, web: httpx2.Client) -> None:
    for address in ("/", "/acme/ner", "/compare?ref=acme/ner"):
        answer = web.get(filled.url + address, headers={"host": "rebound.invalid"})
        assert answer.status_code == 403, address
        assert "roberta" not in answer.text


def test_pages_name_the_host_that_they_were_asked_by(filled: HubServer, web: httpx2.Client) -> None:
    page = web.get(f"{filled.url}/acme/ner/tree/v2", headers={"host": "localhost:81"}).text
    assert "HF_ENDPOINT=http://localhost:81 hf download acme/ner --revision v2" in page
    assert "http://localhost:81/acme/ner/resolve/v2/adapter_model.safetensors" in page


def test_raw_files_run_in_no_browser(hub_server: HubServer, web: httpx2.Client, tmp_path: Path) -> None:
    push(
        hub_server,
        tmp_path,
        "ada/ner",
        images={"evil.png": b"<script>alert(1)</script>"},
        card="<script>1</script>",
    )
    image = web.get(f"{hub_server.url}/ada/ner/raw/v1/evil.png")
    assert image.headers["content-type"] == "image/png"
    card = web.get(f"{hub_server.url}/ada/ner/raw/v1/README.md")
    assert card.headers["content-type"] == "application/octet-stream"
    assert card.headers["content-disposition"].startswith("attachment")
    for answer in (image, card):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"


HELD = """
import pathlib, sys, time
log, release, *compared = sys.argv[1:]
with open(log, "a") as file:
    file.write("begun\\n")
while not pathlib.Path(release).exists():
    time.sleep(0.02)
from adapthub.hub.diff_process import main
main(*compared)
"""


@pytest.mark.slow
def test_a_long_difference_is_told_of_and_computed_once(
    hub_server: HubServer, web: httpx2.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, release = tmp_path / "log", tmp_path / "release"
    command = [sys.executable, "-c", HELD, str(log), str(release)]
    monkeypatch.setattr(hub_server.running.serving.differ, "_command", command)
    monkeypatch.setattr(diffing, "PATIENCE", 0.05)
    hub = EmbeddedHub(hub_server.data, cache=tmp_path / "cache")
    for seed in range(2):
        hub.push(write(tmp_path / str(seed), seed=seed, f1=0.8), "ada/ner")
    address = f"{hub_server.url}/ada/ner/diff/v1..v2"
    try:
        for _ in range(3):
            waiting = web.get(address)
            assert "being compared" in waiting.text
            assert waiting.headers["refresh"] == "3"
        assert web.get(f"{hub_server.url}/ada/ner").status_code == 200  # others are answered meanwhile
    finally:
        release.touch()
    while "being compared" in (page := web.get(address).text):
        pass
    assert "encoder.layer.0.attention.self.query" in page
    assert log.read_text() == "begun\n"


def test_what_is_too_large_to_compare_is_refused(
    filled: HubServer, web: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differ, "MOST_BYTES", 100)
    for answer in (
        web.get(f"{filled.url}/acme/ner/diff/v3..v1"),
        web.get(f"{filled.url}/api/models/acme/ner/diff/v3..v1"),
    ):
        assert answer.status_code == 422
        assert "Pull both, and compare them with adapt diff" in answer.text


def test_addresses_that_no_database_can_hold_are_refused(filled: HubServer, web: httpx2.Client) -> None:
    for address in (
        f"/?after={10**30}",
        f"/acme/ner?before={10**30}",
        f"/?q={'x' * 1000}",
        "/?after=-1",
        "/%FF",
        "/?sort=x",
    ):
        assert web.get(filled.url + address).status_code == 400, address
    assert web.get(f"{filled.url}/?q=%FF&label=%ED%A0%80").status_code == 200
    assert "acme" in web.get(f"{filled.url}/%61cme").text


def test_certificates_are_on_the_page_of_the_version_that_has_them(
    filled: HubServer, web: httpx2.Client
) -> None:
    shown = web.get(f"{filled.url}/acme/ner").text
    section = shown[shown.index('id="portability"') :].partition("</table>")[0]
    cells = [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", section)]
    assert "against its base in float32, on 3,453 rows of news-test.conll" in section
    assert cells[7:] == [
        *("nf4", "worse", "f1", "0.9045", "-0.0075 -0.0115 to -0.0045", "8.00e-02", "1.23 %"),
        *("bf16", "holds", "f1", "0.912", "+0.0000 -0.0040 to +0.0030", "4.00e-03", "–"),
    ]
    assert "Portability" not in web.get(f"{filled.url}/acme/ner/tree/v3").text


def test_certificates_of_unlike_rows_each_say_theirs(
    hub_server: HubServer, web: httpx2.Client, tmp_path: Path
) -> None:
    other = DataRecord(fingerprint=f"sha256:{'7f' * 32}", rows=12, source="other.conll")
    certificates = {**CERTIFICATES, "bf16": CERTIFICATES["bf16"].model_copy(update={"data": other})}
    push(hub_server, tmp_path, "ada/ner", certificates=certificates)
    shown = web.get(f"{hub_server.url}/ada/ner").text
    section = shown[shown.index('id="portability"') :].partition("</table>")[0]
    rows = [re.sub(r"<[^>]+>", "|", row) for row in section.split("<tr>")[1:]]
    assert "against its base in float32</span>" in section
    assert [row.rpartition("Measured on")[1] for row in rows] == ["Measured on", "", ""]
    assert "3,453 rows of news-test.conll" in rows[1]
    assert "12 rows of other.conll" in rows[2]


def test_what_is_long_is_cut(hub_server: HubServer, web: httpx2.Client, tmp_path: Path) -> None:
    long = "long " * 20_000
    push(hub_server, tmp_path, "ada/long", base=long, labels=(long, "O"), libraries={long: long}, recipe=long)
    for address in ("/", "/ada/long", "/compare?ref=ada/long"):
        page = web.get(hub_server.url + address)
        assert page.status_code == 200
        assert len(page.content) < 220_000, address
