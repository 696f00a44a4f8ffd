"""diff, key, sign, verify, base: what they print and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Command, write_plain_adapter
from tests.conftest import write_tiny_base


def read(cli: Command, *arguments: str | Path) -> Any:
    return json.loads(cli(*arguments, "--json").fine())


@pytest.fixture
def signed(cli: Command, tmp_path: Path) -> Path:
    """A folder that the key `releases` signed."""
    folder = write_plain_adapter(tmp_path / "signed")
    (folder / "README.md").write_text("# A card\n")
    cli("key", "create", "releases").fine()
    cli("sign", folder).fine()
    return folder


def test_diff_names_what_changed(cli: Command, tmp_path: Path) -> None:
    first, second = (write_plain_adapter(tmp_path / f"v{n}", seed=n) for n in (1, 2))
    config = second / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 4', '"lora_alpha": 8'))
    cli("push", first, "acme/ner").fine()
    cli("push", second, "acme/ner").fine()
    text = cli("diff", "acme/ner@v1", "acme/ner").fine()
    assert "Modules (1 of 1 changed)" in text
    assert "lora_alpha  4       8" in text
    found = read(cli, "diff", "acme/ner@v1", second)
    assert found.keys() == {"before", "after", "modules", "configuration", "manifest", "metrics", "files"}
    assert found["configuration"] == [{"name": "lora_alpha", "before": 4, "after": 8}]
    assert found["modules"][0]["module"] == "encoder.layer.0.attention.self.query"
    assert found["manifest"] is None
    assert cli("diff", "acme/ner@v1", first).fine().startswith("The same adapter: sha256:")


def test_diff_shows_those_that_changed_most_or_all(cli: Command, tmp_path: Path) -> None:
    first = write_plain_adapter(tmp_path / "a")
    weights = first / "adapter_model.safetensors"
    one = load_file(weights)
    layers = {
        key.replace("layer.0.", f"layer.{layer}."): tensor.clone()
        for layer in range(20)
        for key, tensor in one.items()
    }
    save_file(layers, weights, {"format": "pt"})
    second = Path(shutil.copytree(first, tmp_path / "b"))
    for layer in range(18):
        layers[next(key for key in layers if f"layer.{layer}." in key and "lora_B" in key)] *= 2 + layer
    save_file(layers, second / "adapter_model.safetensors", {"format": "pt"})
    text = cli("diff", first, second).fine()
    assert text.startswith("Modules (18 of 20 changed)")
    rows = [line.split()[0] for line in text.splitlines() if line.startswith("encoder.")]
    assert rows == [f"encoder.layer.{layer}.attention.self.query" for layer in range(17, 2, -1)]
    assert "3 more changed less" in text
    assert cli("diff", first, second, "--all").fine().count("encoder.layer.") == 20


def test_a_signed_folder_verifies_and_a_touched_one_does_not(cli: Command, signed: Path) -> None:
    assert cli("verify", signed).fine().startswith(f"{signed} is signed by releases  sha256:")
    assert read(cli, "verify", signed, "--key", "releases")["name"] == "releases"
    (signed / "README.md").write_text("# Another card\n")
    assert "'README.md'" in cli("verify", signed).refused()
    assert "'README.md'" in cli("push", signed, "acme/ner").refused()
    cli("sign", signed).fine()
    cli("verify", signed).fine()


def test_what_is_not_signed_or_by_another(cli: Command, signed: Path, tmp_path: Path) -> None:
    other = write_plain_adapter(tmp_path / "other")
    assert "is not signed" in cli("verify", other).refused()
    cli("key", "create", "nightly").fine()
    assert "nightly, releases" in cli("sign", other).refused()
    assert "not trusted" in cli("verify", signed, "--key", "nightly").refused()
    assert "Did you mean" in cli("verify", signed, "--key", "nigthly").refused()
    (signed / "model.sig").write_bytes((signed / "model.sig").read_bytes()[:-40])
    assert "the signature of" in cli("verify", signed).refused()


def test_a_signature_goes_with_push_and_pull(cli: Command, signed: Path, tmp_path: Path) -> None:
    cli("push", signed, "acme/ner").fine()
    cli("pull", "acme/ner", "--signed", "--output", "mine").fine()
    assert (tmp_path / "mine" / "model.sig").read_bytes() == (signed / "model.sig").read_bytes()
    cli("verify", "mine").fine()
    cli("key", "untrust", "releases").fine()
    assert "not trusted" in cli("pull", "acme/ner", "--signed", "--output", "again").refused()
    assert not (tmp_path / "again").exists()
    cli("pull", "acme/ner").fine()


def test_a_version_is_signed_after_it_was_published(cli: Command, tmp_path: Path) -> None:
    cli("push", write_plain_adapter(tmp_path / "a"), "acme/ner").fine()
    assert "is not signed" in cli("pull", "acme/ner", "--signed").refused()
    cli("key", "create", "releases").fine()
    digest = read(cli, "sign", "acme/ner@v1")["digest"]
    assert read(cli, "verify", "acme/ner")["digest"] == digest
    cli("pull", "acme/ner", "--signed").fine()


def test_keys_are_listed_trusted_and_not(cli: Command, tmp_path: Path) -> None:
    assert "adapt key create" in cli("key", "list").fine()
    made = read(cli, "key", "create", "releases")
    shutil.copy(made["public"], tmp_path / "partner.pub")
    assert read(cli, "key", "trust", "partner", "partner.pub")["id"] == made["id"]
    assert [key["name"] for key in read(cli, "key", "list")] == ["partner", "releases"]
    cli("key", "untrust", "partner").fine()
    assert [key["name"] for key in read(cli, "key", "list")] == ["releases"]
    assert "partner" in cli("key", "untrust", "partner").refused()
    assert "nowhere.pub" in cli("key", "trust", "x", "nowhere.pub").refused()


def test_a_base_is_recorded_and_adapters_fit_it_or_not(cli: Command, tiny_base: Path, tmp_path: Path) -> None:
    narrow = write_tiny_base(tmp_path / "narrow", hidden=32)
    adapter = write_plain_adapter(tmp_path / "a")
    cli("base", "record", narrow, "--output", "base.json").fine()
    assert cli("base", "record", narrow).fine() == (tmp_path / "base.json").read_text()
    assert (
        cli("base", "fit", adapter, "base.json").fine() == f"All 2 tensors of {adapter} land on {narrow}.\n"
    )
    assert read(cli, "base", "fit", adapter, narrow) == {
        "adapter": str(adapter),
        "base": str(narrow),
        "tensors": 2,
        "same_base": None,
    }
    assert "query.lora_A.weight" in cli("base", "fit", adapter, tiny_base).refused()
    (tmp_path / "base.json").write_text("{}")
    assert "base.json" in cli("base", "fit", adapter, "base.json").refused()
