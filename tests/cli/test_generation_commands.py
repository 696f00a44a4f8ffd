"""`adapt run` with adapters that generate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.runtime.generating import Oracle, write_oracle
from tests.runtime.server.live import write_spelling_base


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return write_oracle(tmp_path_factory.mktemp("generating"))


def test_a_prompt_is_continued_and_shown_as_it_comes(cli: Command, oracle: Oracle) -> None:
    result = cli(
        "run",
        oracle.adapters["lora"],
        "ada was",
        "--base",
        oracle.folder,
        "--max-new-tokens",
        5,
        "--set",
        "ignore_eos=true",
    )
    (record,) = json.loads(
        cli(
            "run",
            *(oracle.adapters["lora"], "ada was", "--base", oracle.folder, "--max-new-tokens", 5, "--json"),
            *("--set", "ignore_eos=true"),
        ).fine()
    )
    assert result.fine() == record["text"] + "\n"
    assert "cut after 5 tokens" in result.err
    assert record["finish_reason"] == "length"
    assert record["completion_tokens"] == 5


def test_expressions_and_several_prompts(cli: Command, oracle: Oracle) -> None:
    expression = f"0.7*{oracle.adapters['lora']} + 0.3*{oracle.adapters['wide']}"
    records = json.loads(
        cli("run", expression, "ada", "born", "--base", oracle.folder, "--set", "n=2", "--json").fine()
    )
    assert [record["prompt"] for record in records] == ["ada", "ada", "born", "born"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-new-tokens", "0"), "max_new_tokens = 0"),
        (("--temperature", "-1"), "temperature = -1.0"),
        (("--set", "best_of=3"), "'best_of' is no setting of generation"),
        (("--set", "grammar=start:"), "cannot follow a grammar"),
        (("--chat",), "has no chat template"),
    ],
)
def test_what_cannot_be_generated_is_one_line(
    options: tuple[str, ...], message: str, cli: Command, oracle: Oracle
) -> None:
    line = cli("run", oracle.adapters["lora"], "ada", "--base", oracle.folder, *options).refused()
    assert message in line


def test_settings_of_generation_are_refused_for_other_adapters(
    cli: Command, tiny_base: Path, tmp_path: Path
) -> None:
    from tests.adapters.peft_oracle import lora_config, save_adapter

    task = "token-classification"
    adapter = save_adapter(tiny_base, tmp_path / "ner", task, lora_config(task))
    line = cli("run", adapter, "ada", "--base", tiny_base, "--temperature", "1").refused()
    assert "--temperature is for adapters that generate" in line


def test_an_adapter_is_asked_as_it_was_trained_unless_told_otherwise(cli: Command, tmp_path: Path) -> None:
    base = write_spelling_base(tmp_path / "base")
    rows = tmp_path / "pairs.csv"
    rows.write_text("source,target\n" + "".join(f"ada {n},{n} ada\n" for n in range(20)))
    cli(
        *("train", "--task", "translate", "--data", rows, "--base", base, "--max-steps", 1),
        *("--batch-size", 2, "--output", tmp_path / "run", "--set", "prompt=Turn {source} round"),
    ).fine()
    adapter = tmp_path / "run" / "adapter"
    prompt = "Turn ada round"
    (asked,) = json.loads(cli("run", adapter, "ada", "--json").fine())
    (chatted,) = json.loads(
        cli("run", adapter, prompt, "--chat", "--max-new-tokens", asked["completion_tokens"], "--json").fine()
    )
    assert asked["prompt"] == "ada"
    assert asked["text"] == chatted["text"]
    assert asked["prompt_tokens"] == chatted["prompt_tokens"]
