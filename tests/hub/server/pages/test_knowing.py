"""What pages show of what the hub knows, and to whom: lineage, companions, places, gates, signatures, and the audit log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import delete, text

from adapthub.adapters.artifact import Artifact
from adapthub.hub import leaderboard
from adapthub.hub.access import Caller
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.gates import Gate, set_gate
from adapthub.hub.lineage import parent_of
from adapthub.hub.lookup import require_repo
from adapthub.hub.members import create_organisation
from adapthub.hub.namespace_keys import add_key
from adapthub.hub.reference import Reference
from adapthub.hub.server.pages import auditing, knowing, lineage_graph
from adapthub.hub.server.pages.visitors import COOKIE
from adapthub.hub.signing import sign
from adapthub.hub.signing_keys import PublicKey
from adapthub.hub.storage.knowledge_tables import KnowledgeRow, ParentRow
from tests import asking
from tests.hub.server.governed import Api
from tests.hub.server.live import HubServer, live
from tests.hub.server.pages.filled import fill, measured, write
from tests.hub.server.pages.test_pages import BROWSER

KEY, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


class Pages:
    """A hub's pages, as a visitor with this token, or nobody, sees them."""

    def __init__(self, server: HubServer, token: str | None = None) -> None:
        self._url = server.url
        self._cookies = {} if token is None else {COOKIE: token}

    def __call__(self, address: str, status: int = 200) -> str:
        """A page that asks again by itself, since something is computed, is asked again."""
        with asking.client(headers=BROWSER, cookies=self._cookies) as client:
            while "refresh" in (answer := client.get(self._url + address)).headers:
                time.sleep(0.1)
        assert answer.status_code == status, (address, answer.text)
        return answer.text

    def section(self, address: str, id: str) -> str:
        """The words of one section of a page; "" where it is not there."""
        found = re.search(rf'<section id="{id}".*?</section>', self(address), re.DOTALL)
        return "" if found is None else words(found[0])


def words(html: str) -> str:
    """The text of a piece of a page, each run of spaces as one."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.fixture
def nobody(hub_server: HubServer) -> Pages:
    return Pages(hub_server)


@pytest.fixture
def hub(hub_server: HubServer, tmp_path: Path) -> EmbeddedHub:
    return EmbeddedHub(hub_server.data, cache=tmp_path / "cache")


def signed_in(server: HubServer, name: str, scope: Any = "write") -> Pages:
    return Pages(server, server.token(name, scope))


def hide(server: HubServer, name: str) -> None:
    server.client("root", "admin").update_repo_settings(name, private=True)


def test_lineage_goes_both_ways_and_private_children_are_not_there(
    hub_server: HubServer, hub: EmbeddedHub, nobody: Pages, tmp_path: Path
) -> None:
    parent = hub.push(write(tmp_path / "a", seed=1), "ada/parent")
    child = hub.push(write(tmp_path / "b", seed=2, parents=[parent_of(parent)]), "ada/child")
    hub.push(write(tmp_path / "c", seed=3, parents=[parent_of(child)]), "ada/hidden")
    hub.push(write(tmp_path / "d", seed=4), "ada/plain")
    hide(hub_server, "ada/hidden")
    for pages, seen in ((nobody, False), (signed_in(hub_server, "ada"), True)):
        boxes = re.findall(r"<title>(.*?)</title></text>", pages("/ada/child"))
        assert boxes == (["ada/hidden@v1"] if seen else []) + ["ada/child@v1", "ada/parent@v1"]
        assert ("ada/hidden" in pages.section("/ada/child", "together")) is seen
        assert len(re.findall('aria-current="true"', pages("/ada/child"))) == 1
    assert nobody.section("/ada/plain", "lineage") == ""


def test_a_long_lineage_is_cut_where_it_is_read(
    hub: EmbeddedHub, nobody: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = hub.push(write(tmp_path / "0", seed=0), "ada/line")
    for seed in range(1, 5):
        version = hub.push(write(tmp_path / str(seed), seed=seed, parents=[parent_of(version)]), "ada/line")
    for most, drawn in ((1, [4, 3, 2]), (2, [5, 4, 3, 2, 1])):
        monkeypatch.setattr(knowing, "MOST", most)
        monkeypatch.setattr(lineage_graph, "MOST", most)
        page = nobody("/ada/line/tree/v3")
        assert re.findall(r"<title>ada/line@v(\d)</title>", page) == [str(number) for number in drawn]
        assert ("more than is drawn" in page) is (most == 1)


def test_a_version_from_before_it_was_kept_has_a_page_without_it(
    hub_server: HubServer, hub: EmbeddedHub, nobody: Pages, tmp_path: Path
) -> None:
    first = hub.push(write(tmp_path / "a", seed=1), "ada/one")
    hub.push(write(tmp_path / "b", seed=2, parents=[parent_of(first)]), "ada/two")
    assert nobody.section("/ada/two", "together")
    assert "not known : this hub had no record" in words(nobody("/ada/two"))
    with hub_server.running.serving.store.database.writing() as session:
        session.execute(delete(ParentRow))
        session.execute(delete(KnowledgeRow))
    assert nobody.section("/ada/two", "together") == nobody.section("/ada/two", "lineage") == ""
    assert "no record of its base" not in nobody("/ada/two")
    assert "published before this was kept" in nobody("/compare?ref=ada/one&ref=ada/two")


def test_places_are_ranks_of_the_leaderboards_among_what_is_seen(
    hub_server: HubServer, hub: EmbeddedHub, nobody: Pages, tmp_path: Path
) -> None:
    for at, f1 in enumerate((0.9, 0.895, 0.8, 0.85, 0.7)):
        hub.push(write(tmp_path / str(at), seed=at, f1=f1), f"ada/a{at}")
    hide(hub_server, "ada/a0")
    callers = {None: Caller(), "ada": Caller("ada", "write", "x")}
    for name, caller in callers.items():
        pages = nobody if name is None else signed_in(hub_server, name)
        with hub_server.running.serving.store.database.reading() as session:
            for metric in ("f1", "loss"):
                board = leaderboard.ranking(
                    session, caller, base="org/roberta-base", task=None, dataset=None, metric=metric
                )
                page = pages(f"/leaderboard?base=org/roberta-base&metric={metric}")
                ranks = re.findall(
                    r'<th scope="row">(\d+)</th>\s*<td class="words"><a href="/(\S+?)/tree/v1">', page
                )
                assert ranks == [(str(one.rank), one.name) for one in board.standings]
                for one in board.standings:
                    repo = require_repo(session, Reference.parse(one.name))
                    (place,) = (
                        found
                        for found in leaderboard.places(session, caller, repo, limit=9)
                        if found.metric == metric
                    )
                    assert (place.rank, place.among) == (one.rank, len(board.standings))
    assert "f1 2 of 4 0.85 v1" in nobody.section("/ada/a3", "boards")
    assert "ada/a0" not in nobody("/leaderboard?base=org/roberta-base")


def test_values_of_unlike_numbers_of_rows_are_shown_as_such(
    hub: EmbeddedHub, nobody: Pages, tmp_path: Path
) -> None:
    hub.push(write(tmp_path / "0", seed=0, f1=0.9), "ada/all")
    asked = {"leaderboard": "/leaderboard?base=org/roberta-base&metric=f1", "compare": "/compare?ref=ada/all"}
    hub.push(write(tmp_path / "1", seed=1, f1=0.8), "ada/too")
    assert "Not all values are of the same rows" not in nobody(asked["leaderboard"])
    assert "of 3,453 rows" not in nobody(f"{asked['compare']}&ref=ada/too")
    hub.push(write(tmp_path / "2", seed=2, metrics={"test": measured(0.85, 128)}), "ada/some")
    found = words(nobody(asked["leaderboard"]))
    assert "Not all values are of the same rows: they are of 128 to 3,453 of 3,453." in found
    side = words(nobody(f"{asked['compare']}&ref=ada/some"))
    assert "0.9 0.888 to 0.911 of 3,453 rows" in side
    assert "0.85 0.838 to 0.861 of 128 rows" in side
    hub.push(write(tmp_path / "3", seed=3, metrics={"test": measured(0.88, 128)}), "ada/all")
    changed = words(nobody("/ada/all/diff/v1..v2"))
    assert "f1 test 0.9 0.888 to 0.911 of 3,453 rows 0.88 0.868 to 0.891 of 128 rows no" in changed


def test_leaderboards_that_are_not_one_are_listed(hub: EmbeddedHub, nobody: Pages, tmp_path: Path) -> None:
    assert "There is none yet" in nobody("/leaderboard")
    assert "No adapter was measured so" in nobody("/leaderboard?task=none", 404)
    hub.push(write(tmp_path / "a", seed=1, f1=0.9), "ada/a")
    hub.push(write(tmp_path / "b", seed=2, f1=0.9, base_seed=1), "ada/b")
    assert "Several leaderboards fit" in nobody("/leaderboard?base=org/roberta-base")
    listed = nobody("/leaderboard")
    links = re.findall(r'class="tag" href="([^"]+)"', listed)
    assert len(links) == 4
    for link in links:
        assert "Overlap with" in nobody(link.replace("&amp;", "&"))
    unknown = links[0].replace("&amp;", "&").replace("metric=f1", "metric=f2")
    assert "nothing was measured by &#39;f2&#39; there" in nobody(unknown, 404)
    assert 'href="/leaderboard"' in nobody("/")


def guard(server: HubServer, *gates: Gate) -> None:
    with server.running.serving.store.database.writing() as session:
        for gate in gates:
            set_gate(session, gate)


def test_gates_are_what_is_still_missing_and_who_may_see_what(
    hub_server: HubServer, hub: EmbeddedHub, nobody: Pages, tmp_path: Path
) -> None:
    ada, grace = hub_server.token("ada"), hub_server.token("grace")
    with hub_server.running.serving.store.database.writing() as session:
        create_organisation(session, "acme", "ada")
        add_key(session, "acme", "releases", PublicKey.of("releases", KEY.public_key()).pem)
    hub.push(write(tmp_path / "1", seed=1, f1=0.9), "acme/ner", alias="prod")
    made = write(tmp_path / "2", seed=2, f1=0.5)
    hub.push(made, "acme/ner")
    assert nobody.section("/acme/ner", "gates") == ""
    guard(
        hub_server,
        Gate("acme", "ner", "prod", signature=True, evaluations=("test/f1",)),
        Gate("acme", "", "canary-*", reviewers=2),
        Gate("acme", "ner", "gold", signature=True),
    )
    outside, inside = (
        one.section("/acme/ner", "gates") for one in (Pages(hub_server, grace), Pages(hub_server, ada))
    )
    assert nobody.section("/acme/ner", "gates") == outside
    assert outside.endswith("prod v1 guarded shown to members of acme")
    assert "prod v1 is there" in nobody.section("/acme/ner/tree/v1", "gates")
    assert "prod v1 may not move it needs a signature" in inside
    assert "its f1 on test is 0.5, worse than the 0.888 that v1" in inside
    assert "acme/ner prod: a signature, test/f1 not worse" in inside
    assert "canary-* – no alias yet acme/* canary-*: 2 reviewers" in inside
    assert "gold – may not move it needs a signature" in inside
    assert "prod v1 is there" in Pages(hub_server, ada).section("/acme/ner/tree/v1", "gates")

    assert "not signed" in words(nobody("/acme/ner"))
    hub.attach_signature("acme/ner@v2", sign(made.sha256s, OTHER))
    assert "signed by a key that acme does not know" in words(nobody("/acme/ner"))
    hub.attach_signature("acme/ner@v2", sign(made.sha256s, KEY))
    assert "signed by releases , a key of acme" in words(nobody("/acme/ner"))
    assert "prod v1 may not move its f1" in Pages(hub_server, ada).section("/acme/ner", "gates")


def test_approvals_are_named_to_members(hub_server: HubServer, nobody: Pages, tmp_path: Path) -> None:
    ada, grace = Api(hub_server, "ada"), Api(hub_server, "grace")
    upload(hub_server, write(tmp_path / "1", seed=1), "shared/ner")
    assert ada.refused("PUT", "/api/models/shared/ner/approval/v1")
    grace("PUT", "/api/models/shared/ner/approval/v1")
    assert "Approved by grace" in words(signed_in(hub_server, "ada")("/shared/ner"))
    assert "grace" not in words(nobody("/shared/ner"))


def upload(server: HubServer, adapter: Artifact, name: str) -> None:
    api = server.client("ada")
    api.create_repo(name)
    api.upload_folder(repo_id=name, folder_path=adapter.path)


def test_a_version_that_was_signed_later_is_that_version(
    hub: EmbeddedHub, nobody: Pages, tmp_path: Path
) -> None:
    first = write(tmp_path / "1", seed=1, f1=0.8)
    hub.push(first, "ada/ner", alias="prod")
    hub.push(write(tmp_path / "2", seed=2, f1=0.9), "ada/ner")
    hub.attach_signature("ada/ner@v1", sign(first.sha256s, KEY))
    for revision in ("v1", "prod", first.digest[7:20]):
        page = nobody(f"/ada/ner/tree/{revision}")
        assert "which is no version" not in page
        assert '<span class="name soft">v1</span>' in page
        assert "model.sig" in page
    assert "of v2" not in nobody("/ada/ner/tree/prod")
    assert "The same adapter" in nobody("/ada/ner/diff/prod..v1")


def test_the_audit_log_is_for_admins_of_the_hub(
    hub_server: HubServer, hub: EmbeddedHub, nobody: Pages, tmp_path: Path
) -> None:
    hub.push(write(tmp_path / "1", seed=1), "ada/secret")
    alone = nobody("/audit", 401)
    writer = signed_in(hub_server, "ada")
    for page in (alone, nobody("/audit", 401), writer("/audit?repo=ada/secret", 403)):
        assert "ada/secret" not in words(page)
        assert "repo.made" not in page
    assert "Sign in first" in alone
    admin = signed_in(hub_server, "root", "admin")
    assert "repo.made" in admin("/audit")
    for pages, seen in ((nobody, False), (writer, False), (admin, True)):
        assert ('href="/audit"' in pages("/")) is seen


def test_the_audit_log_is_filtered_and_each_entry_is_on_one_page(
    hub_server: HubServer, hub: EmbeddedHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "PAGE", 3)
    admin = signed_in(hub_server, "root", "admin")
    hub.push(write(tmp_path / "1", seed=1), "ada/ner", alias="prod")
    hub.push(write(tmp_path / "2", seed=2), "zoe/ner")
    hide(hub_server, "ada/ner")
    api = Api(hub_server, "root", "admin")
    for query in (
        "",
        "repo=ada/ner",
        "namespace=zoe",
        "actor=root",
        "action=version",
        "repo=ada/ner&actor=root",
    ):
        expected = [str(entry["number"]) for entry in api("GET", f"/api/audit?{query}")]
        seen: list[str] = []
        address = f"/audit?{query}"
        while address:
            page = admin(address)
            seen += re.findall(r'<th scope="row">(\d+)</th>', page)
            following = re.search(r'rel="next" href="([^"]+)"', page)
            address = following[1].replace("&amp;", "&") if following else ""
        assert seen == expected, query
        assert expected
    assert "No entry fits" in admin("/audit?actor=nobody")
    head = api("GET", "/api/audit?limit=1")[0]["hash"]
    assert f'<code id="head">{head}</code>' in admin("/audit?actor=nobody")


def test_the_chain_is_computed_where_it_is_asked_for_and_short(
    hub_server: HubServer, hub: EmbeddedHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(write(tmp_path / "1", seed=1), "ada/ner")
    admin = signed_in(hub_server, "root", "admin")
    assert "entries is as it was written" in admin("/audit?verify=1")
    with hub_server.running.serving.store.database.writing() as session:
        session.execute(text("DROP TRIGGER audit_no_update"))
        session.execute(text("UPDATE audit SET actor = 'mallory' WHERE number = 2"))
    assert "is broken" not in admin("/audit")
    assert "the audit log is broken at entry 2" in admin("/audit?verify=1")
    monkeypatch.setattr(auditing, "MOST_VERIFIED", 2)
    long = admin("/audit?verify=1")
    assert "too long to be computed again" in long
    assert "is broken" not in long
    assert "Verify the chain" not in long


@pytest.mark.slow
def test_every_page_over_postgresql(tmp_path: Path, new_database: Callable[[], str]) -> None:
    database = new_database()
    with live(tmp_path / "served", database=database) as server:
        hub = EmbeddedHub(server.data, cache=tmp_path / "cache", database=database)
        fill(hub, tmp_path / "made", database=database)
        asked = {
            Pages(server): "shown to members of acme",
            signed_in(server, "root", "admin"): "it needs a signature",
        }
        for pages, gates in asked.items():
            assert "acme/ner" in pages("/?metric=f1>=0.8")
            assert "org/roberta-base" in pages("/leaderboard")
            assert "1 of 3" in pages.section("/acme/ner", "boards")
            assert gates in pages.section("/acme/ner/tree/v2", "gates")
            assert "acme/ner@v4" in pages.section("/acme/ner/tree/v1", "lineage")
            assert pages("/leaderboard?task=text-classification&metric=loss").count('class="drawn"') == 6
            assert "f1 test" in words(pages("/compare?ref=acme/ner&ref=acme/ner-news"))
        assert "alias.moved" in pages("/audit?namespace=acme&action=alias.moved&repo=acme/ner")
        assert "entries is as it was written" in pages("/audit?verify=1")
