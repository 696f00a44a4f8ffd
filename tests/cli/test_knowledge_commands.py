"""`adapt hub base`, `adapt hub leaderboard`, `adapt lineage`, and what `adapt show` says of fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adapthub.adapters.manifest import DataRecord
from adapthub.hub import open_hub
from adapthub.hub.lineage import parent_of
from adapthub.hub.registry import Version
from tests.cli.conftest import Command
from tests.hub.adapters import fingerprint, known_base, manifest, write_adapter


def read(cli: Command, *arguments: str | Path) -> Any:
    return json.loads(cli(*arguments, "--json").fine())


def test_a_base_is_added_shown_and_removed(cli: Command, tmp_path: Path) -> None:
    assert "adapt hub base add" in cli("hub", "base", "list").fine()
    (tmp_path / "base.json").write_bytes(known_base().to_json())
    assert cli("hub", "base", "add", "base.json").fine().startswith("Known now: org/base sha256:")
    (listed,) = read(cli, "hub", "base", "list")
    assert listed["digest"] == fingerprint(0).digest
    assert "org/base" in cli("hub", "base", "list").fine()
    shown = cli("hub", "base", "show", "org/base").fine()
    assert "linear 1" in shown
    assert fingerprint(0).weights in shown
    assert read(cli, "hub", "base", "show", listed["digest"])["record"]["kinds"]

    write_adapter(tmp_path / "fits", manifest=manifest())
    cli("push", "fits", "acme/fits").fine()
    assert read(cli, "show", "acme/fits")["fit"] == {
        "verdict": "fits",
        "base": listed["digest"],
        "differences": [],
    }
    assert f"every tensor lands on {listed['digest'][:19]}" in cli("show", "acme/fits").fine()
    write_adapter(tmp_path / "wide", manifest=manifest(), width=16)
    assert "query.lora_A.weight" in cli("push", "wide", "acme/wide").refused()
    assert read(cli, "list", "acme")[0]["name"] == "acme/fits"

    assert "Forgotten: org/base" in cli("hub", "base", "remove", "org/base").fine()
    assert "no base 'org/base'" in cli("hub", "base", "show", "org/base").refused()
    cli("push", "wide", "acme/wide").fine()
    assert "no record of its base" in cli("show", "acme/wide").fine()


def test_a_leaderboard_or_what_leaderboards_there_are(cli: Command, tmp_path: Path) -> None:
    assert "Nothing" in cli("hub", "leaderboard").fine()
    for number, (data, f1) in enumerate([("aa", 0.7), ("aa", 0.9), ("aa", 0.88), ("bb", 0.99)]):
        rows = {"test": DataRecord(fingerprint=f"sha256:{data}", rows=100, source="test.conll")}
        made = manifest(metrics={"test": {"f1": f1}}, data=rows)
        open_hub().push(write_adapter(tmp_path / str(number), seed=number, manifest=made), f"acme/a{number}")
    assert len(read(cli, "hub", "leaderboard")) == 2
    assert cli("hub", "leaderboard", "--base", "org/base").fine().count("test.conll") == 2
    board = cli("hub", "leaderboard", "--dataset", "sha256:aa").fine()
    assert [line.split() for line in board.splitlines()[2:]] == [
        ["1", "acme/a1@v1", "0.900", "[0.850,", "0.950]", "1", "100"],
        ["1", "acme/a2@v1", "0.880", "[0.830,", "0.930]", "1", "100"],
        ["3", "acme/a0@v1", "0.700", "[0.650,", "0.750]", "0", "100"],
    ]
    assert read(cli, "hub", "leaderboard", "--dataset", "sha256:b")["standings"][0]["name"] == "acme/a3"
    few = manifest(metrics={"test": {"f1": 0.8}}, data=rows)
    metrics = {"test": {"f1": few.metrics["test"]["f1"].model_copy(update={"n": 12})}}
    few = few.model_copy(update={"metrics": metrics})
    open_hub().push(write_adapter(tmp_path / "few", seed=9, manifest=few), "acme/few")
    board = cli("hub", "leaderboard", "--dataset", "sha256:bb").fine()
    assert "Not all values are of the same rows: they are of 12 to 100 of 100." in board.splitlines()[-1]


def test_a_family_is_two_trees(cli: Command, tmp_path: Path) -> None:
    def push(name: str, *parents: Version | str) -> Version:
        texts = [parent if isinstance(parent, str) else parent_of(parent) for parent in parents]
        folder = tmp_path / name
        return open_hub().push(write_adapter(folder, manifest=manifest(parents=texts, seed=len(name))), name)

    root = push("acme/root")
    assert "names no parents" in cli("lineage", "acme/root").fine()
    left, right = push("acme/left", root), push("acme/right", root, "free words")
    push("acme/last", left, right, "acme/gone@" + "a" * 64)

    def tree(name: str) -> list[str]:
        return [line.partition("  sha256")[0] for line in cli("lineage", name).fine().splitlines()]

    assert tree("acme/last") == [
        "acme/last@v1",
        "made from",
        "   acme/left@v1",
        "      acme/root@v1",
        "   acme/right@v1",
        "      acme/root@v1",
        "   acme/gone@?",
    ]
    assert tree("acme/right") == [
        "acme/right@v1",
        "made from",
        "   acme/root@v1",
        "   ? free words (names no digest)",
        "what came of it",
        "   acme/last@v1",
    ]
    assert tree("acme/root") == [
        "acme/root@v1",
        "what came of it",
        "   acme/left@v1",
        "      acme/last@v1",
        "   acme/right@v1",
        "      acme/last@v1",
    ]
    found = read(cli, "lineage", "acme/root")
    assert [one["name"] for one in found["descendants"]] == ["acme/left", "acme/right", "acme/last"]
