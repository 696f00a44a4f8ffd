"""The commands over a hub by HTTP: login, push, pull, lists, aliases, mirror."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.cli.chosen_hub import PullBar
from adapthub.cli.main import adapt
from adapthub.hub.embedded import EmbeddedHub
from tests.cli.conftest import ROOT, Command
from tests.cli.test_examples import examples
from tests.hub.adapters import manifest, write_adapter
from tests.hub.server.live import HubServer, live, wait_until_gone


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with live(tmp_path / "served") as running:
        yield running


@pytest.fixture
def acme(cli: Command, server: HubServer) -> HubServer:
    """A hub that ada is logged in to, as acme."""
    cli("login", server.url, "--name", "acme", "--token", server.token()).fine()
    return server


def test_the_documents_example_runs(cli: Command, server: HubServer, tmp_path: Path) -> None:
    """docs/hub.md, with the server's address in place of the usual one and the token on stdin."""
    write_adapter(tmp_path / "runs" / "hub" / "adapter", manifest=manifest())
    token = server.token("ada", "admin")
    (block,) = re.findall(
        r"^```sh\n(.*?)^```", (ROOT / "docs" / "hub.md").read_text(), re.MULTILINE | re.DOTALL
    )
    for line in block.splitlines():
        words = shlex.split(line.removeprefix("$ adapt ").replace("http://127.0.0.1:7860", server.url))
        cli(*words, stdin=f"{token}\n").fine()
    assert EmbeddedHub().resolve("mirrored/mood").number == 1


def test_the_examples_of_login_run(cli: Command, server: HubServer, tmp_path: Path) -> None:
    write_adapter(tmp_path / "runs" / "ner" / "adapter")
    token = server.token("ada", "admin")
    wanted = ("login", "whoami", "logout")
    found = [words for words in examples(adapt) if words[0] in wanted or "--hub" in words]
    for name in (*wanted[:1], "push", *wanted[1:]):
        for words in found:
            if words[0] == name:
                cli(*(server.url if "7860" in word else word for word in words), stdin=f"{token}\n").fine()
    assert len(found) >= 4


def test_login_asks_the_hub_before_it_keeps_a_token(cli: Command, server: HubServer, own_home: Path) -> None:
    assert "adapt login" in cli("login", server.url, "--token", "ah_wrong").refused()
    assert not (own_home / "hubs.json").exists()
    token = server.token()
    record = json.loads(cli("login", server.url, "--json", stdin=f"{token}\n").fine())
    assert (record["name"], record["scope"]) == ("ada", "write")
    said = cli("whoami", "--hub", record["hub"]).fine()
    assert said == f"ada at {server.url} (write)\n"
    assert "Forgot" in cli("logout", server.url).fine()
    assert "no hub" in cli("whoami", "--hub", record["hub"]).refused()
    assert "hf auth login" in cli("login", "hf", "--token", "x").refused()
    assert "knows nobody" in cli("whoami").refused()


def test_a_push_that_will_be_refused_is_said_before_anything_is_read(
    cli: Command, server: HubServer, tmp_path: Path
) -> None:
    """Not after an hour of training: not even the data is read."""
    data = tmp_path / "train.conll"
    data.write_text("no labels here\n")
    train = ("train", "--task", "ner", "--data", data, "--base", tmp_path / "none", "--push")
    named = (*train, "--name", "acme::ada/ner")
    readers = server.token("ada", "read")
    cli("login", server.url, "--name", "acme", "--token", server.token("bob")).fine()
    (line,) = cli(*named).refused().splitlines()
    assert "bob may not write to ada/" in line
    cli("login", server.url, "--name", "acme", "--token", readers).fine()
    (line,) = cli(*named).refused().splitlines()
    assert "has the scope read" in line
    (line,) = cli(*train, "--name", "ada/ner", "--hub", server.url).refused().splitlines()
    assert "has the scope read" in line
    cli("logout", "acme").fine()
    (line,) = cli(*train, "--name", "ada/ner", "--hub", server.url).refused().splitlines()
    assert "needs a token" in line
    server.running.stop()
    wait_until_gone(server.url)
    (line,) = cli(*train, "--name", "ada/ner", "--hub", server.url).refused().splitlines()
    assert "cannot be reached" in line
    assert not (tmp_path / "runs").exists()


def test_no_token_is_ever_printed(cli: Command, server: HubServer) -> None:
    token = server.token()
    for arguments in (
        ("login", server.url, "--name", "acme"),
        ("whoami", "--hub", "acme"),
        ("logout", "acme"),
    ):
        result = cli(*arguments, stdin=f"{token}\n")
        assert token not in result.fine() + result.err


def test_a_hub_that_was_chosen_by_the_environment(
    cli: Command, acme: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTHUB_HUB", "acme")
    adapter = write_adapter(tmp_path / "made", manifest=manifest(metrics={"test": {"f1": 0.8}}))
    cli("push", adapter.path, "ada/ner", "--alias", "prod").fine()
    assert [entry.name for entry in EmbeddedHub(acme.data).list()] == ["ada/ner"]
    assert json.loads(cli("list", "--json").fine())[0]["aliases"] == {"prod": "v1"}
    assert json.loads(cli("search", "--metric", "f1>0.5", "--json").fine())[0]["version"] == "v1"
    assert Artifact.read(cli("pull", "ada/ner@prod").fine().strip()).digest == adapter.digest
    assert json.loads(cli("list", "--hub", "local", "--json").fine()) == []


def test_aliases_by_name(cli: Command, acme: HubServer, tmp_path: Path) -> None:
    for seed in range(2):
        cli(
            "push", write_adapter(tmp_path / str(seed), seed=seed).path, "acme::ada/ner", "--alias", "prod"
        ).fine()
    cli("rollback", "acme::ada/ner", "prod").fine()
    cli("promote", "ada/ner@v2", "beta", "--hub", "acme").fine()
    record = json.loads(cli("show", "ada/ner", "--hub", acme.url, "--json").fine())
    assert {alias["alias"]: alias["version"] for alias in record["aliases"]} == {"beta": "v2", "prod": "v1"}


def test_a_mirror_goes_on_where_it_stopped(cli: Command, acme: HubServer, tmp_path: Path) -> None:
    for seed in range(2):
        cli("push", write_adapter(tmp_path / str(seed), seed=seed).path, "acme::ada/ner").fine()
    assert cli("hub", "mirror", "acme::ada/ner@v1").fine() == "1 versions of ada/ner, 1 new.\n"
    records = json.loads(cli("hub", "mirror", "acme::ada/ner", "--json").fine())
    assert [record["repeated"] for record in records] == [True, False]
    assert "which hub" in cli("hub", "mirror", "ada/ner").refused()


def test_what_goes_wrong_is_one_line(cli: Command, acme: HubServer, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made").path
    assert "no hub 'acne' here. Did you mean 'acme'" in cli("list", "--hub", "acne").refused()
    assert "no hub 'acne'" in cli("pull", "acne::ada/ner").refused()
    assert "cannot be reached" in cli("list", "--hub", "http://127.0.0.1:9").refused()
    assert "HF_HUB_OFFLINE" in cli("list", "--hub", "hf").refused()
    assert (
        "adapt login"
        in cli("push", adapter, "ada/ner", "--hub", f"http://localhost:{acme.url.split(':')[-1]}").refused()
    )
    assert "ada/none" in cli("show", "ada/none", "--hub", "acme").refused()


def test_the_bar_is_shown_for_what_takes_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    bar = PullBar()
    bar(10, 1000)
    assert capsys.readouterr().err == ""
    for done in (0, 5_000_000, 10_000_000):
        bar(done, 10_000_000)
    bar.close()
    shown = capsys.readouterr().err
    assert "Pulling" in shown
    assert "10.0 MB" in shown
