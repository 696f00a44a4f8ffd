"""Options of a run from a YAML file, and recipe files written by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.data import write_reviews


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    return write_reviews(tmp_path / "reviews.csv")


def test_a_file_stands_for_options_and_the_command_line_goes_before_it(
    cli: Command, reviews: Path, tiny_base: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(
        f"task: sentiment\ndata: {reviews}\nbase: {tiny_base}\nmax-steps: 7\nbatch_size: 4\nno_validation: true\n"
        "set: {max_length: 24, target_modules: [query, value], warmup: 0.5}\n"
    )
    planned = json.loads(cli("plan", "--no-try", "--config", "run.yaml", "--batch-size", 3, "--json").fine())
    assert planned["steps"] == 7
    settings = planned["settings"]
    assert (settings["batch_size"], settings["max_length"], settings["warmup"]) == (3, 24, 0.5)
    assert settings["target_modules"] == ["query", "value"]
    assert [split["split"] for split in planned["splits"]] == ["train"]
    more = ("--set", "warmup=0.25", "--set", "patience=7", "--json")
    settings = json.loads(cli("plan", "--no-try", "--config", "run.yaml", *more).fine())["settings"]
    assert (settings["max_length"], settings["warmup"], settings["patience"]) == (24, 0.25, 7)
    refused = cli("plan", "--no-try", "--config", "run.yaml", "--max-length", 32).refused()
    assert "max_length is given twice: by --max-length and by --set" in refused


def test_a_text_that_looks_like_a_number_stays_one(cli: Command, tiny_base: Path, tmp_path: Path) -> None:
    rows = [f"a {word} film {at},{word}" for at in range(20) for word in ("good", "bad")]
    (tmp_path / "rows.csv").write_text("1e3,007\n" + "\n".join(rows))
    (tmp_path / "run.yaml").write_text(
        f'task: sentiment\ndata: rows.csv\nbase: {tiny_base}\nset: {{text_column: "1e3", label_column: "007"}}\n'
    )
    assert json.loads(cli("plan", "--no-try", "--config", "run.yaml", "--json").fine())["labels"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate: 1", "there is no option lerning_rate. Did you mean 'learning_rate'"),
        (
            "label_separator: ;",
            "'label_separator' is no option, but a setting. Write it below a line set: as what --set takes.",
        ),
        ("- task", "is no mapping of options"),
        ("a: [", "cannot be read"),
        ("set: 3", "set is a mapping of names to values"),
        ("task: [ner]", "task is one value"),
        ("max_steps: 3.7", "--max-steps is a whole number; 3.7 is not"),
        ("rank: true", "rank is no switch, and takes a value; True is none"),
        ("validation: false", "validation is no switch"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(cli: Command, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert message in cli("train", "--config", "run.yaml").refused()


def test_the_users_home_is_no_folder_called_tilde(
    cli: Command, reviews: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(reviews.parent))
    text = f"task: sentiment\ndata: ~/{reviews.name}\ntest: ~/{reviews.name}\nbase: {tiny_base}\nset:\n  # seed: 3\n"
    (tmp_path / "run.yaml").write_text(text)
    planned = json.loads(cli("plan", "--no-try", "--config", "run.yaml", "--json").fine())
    assert [split["split"] for split in planned["splits"]] == ["train", "validation", "test"]


def test_a_file_that_is_not_there(cli: Command) -> None:
    assert "none.yaml cannot be read" in cli("train", "--config", "none.yaml").refused()


def test_the_schema_names_every_option(cli: Command, tmp_path: Path) -> None:
    schema = json.loads(cli("train", "--config-schema").fine())
    kinds = {name: value["type"] for name, value in schema["properties"].items()}
    assert kinds["task"] == "string"
    assert kinds["rank"] == "integer"
    assert kinds["learning_rate"] == "number"
    assert kinds["push"] == "boolean"
    assert kinds["set"] == "object"
    assert kinds["resume"] == "string"
    assert "config" not in kinds
    assert "serve" not in json.loads(cli("plan", "--config-schema").fine())["properties"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["rank"]["description"] == "Of LoRA's matrices."


def test_a_recipe_of_ones_own_from_skeleton_to_plan(
    cli: Command, reviews: Path, tiny_base: Path, tmp_path: Path
) -> None:
    assert "Wrote mine.yaml" in cli("recipes", "new", "mine.yaml").fine()
    assert json.loads(
        cli(
            "plan", "--no-try", "--task", "mine.yaml", "--data", reviews, "--base", tiny_base, "--json"
        ).fine()
    )["task"]
    assert "--task 'my own.yaml' --data" in cli("recipes", "new", "my own.yaml").fine()
    assert "mine.yaml is there already" in cli("recipes", "new", "mine.yaml").refused()
    assert "is no recipe file" in cli("recipes", "new", "mine.txt").refused()
    assert "Did you mean 'ner'" in cli("recipes", "new", "b.py", "--like", "nerr").refused()
    assert "mine.yaml is a file" in cli("recipes", "new", "b.py", "--like", "mine.yaml").refused()
    assert not (tmp_path / "b.py").exists()
    assert "ner.py is called as one of ours" in cli("recipes", "new", "ner.py").refused()
    listed = cli("recipes").fine()
    assert "reasons" not in listed
    assert "a head starts from nothing" in listed


def test_programs_are_told_which_rates_follow_the_width(cli: Command) -> None:
    known = {record["name"]: record["defaults"] for record in json.loads(cli("recipes", "--json").fine())}
    assert (known["ner"]["by_width"], known["chat"]["by_width"]) == (False, True)


def test_what_is_the_same_in_all_trials_cannot_be_tried(cli: Command, reviews: Path, tiny_base: Path) -> None:
    given = ("sweep", "--task", "sentiment", "--data", reviews, "--base", tiny_base, "--try")
    assert "'seed' is the same in all trials" in cli(*given, "seed=1|2").refused()
    assert "rank is both set and tried" in cli(*given, "rank=2|4", "--rank", 8).refused()


def test_lists_of_modules_are_tried_and_shown_as_they_are_set(
    cli: Command, reviews: Path, tiny_base: Path
) -> None:
    given = ("sweep", "--task", "sentiment", "--data", reviews, "--base", tiny_base, "--max-steps", 1)
    tried = (*given, "--try", "target-modules=query,value|key,value", "--output", "sweep")
    found = json.loads(cli(*tried, "--trials", 1, "--json").fine())["best"]["settings"]["target_modules"]
    assert found in (["query", "value"], ["key", "value"])
    assert f"target_modules={','.join(found)}" in cli(*tried, "--trials", 1).fine()


def test_a_sweep_of_a_recipe_of_ones_own_has_a_folder_wherever_that_lies(
    cli: Command, reviews: Path, tiny_base: Path, tmp_path: Path
) -> None:
    (tmp_path / "tickets.yaml").write_text("like: sentiment\n")
    given = ("sweep", "--task", tmp_path / "tickets.yaml", "--data", reviews, "--base", tiny_base)
    found = cli(*given, "--max-steps", 1, "--try", "rank=2|4", "--trials", 1, "--json")
    assert json.loads(found.fine())["best"]["run"] == "sweeps/tickets/trial-1"
