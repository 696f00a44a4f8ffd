"""`adapt hub`: tokens, and a server in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from adapthub.adapters.errors import Conflict, InvalidReference
from adapthub.cli.main import adapt
from adapthub.hub.embedded import EmbeddedHub
from tests import asking
from tests.hub.adapters import write_adapter


def adapt_json(*arguments: str) -> Any:
    result = CliRunner().invoke(adapt, [*arguments, "--json"], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def test_tokens_are_made_listed_and_revoked(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "hub"))
    made = adapt_json("hub", "token", "create", "ada", "--scope", "write", "--expires", "90d", *data)
    assert (made["account"], made["scope"], made["state"]) == ("ada", "write", "works")
    token = str(made.pop("token"))
    assert token.startswith(f"{made['prefix']}_")
    assert token not in (tmp_path / "hub" / "hub.sqlite3").read_bytes().decode("latin-1")
    assert adapt_json("hub", "token", "list", *data) == [made]
    assert adapt_json("hub", "token", "revoke", token, *data)["state"] == "revoked"


@pytest.mark.parametrize("name", ["a/b", "-ada", "", "a..b"])
def test_names_that_no_account_has(name: str, tmp_path: Path) -> None:
    arguments = ["hub", "token", "create", "--data", str(tmp_path), "--", name]
    with pytest.raises(InvalidReference, match="not a valid name"):
        CliRunner().invoke(adapt, arguments, standalone_mode=False, catch_exceptions=False)


def test_a_server_answers_until_it_is_told_to_end(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "adapthub.cli.main",
        "hub",
        "serve",
        "--port",
        "0",
        "--data",
        str(tmp_path),
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        document = ""
        while not document.endswith("}\n"):
            document += server.stdout.readline()
        assert asking.get(f"{json.loads(document)['address']}/health").json() == {"status": "ok"}
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert server.stderr is not None
        assert server.stderr.read() == ""


def test_others_are_not_served_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a token everybody who reaches 0"):
        adapt_json("hub", "serve", "--host", "0.0.0.0", "--port", "0", "--data", str(tmp_path))


def test_quotas_are_set_listed_and_taken_away(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "hub"))
    runner = CliRunner()
    assert (
        "53,687,091,200 bytes" in runner.invoke(adapt, ["hub", "quota", "set", "acme", "50G", *data]).output
    )
    assert adapt_json("hub", "quota", "list", *data) == [
        {"namespace": "acme", "used": 0, "quota": 50 * 2**30}
    ]
    assert runner.invoke(adapt, ["hub", "quota", "set", "acme", "none", *data]).exit_code == 0
    assert adapt_json("hub", "quota", "list", *data) == []
    for size in ("-1", "5X", "many"):
        assert runner.invoke(adapt, ["hub", "quota", "set", "acme", size, *data]).exit_code == 2, size


def test_upkeep_from_the_command_line(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "hub"))
    EmbeddedHub(tmp_path / "hub").push(write_adapter(tmp_path / "made"), "acme/ner")
    assert adapt_json("hub", "gc", "--dry-run", "--grace", "0s", *data) == {
        "blobs": 0,
        "bytes": 0,
        "strays": 0,
        "dry_run": True,
    }
    assert adapt_json("hub", "backup", str(tmp_path / "saved.tar"), *data)["repos"] == 1
    other = ("--data", str(tmp_path / "other"))
    assert adapt_json("hub", "restore", str(tmp_path / "saved.tar"), *other)["blobs"] == 2
    report = adapt_json("hub", "check", *other)
    assert (report["versions"], report["problems"]) == (1, [])
    with pytest.raises(Conflict, match="not empty"):
        adapt_json("hub", "restore", str(tmp_path / "saved.tar"), *other)
