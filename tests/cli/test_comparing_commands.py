"""compare and certify on a tiny base: tables, JSON, what is published, and what is refused."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import Forbidden, OutOfMemory
from adapthub.hub.many_hubs import ManyHubs
from tests.cli.conftest import Command
from tests.cli.data import write_conll


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_conll(tmp_path / "test.conll", copies=2)


@pytest.mark.slow
def test_compare_says_who_is_better_or_that_it_cannot(cli: Command, trained: Path, data: Path) -> None:
    train = ("train", "--from", "acme/ner", "--data", data, "--max-steps", 60, "--no-validation")
    cli(*train, "--learning-rate", "5e-3", "--name", "acme/more", "--push").fine()
    record = json.loads(cli("compare", "acme/ner", "acme/more@v1", "--data", data, "--json").fine())
    assert record.keys() == {"first", "second", "data", "rows", "better", "sentence", "metrics"}
    assert record["better"] == "acme/more@v1"
    assert record["metrics"]["f1"].keys() == {"first", "second", "difference", "low", "high", "p", "n"}
    text = cli("compare", "acme/ner", "acme/more@v1", "--data", data).fine()
    assert text.splitlines()[-1] == record["sentence"]
    assert "acme/more@v1 is better: f1 is" in text
    assert "f1/PER" in text
    same = cli("compare", trained, "acme/ner", "--data", data).fine()
    assert "The data cannot tell which is better" in same


def test_certify_shows_and_publishes_what_manifest_and_card_say(
    cli: Command, trained: Path, data: Path, tmp_path: Path
) -> None:
    result = cli("certify", "acme/ner", "--data", data, "--form", "nf4", "--form", "merged", "--push")
    lines = result.fine().splitlines()
    assert [line.split()[0] for line in lines[1:7]] == ["nf4"] * 3 + ["merged"] * 3
    assert "Published acme/ner@v2" in lines[-1]
    assert "measuring merged into the base" in result.err
    shown = json.loads(cli("show", "acme/ner@v2", "--json").fine())
    assert shown["manifest"]["certificates"].keys() == {"nf4", "merged"}
    text = cli("show", "acme/ner@v2").fine()
    found = text[text.index("Portability: over other forms of its base") :].split("\n\n")[0].splitlines()
    assert [line.split()[:2] for line in found[2:]] == [line.split()[:2] for line in lines[1:7]]
    assert "Portability" not in cli("show", "acme/ner@v1").fine()
    assert "## Portability" in Path(cli("pull", "acme/ner").fine().strip(), "README.md").read_text()

    record = json.loads(
        cli("certify", trained, "--data", data, "--form", "bf16", "--output", "certified", "--json").fine()
    )
    assert record.keys() == {"digest", "trained_on", "certificates", "left_out", "adapter", "published"}
    assert record["certificates"]["bf16"]["verdict"] in ("holds", "worse")
    assert record["adapter"]["path"] == "certified"
    assert (tmp_path / "certified" / "adapthub.json").is_file()


def too_large(*_: object, **__: object) -> None:
    raise OutOfMemory("it does not fit")


def test_certify_refuses_what_cannot_be(
    cli: Command, trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "REF is a folder" in cli("certify", trained, "--data", data, "--push").refused()
    assert (
        "is what the adapter was trained on"
        in cli("certify", "acme/ner", "--data", data, "--form", "float32").refused()
    )
    assert "--form" in cli("certify", "acme/ner", "--data", data, "--form", "fp8").refused()
    with monkeypatch.context() as patch:
        patch.setattr("adapthub.recipes.certification.merged_answers", too_large)
        left = ("certify", "acme/ner", "--data", data, "--form", "merged")
        assert "merged is left out: it does not fit" in cli(*left).fine()
        for written in (("--push",), ("--output", "certified")):
            line = cli(*left, *written).err.splitlines()[-1]
            assert line == (
                "adapt: there is no certificate to write, as no form could be measured: merged: it does not fit"
            )
    assert not (data.parent / "certified").exists()
    assert "'colour'" in cli("compare", trained, trained, "--data", data, "--set", "colour=1").refused()


def test_certify_asks_before_it_measures_and_keeps_what_a_push_loses(
    cli: Command, trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise Forbidden("you may not push acme/ner")

    certify = ("certify", "acme/ner", "--data", data, "--form", "bf16")
    (tmp_path / "there").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with monkeypatch.context() as patch:
        patch.setattr("adapthub.recipes.certify", refused)
        assert "there is there already" in cli(*certify, "--output", "there").refused()
        patch.setattr(ManyHubs, "check_may_push", refused)
        assert "you may not push" in cli(*certify, "--push").refused()
    monkeypatch.setattr(ManyHubs, "push", refused)
    result = cli(*certify, "--push")
    assert result.code == 2
    assert "bf16" in result.out  # what was measured is said whatever fails after it
    kept = re.search(
        r"The certified adapter is kept at (\S+)\. Publish it with: adapt push (\S+) acme/ner", result.err
    )
    assert kept is not None
    manifest = Artifact.read(kept[1]).manifest
    assert manifest is not None
    assert manifest.certificates.keys() == {"bf16"}
