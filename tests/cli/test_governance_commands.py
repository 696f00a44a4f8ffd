"""adapt hub audit, gate, key, approve, webhook, org, member, account: what they print and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.hub.adapters import manifest, write_adapter
from tests.hub.server.governed import receiver


def read(cli: Command, *arguments: str | Path) -> Any:
    return json.loads(cli(*arguments, "--json").fine())


@pytest.fixture
def published(cli: Command, tmp_path: Path) -> Path:
    """acme/ner v1, with a number on the test split."""
    folder = write_adapter(tmp_path / "made", manifest=manifest(metrics={"test": {"f1": 0.8}})).path
    cli("push", folder, "acme/ner").fine()
    return folder


def test_a_gate_is_set_met_and_removed(cli: Command, published: Path) -> None:
    for name in ("ada", "grace"):
        cli("hub", "token", "create", name, "--scope", "write").fine()
    cli("hub", "org", "create", "acme", "--admin", "ada").fine()
    cli("hub", "member", "add", "acme", "grace", "--role", "write").fine()
    cli("key", "create", "releases").fine()
    cli("hub", "key", "add", "acme", "releases").fine()
    said = cli(
        "hub", "gate", "set", "acme/ner", "prod", "--signature", "--evaluation", "test/f1", "--reviewers", "1"
    ).fine()
    assert said == "prod of acme/ner needs a signature, test/f1 that is not worse, 1 approving.\n"
    (gate,) = read(cli, "hub", "gate", "list", "acme")
    assert (gate["name"], gate["reviewers"], gate["evaluations"]) == ("ner", 1, ["test/f1"])
    line = cli("promote", "acme/ner", "prod").refused()
    assert "v1 is not signed" in line
    assert "the approval of 1 other than whoever pushed it" in line
    cli("sign", "acme/ner@v1").fine()
    assert read(cli, "hub", "approve", "acme/ner@v1", "--as", "grace")["approvals"] == ["grace"]
    assert cli("promote", "acme/ner", "prod").fine().startswith("prod is now acme/ner")
    cli("hub", "gate", "remove", "acme/ner", "prod").fine()
    assert "no gate" in cli("hub", "gate", "remove", "acme/ner", "prod").refused()
    cli("hub", "key", "remove", "acme", "releases").fine()
    assert cli("hub", "key", "list", "acme").fine().startswith("No keys yet")


def test_approvals_that_do_not_count_are_refused(cli: Command, published: Path) -> None:
    assert "may not write to acme/" in cli("hub", "approve", "acme/ner", "--as", "nobody").refused()
    assert "no revision v7" in cli("hub", "approve", "acme/ner@v7", "--as", "nobody").refused()


def test_the_audit_log_is_shown_and_verified(cli: Command, published: Path) -> None:
    cli("promote", "acme/ner", "prod").fine()
    found = read(cli, "hub", "audit")
    assert [entry["action"] for entry in found] == ["alias.moved", "version", "commit", "repo.made"]
    assert found[0]["previous"] == found[1]["hash"]
    assert read(cli, "hub", "audit", "--action", "version", "--repo", "acme/ner")[0]["number"] == 3
    assert "alias.moved" in cli("hub", "audit").fine()
    head = read(cli, "hub", "audit", "--verify")["head"]
    assert head == found[0]["hash"]
    assert cli("hub", "audit", "--verify", "--expect", head).fine().startswith("All 4 entries")
    assert "cut off" in cli("hub", "audit", "--verify", "--expect", "0" * 63 + "1").refused()


def test_webhooks_are_added_tested_and_removed(cli: Command, published: Path) -> None:
    with receiver() as got:
        made = read(cli, "hub", "webhook", "add", "acme/ner", got.url, "--event", "version")
        assert made["secret"].startswith("whsec_")
        assert "--webhooks-to-private" in cli("hub", "webhook", "test", made["id"]).refused()
        assert "status 200" in cli("hub", "webhook", "test", made["id"], "--to-private").fine()
        assert [one.type for one in got.got] == ["ping"]
    assert "did not take it" in cli("hub", "webhook", "test", made["id"], "--to-private").refused()
    (shown,) = read(cli, "hub", "webhook", "list")
    assert shown == {key: value for key, value in made.items() if key != "secret"}
    cli("hub", "webhook", "remove", made["id"]).fine()
    assert "no webhook" in cli("hub", "webhook", "remove", made["id"]).refused()
    assert "Did you mean" in cli("hub", "webhook", "add", "acme", "https://x/", "--event", "versio").refused()


def test_members_come_and_go(cli: Command) -> None:
    assert "no account 'ada'" in cli("hub", "org", "create", "acme", "--admin", "ada").refused()
    for name in ("ada", "grace"):
        cli("hub", "token", "create", name).fine()
    assert "the first must be an admin" in cli("hub", "member", "add", "acme", "ada").refused()
    assert cli("hub", "org", "create", "acme", "--admin", "ada").fine() == "ada is admin of acme.\n"
    cli("hub", "member", "add", "acme", "grace", "--role", "write").fine()
    assert [one["role"] for one in read(cli, "hub", "member", "list")] == ["admin", "write"]
    assert "last admin" in cli("hub", "member", "remove", "acme", "ada").refused()
    assert "last admin" in cli("hub", "account", "remove", "ada").refused()
    cli("hub", "account", "remove", "grace").fine()
    assert [one["account"] for one in read(cli, "hub", "member", "list", "acme")] == ["ada"]
    assert "was removed" in cli("hub", "token", "create", "grace").refused()
    assert "Did you mean" in cli("hub", "member", "remove", "acme", "adaa").refused()
