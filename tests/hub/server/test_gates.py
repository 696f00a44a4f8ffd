"""Gates over HTTP and over the embedded hub: what a move lacks is said, a move that lacks nothing happens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from sqlalchemy.orm import Session

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import Conflict, Forbidden, InvalidReference, InvalidSettings, SignatureError
from adapthub.adapters.manifest import DataRecord
from adapthub.hub import accounts, audit, gates, namespace_keys, webhooks
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.gates import Gate, GateRefused
from adapthub.hub.signing import sign
from adapthub.hub.signing_keys import PublicKey
from adapthub.hub.storage.database import Database
from adapthub.hub.storage.folder_blobs import FolderBlobs
from adapthub.hub.store import Store
from tests import asking
from tests.hub.adapters import manifest, write_adapter
from tests.hub.server.governed import Api
from tests.hub.server.live import HubServer, live

KEY, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
PEM = PublicKey.of("releases", KEY.public_key()).pem


def guarded(root: Path, **asked: object) -> EmbeddedHub:
    """A hub whose acme/ner has a gate on prod."""
    with Store.open(root).database.writing() as session:
        gates.set_gate(session, Gate("acme", "ner", "prod", **asked))  # type: ignore[arg-type]
    return EmbeddedHub(root, cache=root.with_name("cache"))


def measured(
    folder: Path, seed: int, f1: float | None, data: str | None = "one", split: str = "test"
) -> Artifact:
    record = {} if data is None else {split: DataRecord(fingerprint=data, rows=100)}
    metrics = {} if f1 is None else {split: {"f1": f1}}
    return write_adapter(folder / f"m{seed}", seed=seed, manifest=manifest(metrics=metrics, data=record))


def refusal(hub: EmbeddedHub, ref: str, alias: str = "prod") -> tuple[str, ...]:
    with pytest.raises(GateRefused) as refused:
        hub.promote(ref, alias)
    return refused.value.unmet


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubServer]:
    """An empty hub over each database."""
    url = request.getfixturevalue("new_database")() if request.param == "postgres" else None
    with live(tmp_path / "served", database=url) as server:
        yield server


def test_a_release_from_push_to_promotion(any_server: HubServer, tmp_path: Path) -> None:
    """One that pushes, one that reviews, and a key: over HTTP with the clients that each would use."""
    hub_server = any_server
    ada, grace, root = (Api(hub_server, name) for name in ("ada", "grace", "mallory"))
    ada("POST", "/api/namespaces/acme/create")
    ada("PUT", "/api/namespaces/acme/members/grace", {"role": "write"})
    ada("PUT", "/api/namespaces/acme/keys/releases", {"pem": PEM})
    asked = {"name": "ner", "alias": "prod", "signature": True, "evaluations": ["test/f1"], "reviewers": 1}
    assert ada("PUT", "/api/namespaces/acme/gates", asked) == {"namespace": "acme", **asked}
    assert root.raw("GET", "/api/namespaces/acme/gates").status_code == 403
    api = hub_server.client("ada")
    api.create_repo("acme/ner")
    artifact = measured(tmp_path, 1, 0.8)
    api.upload_folder(repo_id="acme/ner", folder_path=artifact.path)
    promote = ("PUT", "/api/models/acme/ner/aliases/prod", {"revision": "v1"})
    message = ada.refused(*promote)
    assert "needs a signature by a key of acme: v1 is not signed" in message
    assert "needs the approval of 1 other than ada, and has none" in message
    assert "f1" not in message
    assert ada.raw(*promote[:2], json=promote[2]).headers["x-error-code"] == "GateRefused"
    state = grace("GET", "/api/models/acme/ner/gates/v1?alias=prod")
    assert (state["version"], len(state["unmet"]), state["approvals"]) == (1, 2, [])

    assert "ada pushed v1" in ada.refused("PUT", "/api/models/acme/ner/approval/v1")
    assert "may not write" in root.refused("PUT", "/api/models/acme/ner/approval/v1")
    assert grace("PUT", "/api/models/acme/ner/approval/v1")["approvals"] == ["grace"]
    api.upload_file(path_or_fileobj=sign(artifact.sha256s, KEY), path_in_repo="model.sig", repo_id="acme/ner")
    assert ada("GET", "/api/models/acme/ner/gates/main?alias=prod")["unmet"] == []
    assert ada(*promote)["number"] == 1
    assert api.model_info("acme/ner", revision="prod").sha == api.model_info("acme/ner").sha

    grace("DELETE", "/api/models/acme/ner/approval/v1")
    assert len(ada("GET", "/api/models/acme/ner/gates/v1?alias=prod")["unmet"]) == 1
    assert ada(*promote)["number"] == 1  # it is there already
    entries = Api(hub_server, "root", "admin")("GET", "/api/audit?repo=acme/ner")
    assert [entry["action"] for entry in entries][::-1] == [
        "gate.set",
        "repo.made",
        "commit",
        "version",
        "gate.refused",
        "gate.refused",
        "approved",
        "commit",
        "signature",
        "alias.moved",
        "approval.withdrawn",
    ]
    assert entries[-5]["detail"]["unmet"] == state["unmet"]
    assert [entry["actor"] for entry in entries[:2]] == ["grace", "ada"]


def test_no_file_is_read_while_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs may be far away: what gates read of them is read before the transaction that promotes."""
    hub = guarded(tmp_path / "hub", signature=True, evaluations=("test/f1",))
    with Store.open(tmp_path / "hub").database.writing() as session:
        namespace_keys.add_key(session, "acme", "releases", PEM)
    writing = Database.writing
    read = FolderBlobs.read
    within: list[bool] = []
    reads: list[bool] = []

    @contextmanager
    def noted(database: Database) -> Iterator[Session]:
        with writing(database) as session:
            within.append(True)
            yield session
            within.pop()

    def reading(blobs: FolderBlobs, *where: Any) -> bytes:
        reads.append(bool(within))
        return read(blobs, *where)

    monkeypatch.setattr(Database, "writing", noted)
    monkeypatch.setattr(FolderBlobs, "read", reading)
    for number in (1, 2, 3):
        artifact = measured(tmp_path, number, 0.8)
        (artifact.path / "model.sig").write_bytes(sign(artifact.sha256s, KEY))
        hub.push(Artifact.read(artifact.path), "acme/ner", alias="prod" if number == 2 else None)
        hub.promote(f"acme/ner@v{number}", "prod")
    assert reads
    assert not any(reads)


def test_the_same_gate_holds_without_the_server(hub_server: HubServer, tmp_path: Path) -> None:
    hub = guarded(hub_server.data, reviewers=1)
    hub.push(measured(tmp_path, 1, 0.8), "acme/ner")
    assert refusal(hub, "acme/ner") == (
        "it needs the approval of 1 other than whoever pushed it, and has none",
    )
    with pytest.raises(Forbidden, match="prod may not move to v2"):
        hub.push(measured(tmp_path, 2, 0.8), "acme/ner", alias="prod")
    assert hub.resolve("acme/ner").number == 1
    hub.promote("acme/ner", "staging")
    Api(hub_server, "grace")("PUT", "/api/models/acme/ner/approval/v1")
    assert hub.promote("acme/ner", "prod").number == 1
    with Store.open(hub_server.data).database.reading() as session:
        assert [entry.detail["alias"] for entry in audit.entries(session, action="gate.refused")] == [
            "prod"
        ] * 2


EVALUATIONS = [
    (0.80, 0.81, "one", None),
    (0.80, 0.75, "one", None),  # the interval begins there
    (0.80, 0.749, "one", "its f1 on test is 0.749, worse than the 0.75 that v1's interval ends at"),
    (0.80, 0.90, "two", "its f1 on test is over other data than v1's"),
    (0.80, 0.90, None, "its manifest does not say over which data its f1 on test is, as v1's does"),
    (0.80, None, "one", "its manifest has no f1 on test"),
    (None, 0.10, "two", None),  # nothing to compare with
]
"""What the current version has and the next one, over which data (the current one's: "one"), and what that lacks."""


def test_an_evaluation_is_not_worse(tmp_path: Path) -> None:
    hub = EmbeddedHub(tmp_path / "hub")
    for number, (before, after, data, _) in enumerate(EVALUATIONS):
        folder = tmp_path / str(number)
        hub.push(measured(folder, 1, before), f"acme/ner{number}", alias="prod")
        hub.push(measured(folder, 2, after, data), f"acme/ner{number}")
    with Store.open(tmp_path / "hub").database.writing() as session:
        gates.set_gate(session, Gate("acme", "", "prod", evaluations=("test/f1",)))
    for number, (*_, words) in enumerate(EVALUATIONS):
        if words is None:
            assert hub.promote(f"acme/ner{number}@v2", "prod").number == 2, number
        else:
            assert refusal(hub, f"acme/ner{number}@v2") == (words,), number


def test_less_is_better_where_that_is_said(tmp_path: Path) -> None:
    hub = guarded(tmp_path / "hub", evaluations=("test/f1:lower",))
    hub.push(measured(tmp_path, 1, 0.8), "acme/ner", alias="prod")
    hub.push(measured(tmp_path, 2, 0.86), "acme/ner")
    assert refusal(hub, "acme/ner") == (
        "its f1 on test is 0.86, worse than the 0.85 that v1's interval ends at",
    )
    hub.push(measured(tmp_path, 3, 0.2), "acme/ner", alias="prod")


def test_the_first_version_needs_a_number_alone(tmp_path: Path) -> None:
    hub = guarded(tmp_path / "hub", evaluations=("test/f1", "held-out/f1"))
    hub.push(measured(tmp_path, 1, 0.1), "acme/ner")
    assert refusal(hub, "acme/ner") == ("its manifest has no f1 on held-out",)
    hub = guarded(tmp_path / "hub", evaluations=("test/f1",))
    hub.promote("acme/ner", "prod")


def test_a_rollback_asks_no_gate_and_is_recorded(hub_server: HubServer, tmp_path: Path) -> None:
    hub = EmbeddedHub(hub_server.data)
    for seed in (1, 2):
        hub.push(measured(tmp_path, seed, 0.8), "acme/ner", alias="prod")
    guarded(hub_server.data, signature=True)
    root = Api(hub_server, "root", "admin")
    assert root("POST", "/api/models/acme/ner/aliases/prod/rollback")["number"] == 1
    assert root("GET", "/api/audit?action=alias.moved&limit=1")[0]["detail"]["rollback"] is True
    assert "is not signed" in root.refused("PUT", "/api/models/acme/ner/aliases/prod", {"revision": "v2"})


def test_a_gate_of_a_namespace_and_a_pattern(tmp_path: Path) -> None:
    hub = EmbeddedHub(tmp_path / "hub")
    with Store.open(tmp_path / "hub").database.writing() as session:
        gates.set_gate(session, Gate("acme", "", "prod*", signature=True))
    for name in ("acme/ner", "acme/tone", "other/ner"):
        hub.push(measured(tmp_path / name, 1, 0.8), name)
    for name, alias in (("acme/ner", "prod"), ("acme/tone", "prod-eu")):
        assert len(refusal(hub, name, alias)) == 1
    hub.promote("acme/ner", "staging")
    hub.promote("other/ner", "prod")


def test_a_reviewer_without_a_role_any_more_counts_no_more(hub_server: HubServer, tmp_path: Path) -> None:
    ada, grace = Api(hub_server, "ada"), Api(hub_server, "grace")
    ada("POST", "/api/namespaces/acme/create")
    ada("PUT", "/api/namespaces/acme/members/grace", {"role": "write"})
    hub = guarded(hub_server.data, reviewers=1)
    hub.push(measured(tmp_path, 1, 0.8), "acme/ner")
    grace("PUT", "/api/models/acme/ner/approval/v1")
    ada("PUT", "/api/namespaces/acme/members/grace", {"role": "read"})
    assert len(refusal(hub, "acme/ner")) == 1
    ada("PUT", "/api/namespaces/acme/members/grace", {"role": "write"})
    hub.promote("acme/ner", "prod")


def test_a_reviewer_whose_account_was_removed_counts_no_more(hub_server: HubServer, tmp_path: Path) -> None:
    """In a namespace that is nobody's too, where no role goes with the account."""
    hub = guarded(hub_server.data, reviewers=1)
    hub.push(measured(tmp_path, 1, 0.8), "acme/ner")
    Api(hub_server, "grace")("PUT", "/api/models/acme/ner/approval/v1")
    with hub_server.running.serving.store.database.writing() as session:
        accounts.remove_account(session, "grace")
    assert len(refusal(hub, "acme/ner")) == 1


def test_a_gate_is_not_left_by_another_name(hub_server: HubServer, tmp_path: Path) -> None:
    """What one may write one may not move away, promote there, and move back; nor delete and make again."""
    ada, grace = Api(hub_server, "ada"), Api(hub_server, "grace")
    ada("POST", "/api/namespaces/acme/create")
    ada("PUT", "/api/namespaces/acme/members/grace", {"role": "write"})
    hub = guarded(hub_server.data, reviewers=1)
    hub.push(measured(tmp_path, 1, 0.8), "acme/ner")
    moving = {"fromRepo": "acme/ner", "toRepo": "grace/ner"}
    assert "may not administer acme/" in grace.refused("POST", "/api/repos/move", moving)
    assert "may not administer" in grace.refused("DELETE", "/api/repos/delete", {"name": "acme/ner"})
    assert ada.raw("POST", "/api/repos/move", json={**moving, "toRepo": "acme/names"}).status_code == 200
    assert len(refusal(hub, "acme/names")) == 1


def test_a_gate_is_not_passed_by_a_tag_of_the_aliass_name(hub_server: HubServer, tmp_path: Path) -> None:
    hub, api = EmbeddedHub(hub_server.data), hub_server.client()
    hub.push(measured(tmp_path, 1, 0.8), "acme/ner")
    api.create_tag("acme/ner", tag="stable")
    guarded(hub_server.data, reviewers=1)
    said = "prod is a name that the gate for prod of acme/ner guards"
    with pytest.raises(HfHubHTTPError, match=said):
        api.create_tag("acme/ner", tag="prod")
    with pytest.raises(HfHubHTTPError, match=said):
        api.create_branch("acme/ner", branch="prod")
    with pytest.raises(Conflict, match="a branch or a tag stable"):
        hub.promote("acme/ner", "stable")
    with (
        pytest.raises(Conflict, match="acme/ner has a branch or a tag stable, which the gate for st"),
        Store.open(hub_server.data).database.writing() as session,
    ):
        gates.set_gate(session, Gate("acme", "", "st*", reviewers=1))
    with Store.open(hub_server.data).database.writing() as session:
        gates.set_gate(session, Gate("other", "", "*", reviewers=1))
        gates.set_gate(session, Gate("acme", "tone", "stable", reviewers=1))
    api.delete_tag("acme/ner", tag="stable")
    hub.promote("acme/ner", "stable")


def test_a_gate_is_not_passed_by_moving_there(hub_server: HubServer, tmp_path: Path) -> None:
    """Promoted where no gate is, and moved to the name that one guards: for admins of that namespace alone."""
    ada, grace = Api(hub_server, "ada"), Api(hub_server, "grace")
    ada("POST", "/api/namespaces/acme/create")
    ada("PUT", "/api/namespaces/acme/members/grace", {"role": "write"})
    hub = guarded(hub_server.data, reviewers=1)
    hub.push(measured(tmp_path, 1, 0.8), "grace/ner", alias="prod")
    moving = {"fromRepo": "grace/ner", "toRepo": "acme/ner"}
    assert "may not administer acme/" in grace.refused("POST", "/api/repos/move", moving)
    assert grace.raw("POST", "/api/repos/move", json={**moving, "toRepo": "acme/other"}).is_success
    hub.push(measured(tmp_path, 2, 0.8), "ada/ner", alias="prod")
    hub_server.client("ada").create_branch("ada/ner", branch="prod-eu")
    with Store.open(hub_server.data).database.writing() as session:
        gates.set_gate(session, Gate("acme", "ner", "prod-*", reviewers=1))
    moving = {**moving, "fromRepo": "ada/ner"}
    assert "a branch or a tag prod-eu" in ada.refused("POST", "/api/repos/move", moving, 409)
    hub_server.client("ada").delete_branch("ada/ner", branch="prod-eu")
    assert ada.raw("POST", "/api/repos/move", json=moving).is_success


def test_a_signature_that_is_believed_is_not_replaced_by_one_that_is_not(
    hub_server: HubServer, tmp_path: Path
) -> None:
    hub = EmbeddedHub(hub_server.data, cache=tmp_path / "cache")
    artifact = measured(tmp_path, 1, 0.8)
    hub.push(artifact, "acme/ner")
    mine, others, again = (sign(artifact.sha256s, key) for key in (KEY, OTHER, KEY))
    hub.attach_signature("acme/ner", others)
    hub.attach_signature("acme/ner", mine)
    hub.attach_signature("acme/ner", others)  # no key is believed yet: the newest counts
    root = Api(hub_server, "root", "admin")
    root("PUT", "/api/namespaces/acme/keys/releases", {"pem": PEM})
    hub.attach_signature("acme/ner", mine)
    said = "v1 of acme/ner is signed by a key of acme"
    with pytest.raises(Conflict, match=said):
        hub.attach_signature("acme/ner", others)
    with pytest.raises(HfHubHTTPError, match=said):
        hub_server.client().upload_file(path_or_fileobj=others, path_in_repo="model.sig", repo_id="acme/ner")
    (artifact.path / "model.sig").write_bytes(others)
    with pytest.raises(Conflict, match=said):
        hub.push(Artifact.read(artifact.path), "acme/ner")
    assert hub.pull("acme/ner").signature == mine
    hub.attach_signature("acme/ner", again)
    assert hub.pull("acme/ner").signature == again


def test_a_signature_is_a_change_of_main_like_any_other(hub_server: HubServer, tmp_path: Path) -> None:
    hub, api = EmbeddedHub(hub_server.data), hub_server.client()
    artifact = measured(tmp_path, 1, 0.8)
    hub.push(artifact, "ada/ner")
    hub.push(measured(tmp_path, 2, 0.8), "ada/later")
    with Store.open(hub_server.data).database.writing() as session:
        hook, _ = webhooks.add(session, "ada", "https://ci.example.com/", events=["signature", "commit"])
    before = api.model_info("ada/ner")
    ada = Api(hub_server, "ada")
    bundle = sign(artifact.sha256s, KEY)
    assert ada.raw("PUT", "/api/models/ada/ner/signature/v1", content=bundle).is_success
    after = api.model_info("ada/ner")
    assert after.sha != before.sha
    assert before.last_modified is not None
    assert after.last_modified is not None
    assert after.last_modified > before.last_modified
    assert [model.id for model in api.list_models()] == ["ada/ner", "ada/later"]
    assert [entry.name for entry in hub.search("ner")] == ["ada/ner"]
    with Store.open(hub_server.data).database.reading() as session:
        signature, commit = audit.entries(session, repo="ada/ner")[:2]
        assert (signature.action, signature.actor, commit.action) == ("signature", "ada", "commit")
        assert commit.detail == {"branch": "main", "commit": after.sha, "title": "Signature of v1"}
        told = webhooks.deliveries(session, webhooks.require(session, hook.id))
        assert [one.type for one in told] == ["signature", "commit"]


def test_what_lacks_is_said_to_members(hub_server: HubServer, tmp_path: Path) -> None:
    hub = guarded(hub_server.data, reviewers=1)
    hub.push(measured(tmp_path, 1, 0.8), "acme/ner")
    url = f"{hub_server.url}/api/models/acme/ner/gates/v1?alias=prod"
    Api(hub_server, "root", "admin")("POST", "/api/namespaces/acme/create")
    assert asking.get(url).status_code == 401
    eve = Api(hub_server, "eve")
    assert "may not read acme/" in eve.refused("GET", "/api/models/acme/ner/gates/v1?alias=prod")


def test_signatures_come_with_push_and_pull_and_later(hub_server: HubServer, tmp_path: Path) -> None:
    hub = EmbeddedHub(hub_server.data, cache=tmp_path / "cache")
    first, second = (measured(tmp_path, seed, 0.8) for seed in (1, 2))
    (first.path / "model.sig").write_bytes(sign(first.sha256s, KEY))
    version = hub.push(Artifact.read(first.path), "acme/ner")
    assert version.digest == first.digest
    hub.push(second, "acme/ner", alias="prod")
    assert hub.pull("acme/ner@v1").signature == (first.path / "model.sig").read_bytes()
    assert hub.pull("acme/ner").signature is None
    api = hub_server.client()

    def files(revision: str) -> set[str]:
        return set(api.list_repo_files("acme/ner", revision=revision))

    assert ("model.sig" in files("v1"), "model.sig" in files("v2")) == (True, False)
    bundle = sign(second.sha256s, KEY)
    with pytest.raises(SignatureError, match="acme/ner@v1 has another"):
        hub.attach_signature("acme/ner@v1", bundle)
    commit = hub.attach_signature("acme/ner@prod", bundle)
    assert (commit.number, len(hub.show("acme/ner").versions)) == (2, 2)
    digest = second.digest.removeprefix("sha256:")
    for revision in ("v2", "prod", "main", "latest", digest, digest[:12]):
        assert "model.sig" in files(revision), revision
    folder = snapshot_download(
        "acme/ner", revision="prod", endpoint=hub_server.url, local_dir=tmp_path / "downloaded"
    )
    assert Artifact.read(folder).signature == bundle
    assert hub.pull("acme/ner@prod").signature == bundle
    assert (hub.pull("acme/ner@v2").path / "model.sig").read_bytes() == bundle
    assert Artifact.read(hub.pull("acme/ner@v2").path).digest == second.digest
    refs = api.list_repo_refs("acme/ner")
    assert api.model_info("acme/ner", revision="prod").sha in {ref.target_commit for ref in refs.tags}


def test_an_old_version_is_signed_by_http_and_by_a_branch(hub_server: HubServer, tmp_path: Path) -> None:
    hub = EmbeddedHub(hub_server.data, cache=tmp_path / "cache")
    artifacts = [measured(tmp_path, seed, 0.8) for seed in (1, 2, 3)]
    for artifact in artifacts:
        hub.push(artifact, "ada/ner")
    ada, api = Api(hub_server, "ada"), hub_server.client()
    main = api.model_info("ada/ner").sha
    bundles = [sign(artifact.sha256s, KEY) for artifact in artifacts]
    refused = ada.raw("PUT", "/api/models/ada/ner/signature/v1", content=bundles[1])
    assert (refused.status_code, "v1 of ada/ner has another" in refused.text) == (422, True)
    assert ada.raw("PUT", "/api/models/ada/ner/signature/v1", content=bundles[0]).json()["version"] == 1
    api.create_branch("ada/ner", branch="signing", revision="v2")
    api.upload_file(
        path_or_fileobj=bundles[1], path_in_repo="model.sig", repo_id="ada/ner", revision="signing"
    )
    assert [hub.pull(f"ada/ner@v{n}").signature for n in (1, 2, 3)] == [*bundles[:2], None]
    assert api.model_info("ada/ner").sha == main
    hub.push(artifacts[0], "ada/ner")
    assert len(hub.show("ada/ner").versions) == 3


def test_a_signature_of_other_files_counts_for_nothing(hub_server: HubServer, tmp_path: Path) -> None:
    hub = guarded(hub_server.data, signature=True)
    artifact = measured(tmp_path, 1, 0.8)
    hub.push(artifact, "acme/ner")
    api = hub_server.client()
    for data in (b"{}", sign({"README.md": "0" * 64}, KEY)):
        api.upload_file(path_or_fileobj=data, path_in_repo="model.sig", repo_id="acme/ner")
        assert hub.pull("acme/ner").signature is None
    (artifact.path / "model.sig").write_bytes(sign({"README.md": "0" * 64}, KEY))
    with pytest.raises(SignatureError):
        hub.push(Artifact.read(artifact.path), "acme/ner")
    hub.attach_signature("acme/ner", sign(artifact.sha256s, OTHER))
    Api(hub_server, "root", "admin")("PUT", "/api/namespaces/acme/keys/releases", {"pem": PEM})
    assert "which is not trusted here (trusted: releases" in refusal(hub, "acme/ner")[0]
    hub.attach_signature("acme/ner", sign(artifact.sha256s, KEY))
    hub.promote("acme/ner", "prod")


def test_a_new_version_over_a_signed_one_is_not_signed(hub_server: HubServer, tmp_path: Path) -> None:
    """A plain client leaves model.sig where it is; then it is over other files."""
    api, artifact = hub_server.client(), measured(tmp_path, 1, 0.8)
    api.create_repo("ada/ner")
    (artifact.path / "model.sig").write_bytes(sign(artifact.sha256s, KEY))
    api.upload_folder(repo_id="ada/ner", folder_path=artifact.path)
    second = measured(tmp_path, 2, 0.8)
    api.upload_folder(repo_id="ada/ner", folder_path=second.path)
    hub = EmbeddedHub(hub_server.data, cache=tmp_path / "cache")
    assert [hub.pull(f"ada/ner@v{n}").signature is None for n in (1, 2)] == [False, True]


def test_a_repository_with_all_of_it_is_deleted(hub_server: HubServer, tmp_path: Path) -> None:
    hub = EmbeddedHub(hub_server.data)
    artifact = measured(tmp_path, 1, 0.8)
    hub.push(artifact, "ada/ner", alias="prod")
    hub.attach_signature("ada/ner", sign(artifact.sha256s, KEY))
    Api(hub_server, "ada")("PUT", "/api/models/ada/ner/approval/v1")
    shutil.rmtree(artifact.path)
    api = hub_server.client("ada")
    api.delete_repo("ada/ner")
    with pytest.raises(HfHubHTTPError):
        api.model_info("ada/ner")


@pytest.mark.parametrize(
    ("alias", "asked", "error"),
    [
        ("", {"reviewers": 1}, InvalidReference),
        ("a/b", {"reviewers": 1}, InvalidReference),
        ("prod", {}, InvalidSettings),
        ("prod", {"reviewers": -1}, InvalidSettings),
        ("prod", {"reviewers": 21}, InvalidSettings),
        ("prod", {"evaluations": ("f1",)}, InvalidSettings),
        ("prod", {"evaluations": ("a/b/c",)}, InvalidSettings),
        ("prod", {"evaluations": ("test/f1:higher",)}, InvalidSettings),
    ],
)
def test_gates_that_cannot_be(
    tmp_path: Path, alias: str, asked: dict[str, object], error: type[Exception]
) -> None:
    store = Store.open(tmp_path)
    with pytest.raises(error), store.database.writing() as session:
        gates.set_gate(session, Gate("acme", "ner", alias, **asked))  # type: ignore[arg-type]
