"""adapt tenant: what it prints, that a key is shown once, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
from concurrent.futures import wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from adapthub.runtime.tenants.store import TenantStore
from adapthub.runtime.tenants.tables import default_path
from adapthub.runtime.tenants.tenant_gate import open_gate
from tests.cli.conftest import Command
from tests.runtime.tenants.helpers import ledger_at, used

ADD = ("tenant", "add", "acme", "--allow", "acme/*")


def read(cli: Command, *arguments: str) -> Any:
    return json.loads(cli("tenant", *arguments, "--json").fine())


def record_usage() -> None:
    """Three requests of acme on two days of last year's November, and one of a tenant that is gone."""
    day = datetime(2025, 11, 3, 12, tzinfo=UTC)
    usages = [
        used(prompt=10, completion=5, when=day),
        used(prompt=1, completion=2, when=day),
        used(prompt=7, completion=0, adapter="", kind="embedding", when=day + timedelta(days=1)),
        used("gone", prompt=100, completion=50, cached_tokens=64, when=day),
    ]
    with ledger_at(default_path()) as ledger:
        wait([ledger.record(usage) for usage in usages])


def test_the_key_is_printed_once_and_opens_the_gate(cli: Command, own_home: Path) -> None:
    result = cli(*ADD)
    key = result.fine().strip()
    assert "not shown again" in result.err
    assert "first tenant" in result.err
    gate = open_gate()
    try:
        assert gate.authenticate(key).tenant == "acme"
    finally:
        gate.close()
    secret = key.split("_", 2)[2]
    for words in (("list",), ("show", "acme"), ("key", "list", "acme")):
        assert secret not in cli("tenant", *words).fine() + cli("tenant", *words, "--json").fine()
    assert not [file for file in own_home.iterdir() if secret.encode() in file.read_bytes()]


def test_add_as_json(cli: Command) -> None:
    options = ("--allow", "acme/*", "--allow", "shared/tone", "--admin", "--weight", "2.5")
    limits = ("--requests-per-minute", "60", "--tokens-per-minute", "9000", "--tokens-per-month", "1000000")
    record = read(cli, "add", "acme", *options, *limits, "--expires", "90d")
    key = record.pop("key")
    assert key.startswith(record.pop("prefix"))
    life = datetime.fromisoformat(record.pop("expires")) - datetime.fromisoformat(record.pop("created"))
    assert timedelta(days=90) <= life < timedelta(days=90, minutes=1)
    assert record == {
        "name": "acme",
        "allow": ["acme/*", "shared/tone"],
        "admin": True,
        "weight": 2.5,
        "requests_per_minute": 60,
        "tokens_per_minute": 9000,
        "tokens_per_month": 1_000_000,
        "used_this_month": 0,
    }


def test_list_and_show_say_everything_but_the_key(cli: Command) -> None:
    assert "No tenants yet" in cli("tenant", "list").fine()
    assert read(cli, "list") == []
    cli(*ADD, "--tokens-per-month", "100").fine()
    with ledger_at(default_path()) as ledger:
        ledger.record(used(prompt=10, completion=5, when=datetime.now(UTC))).result()
    (record,) = read(cli, "list")
    assert record["used_this_month"] == 15
    shown = read(cli, "show", "acme")
    (key,) = shown.pop("keys")
    assert shown == record
    assert key.keys() == {"prefix", "tenant", "state", "created", "expires", "revoked"}
    header, row = cli("tenant", "list").fine().splitlines()
    assert header.split("  ")[0] == "name"
    assert row.split()[:3] == ["acme", "acme/*", "1"]
    assert key["prefix"] in cli("tenant", "show", "acme").fine()


def test_access_and_limits_change(cli: Command) -> None:
    cli(*ADD, "--tokens-per-minute", "5").fine()
    assert read(cli, "allow", "acme", "zeta/*", "x/y")["allow"] == ["zeta/*", "x/y"]
    assert read(cli, "allow", "acme", "*", "--admin")["admin"]
    assert read(cli, "allow", "acme", "*")["admin"]
    assert not read(cli, "allow", "acme", "*", "--no-admin")["admin"]
    record = read(cli, "limit", "acme", "--tokens-per-month", "7", "--weight", "3")
    assert (record["tokens_per_minute"], record["tokens_per_month"], record["weight"]) == (5, 7, 3)
    record = read(cli, "limit", "acme", "--tokens-per-minute", "none")
    assert (record["tokens_per_minute"], record["tokens_per_month"]) == (None, 7)


def test_keys_come_and_go(cli: Command) -> None:
    cli(*ADD).fine()
    second = read(cli, "key", "add", "acme", "--expires", "12h")
    first, listed = read(cli, "key", "list", "acme")
    assert {**listed, "key": second["key"]} == second
    line = cli("tenant", "key", "rotate", "acme").refused()
    assert first["prefix"] in line
    new = cli("tenant", "key", "rotate", "acme", first["prefix"], "--grace", "0s").fine().strip()
    states = {key["prefix"]: key["state"] for key in read(cli, "key", "list", "acme")}
    assert states == {first["prefix"]: "expired", second["prefix"]: "works", new[:11]: "works"}
    assert [key["state"] for key in read(cli, "key", "revoke", "acme", second["key"])] == ["revoked"]
    assert len(read(cli, "key", "revoke", "acme", "--all")) == 3
    assert "revoked" in cli("tenant", "key", "list", "acme").fine()


def test_removing_takes_the_keys_and_leaves_the_bill(cli: Command) -> None:
    cli(*ADD).fine()
    record_usage()
    assert "Removed acme" in cli("tenant", "remove", "acme").fine()
    assert read(cli, "list") == []
    assert read(cli, "usage", "acme")[0]["prompt_tokens"] == 18
    cli(*ADD).fine()
    assert read(cli, "remove", "acme") == {"removed": "acme"}


def test_usage_adds_up(cli: Command) -> None:
    assert cli("tenant", "usage").fine() == "Nothing was used.\n"
    assert read(cli, "usage") == []
    record_usage()
    assert read(cli, "usage") == [
        {
            "tenant": "acme",
            "requests": 3,
            "prompt_tokens": 18,
            "cached_tokens": 0,
            "completion_tokens": 7,
        },
        {
            "tenant": "gone",
            "requests": 1,
            "prompt_tokens": 100,
            "cached_tokens": 64,
            "completion_tokens": 50,
        },
    ]
    by = ("usage", "acme", "--by", "adapter, day")
    rows = list(csv.DictReader(io.StringIO(cli("tenant", *by, "--csv").fine())))
    assert rows == [{key: str(value) for key, value in row.items()} for row in read(cli, *by)]
    assert [(row["adapter"], row["day"], row["prompt_tokens"]) for row in rows] == [
        ("", "2025-11-04", "7"),
        ("acme/sql@v1", "2025-11-03", "11"),
    ]
    assert read(cli, "usage", "--from", "2025-11-04", "--by", "kind")[0]["kind"] == "embedding"
    assert len(read(cli, "usage", "--to", "2025-11-03")) == 2
    assert read(cli, "usage", "--from", "2025-11-05") == []
    assert cli("tenant", "usage").fine().splitlines()[1].split() == ["acme", "3", "18", "0", "7"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("add third", "'acme/*'"),
        ("add third --allow ''", "is not a pattern"),
        ("add third --allow third", "'third/*'"),
        ("add acme --allow x/*", "a tenant acme already"),
        ("add Other --allow x/*", "lower-case"),
        ("add ../third --allow x/*", "lower-case"),
        ("add third --allow x/* --weight -1", "weight of third is -1"),
        ("add third --allow x/* --weight nan", "weight of third is nan"),
        ("add third --allow x/* --tokens-per-minute -1", "tokens a minute of third is -1"),
        ("add third --allow x/* --tokens-per-month 0", "whole number above 0"),
        ("add third --allow x/* --requests-per-minute 99999999999999999999", "requests a minute"),
        ("add third --allow x/* --requests-per-minute many", "--requests-per-minute"),
        ("add third --allow x/* --expires 90", "90d"),
        ("add third --allow x/* --expires -1d", "-1d"),
        ("add third --allow x/* --expires 0d", "cannot work for"),
        ("add third --allow x/* --expires 999999999w", "--expires"),
        ("show acmee", "Did you mean 'acme'?"),
        ("remove acmee", "Did you mean 'acme'?"),
        ("usage acmee", "Did you mean 'acme'?"),
        ("key add acmee", "Did you mean 'acme'?"),
        ("key list acmee", "Did you mean 'acme'?"),
        ("limit acmee --weight 2", "Did you mean 'acme'?"),
        ("allow acmee x/*", "Did you mean 'acme'?"),
        ("limit acme", "at least one limit"),
        ("limit acme --tokens-per-month -5", "tokens a month of acme is -5"),
        ("limit acme --tokens-per-month some", "none for no limit"),
        ("allow acme", "PATTERN"),
        ("allow acme acme", "'acme/*'"),
        ("key revoke acme", "--all"),
        ("key revoke acme ah_12345678 --all", "--all"),
        ("key revoke acme ah_12345678", "no key ah_12345678"),
        ("key rotate acme ah_12345678", "no key ah_12345678"),
        ("key rotate acme --grace -1h", "-1h"),
        ("usage --by adpter", "Did you mean 'adapter'?"),
        ("usage --by ''", "''"),
        ("usage --from yesterday", "--from"),
        ("usage --from 2026-11-02 --to 2026-11-01", "2026-11-01 is before 2026-11-02"),
        ("usage --csv --json", "--csv or --json"),
        ("adde", "No such command 'adde'"),
    ],
)
def test_what_cannot_be_is_one_line(cli: Command, arguments: str, expected: str) -> None:
    cli(*ADD).fine()
    before = TenantStore.open().tenants()
    words = [word.strip("'") for word in arguments.split(" ")]
    assert expected in cli("tenant", *words).refused()
    assert TenantStore.open().tenants() == before


def test_a_home_that_is_a_file_is_said(cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADAPTHUB_HOME", str(tmp_path / "file"))
    assert "ADAPTHUB_HOME" in cli("tenant", "list").refused()


def test_completion_knows_tenants_and_keys(cli: Command) -> None:
    prefix = read(cli, "add", "acme", "--allow", "acme/*")["prefix"]
    for words, expected in {"show ": "acme", "key revoke acme ": prefix}.items():
        done = cli(_ADAPT_COMPLETE="fish_complete", COMP_WORDS=f"adapt tenant {words}", COMP_CWORD="")
        assert [line.removeprefix("plain,") for line in done.fine().splitlines()] == [expected]
