"""push, pull, list, search, show, promote, rollback: what they print and what they refuse."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from adapthub.cli.records import entry_row, most_telling_first
from adapthub.hub.registry import Entry, Facts, Metric, Version
from tests.cli.conftest import Command, write_plain_adapter
from tests.full_disks import full_beyond


@pytest.fixture
def published(cli: Command, tmp_path: Path) -> Path:
    """acme/ner with two versions; the folder of the second."""
    first, second = (write_plain_adapter(tmp_path / f"v{n}", seed=n) for n in (1, 2))
    cli("push", first, "acme/ner", "--message", "first try", "--alias", "prod").fine()
    cli("push", second, "acme/ner", "-m", "second try").fine()
    return second


def read(cli: Command, *arguments: str | Path) -> Any:
    return json.loads(cli(*arguments, "--json").fine())


def test_push_says_what_it_published(cli: Command, plain_adapter: Path) -> None:
    assert cli("push", plain_adapter, "acme/ner").fine().startswith("Published acme/ner@v1  sha256:")
    record = read(cli, "push", plain_adapter, "acme/ner")
    assert record.keys() == {"name", "version", "digest", "created", "message", "size"}
    assert record["version"] == "v1"
    assert cli("push", plain_adapter, "acme/ner").fine().startswith("Already there: acme/ner@v1")


def test_pull_prints_a_folder_with_the_same_bytes(cli: Command, published: Path) -> None:
    folder = Path(cli("pull", "acme/ner").fine().strip())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in published.iterdir()
    }


def test_pull_makes_a_copy_of_your_own(cli: Command, published: Path, tmp_path: Path) -> None:
    record = read(cli, "pull", "acme/ner@v2", "--output", "mine")
    assert record["path"] == "mine"
    copied = tmp_path / "mine" / "adapter_model.safetensors"
    assert copied.read_bytes() == (published / "adapter_model.safetensors").read_bytes()
    copied.write_bytes(b"changed")
    assert Path(cli("pull", "acme/ner@v2").fine().strip()) != tmp_path / "mine"
    assert "mine" in cli("pull", "acme/ner", "--output", "mine").refused()
    assert copied.read_bytes() == b"changed"


def test_list_and_search_show_what_is_known_and_dashes(cli: Command, published: Path) -> None:
    records = read(cli, "list")
    assert [record["name"] for record in records] == ["acme/ner"]
    assert records[0]["versions"] == 2
    assert records[0]["aliases"] == {"prod": "v1"}
    assert records[0]["task"] == "feature-extraction"
    table = cli("list", "acme").fine().splitlines()
    assert table[0].split() == [
        "name",
        "version",
        "task",
        "metric",
        "base",
        "method",
        "aliases",
        "size",
        "created",
    ]
    assert table[1].split()[:6] == ["acme/ner", "v2", "feature-extraction", "-", "org/tiny", "lora"]
    assert read(cli, "search", "second", "--base", "org/tiny", "--method", "lora") == records
    assert read(cli, "search", "third") == []
    assert "adapt list" in cli("search", "third").fine()
    assert read(cli, "list", "nobody") == []


def test_a_search_that_finds_nothing_says_what_there_is(cli: Command, published: Path) -> None:
    assert "org/tiny" in cli("search", "--base", "tiny").fine()
    assert "There is: lora" in cli("search", "--method", "lorra").fine()


def test_the_metric_shown_sums_the_task_up(cli: Command) -> None:
    """accuracy comes before macro_f1 in the alphabet; a search shows the metric that it asked for."""
    estimates = tuple(Metric("test", name, 0.5, 0.4, 0.6, 9) for name in ("accuracy", "f1/bad", "macro_f1"))
    facts = Facts("lora", "text-classification", ("bad", "good"), "org/tiny", None, 2, estimates)
    entry = Entry(Version("acme/mood", 1, "sha256:0", datetime.now(UTC), "", 9), facts, 1, {})
    assert [metric.name for metric in most_telling_first(facts)] == ["macro_f1", "accuracy", "f1/bad"]
    assert entry_row(entry)["metric"] == "test macro_f1 0.500 [0.400, 0.600]"
    assert entry_row(entry, "accuracy >= 0.1")["metric"].startswith("test accuracy")


def test_show_has_everything(cli: Command, published: Path) -> None:
    record = read(cli, "show", "acme/ner@prod")
    assert record["version"] == "v1"
    assert [version["version"] for version in record["versions"]] == ["v2", "v1"]
    assert record["aliases"][0]["alias"] == "prod"
    assert {file["path"] for file in record["files"]} == {"adapter_config.json", "adapter_model.safetensors"}
    text = cli("show", "acme/ner").fine()
    for words in ("second try", "Versions", "Aliases", "Files", "org/tiny"):
        assert words in text


def test_promote_and_rollback_move_an_alias(cli: Command, published: Path) -> None:
    assert cli("promote", "acme/ner@v2", "prod").fine().startswith("prod is now acme/ner@v2")
    assert read(cli, "rollback", "acme/ner", "prod")["version"] == "v1"
    assert read(cli, "show", "acme/ner@prod")["version"] == "v1"
    assert "prod" in cli("rollback", "acme/ner", "prod").refused()


def test_names_and_revisions_that_are_not_there_get_near_ones(cli: Command, published: Path) -> None:
    assert "acme/ner" in cli("show", "acme/nr").refused()
    line = cli("pull", "acme/ner@prd").refused()
    assert "'prod'" in line
    line = cli("pull", "acme/ner@v3").refused()
    assert "v2" in line
    assert "acme/ner@prod" in cli("show", "acme ner").refused()  # how a reference is written


@pytest.mark.parametrize("name", ["acme/ner@v1", "ner", "acme/ner/x", "other::acme/ner"])
def test_push_refuses_what_is_no_name(cli: Command, plain_adapter: Path, name: str) -> None:
    cli("push", plain_adapter, name).refused()


def test_push_refuses_a_truncated_file_and_publishes_nothing(cli: Command, plain_adapter: Path) -> None:
    weights = plain_adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    assert "adapter_model.safetensors" in cli("push", plain_adapter, "acme/ner").refused()
    assert json.loads(cli("list", "--json").fine()) == []


def test_pull_refuses_bytes_that_someone_changed(cli: Command, published: Path, own_home: Path) -> None:
    for blob in (own_home / "hub" / "blobs").rglob("*"):
        if blob.is_file() and blob.stat().st_size == (published / "adapter_model.safetensors").stat().st_size:
            data = bytearray(blob.read_bytes())
            data[-1] ^= 1
            blob.chmod(0o600)
            blob.write_bytes(data)
    assert "adapter_model.safetensors" in cli("pull", "acme/ner").refused()
    assert not [path for path in (own_home / "cache").glob("*") if path.is_dir()]


def test_a_tampered_cache_entry_is_fetched_anew(cli: Command, published: Path) -> None:
    folder = Path(cli("pull", "acme/ner").fine().strip())
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[::-1])
    assert Path(cli("pull", "acme/ner").fine().strip()) == folder
    assert weights.read_bytes() == (published / "adapter_model.safetensors").read_bytes()


def test_a_disk_that_fills_during_push_publishes_nothing(
    cli: Command, published: Path, tmp_path: Path
) -> None:
    before = cli("show", "acme/ner", "--json").fine()
    third = write_plain_adapter(tmp_path / "v3", seed=3)
    (third / "README.md").write_text("x" * 300_000)
    with full_beyond(200_000):
        cli("push", third, "acme/ner").refused()
    assert cli("show", "acme/ner", "--json").fine() == before
    assert cli("push", third, "acme/ner").fine().startswith("Published acme/ner@v3")


def test_a_disk_that_fills_during_pull_leaves_no_copy(cli: Command, published: Path, tmp_path: Path) -> None:
    (published / "README.md").write_text("x" * 300_000)
    cli("push", published, "acme/ner").fine()
    cli("pull", "acme/ner").fine()
    with full_beyond(200_000):
        line = cli("pull", "acme/ner", "--output", "mine").refused()
    assert line.startswith("adapt: cannot write mine: ")
    assert not list(tmp_path.glob("*mine*"))


def test_the_folder_of_a_run_names_the_adapter_in_it(cli: Command, tmp_path: Path) -> None:
    adapter = write_plain_adapter(tmp_path / "run" / "adapter")
    (tmp_path / "run" / "run.json").write_text("{}")
    line = cli("push", "run", "acme/ner").refused()
    assert str(adapter.relative_to(tmp_path)) in line
    assert "tensor" not in line


def test_push_refuses_a_lora_that_lacks_a_half(cli: Command, plain_adapter: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = plain_adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    lost = next(name for name in tensors if "lora_B" in name)
    del tensors[lost]
    save_file(tensors, weights, {"format": "pt"})
    assert lost in cli("push", plain_adapter, "acme/ner").refused()
    assert json.loads(cli("list", "--json").fine()) == []
