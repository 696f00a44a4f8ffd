"""train, eval and run on a tiny base: the dry run, the result, folders of splits, expressions, stdin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapthub.adapters.errors import InvalidSettings
from adapthub.cli.set_option import setting
from adapthub.cli.train import steps_text
from tests.cli.conftest import Command
from tests.cli.data import write_conll, write_reviews

TINY = ("--max-steps", "3", "--batch-size", "4")


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """A folder with the three splits of an entity task."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, copies in (("train", 4), ("dev", 1), ("test", 1)):
        write_conll(folder / f"{name}.conll", copies=copies)
    return folder


LEAKS = (("validation", "training"), ("test", "training"), ("test", "validation"))
PLAN = {
    *("task", "method", "base", "base_fingerprint", "quantize", "seed", "labels", "settings", "reasons"),
    *("steps", "eval_steps", "trainable", "parameters", "trainable_share", "adapter_bytes", "base_bytes"),
    *("adapter_share", "estimated_memory", "splits", "notes", "samples", "trial"),
}


def test_the_plan_shows_the_run_and_three_aligned_samples(
    cli: Command, splits: Path, tmp_path: Path, tiny_base: Path
) -> None:
    arguments = ("--task", "ner", "--data", splits, "--base", tiny_base, "--rank", "4", "--name", "acme/ner")
    shown = cli("plan", *arguments, "--no-try", "--json").fine()
    assert cli("train", *arguments, "--dry-run", "--json").fine() == shown
    record = json.loads(shown)
    assert record.keys() == PLAN
    assert record["splits"][0].keys() == {
        "split", "source", "rows", "targets", "supervised", "truncated", "lengths", "classes",
    }  # fmt: skip
    assert record["samples"][0].keys() == {"source", "text", "columns", "rows"}
    assert record["labels"] == ["O", "B-LOC", "B-ORG", "B-PER"]
    assert record["settings"]["rank"] == 4
    assert [(split["split"], split["rows"]) for split in record["splits"]] == [
        ("train", 24),
        ("validation", 6),
        ("test", 6),
    ]
    assert len(record["samples"]) == 3
    assert ["london", "london", "B-LOC"] in record["samples"][0]["rows"]
    assert record["notes"] == [
        "train: 1 of 4 labels have fewer than 8 rows: B-ORG (4)",
        *(f"{name}: 6 of 6 rows also stand in the {known} split" for name, known in LEAKS),
    ]
    text = cli("plan", *arguments, "--no-try").fine()
    assert cli("train", *arguments, "--dry-run").fine() == text
    assert text.count("sub-token") == 3
    assert "estimated memory" in text
    assert record["reasons"]["alpha"] in text
    assert all(note in text for note in record["notes"])
    assert any(line.split() == ["london", "london", "B-LOC"] for line in text.splitlines())
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_first_steps_are_tried_for_a_plan(cli: Command, splits: Path, tiny_base: Path) -> None:
    arguments = ("plan", "--task", "ner", "--data", splits, "--base", tiny_base, *TINY)
    trial = json.loads(cli(*arguments, "--json").fine())["trial"]
    assert trial.keys() == {
        *("memory", "device_memory", "seconds", "loading", "training", "measuring", "step", "largest_batch")
    }
    text = cli(*arguments).fine()
    assert "before the first step" in text
    assert "largest batch" in text


def test_samples_are_inspected_with_what_is_learnt(
    cli: Command, splits: Path, tmp_path: Path, tiny_base: Path
) -> None:
    arguments = ("--task", "ner", "--data", splits, "--base", tiny_base, "--inspect")
    text = cli("plan", *arguments).fine()
    assert cli("train", *arguments).fine() == text
    assert "[CLS] [ada/B-PER] [was/O] [born/O] [in/O] [london/B-LOC] [./O] [SEP]" in text
    assert "6 of 8 are learnt" in text
    samples = json.loads(cli("plan", *arguments, "--json").fine())
    assert len(samples) == 3
    assert samples[0].keys() == {"source", "text", "columns", "rows", "supervised"}
    assert samples[0]["supervised"] == [False, *[True] * 6, False]
    assert not (tmp_path / "runs").exists()


def test_train_leaves_a_run_and_says_where_and_what_next(cli: Command, splits: Path, tiny_base: Path) -> None:
    arguments = ("train", "--task", "ner", "--data", splits, "--base", tiny_base, *TINY)
    text = cli(*arguments, "--output", "mine").fine()
    assert "validation f1 0." in text
    assert "test f1 0." in text
    assert "loss" in text
    assert "adapt push mine/adapter namespace/name" in text
    assert Path("mine/loss.png").is_file()


def test_an_early_stop_is_said(cli: Command, splits: Path, tiny_base: Path) -> None:
    settings = ("--max-steps", 50, "--set", "eval_steps=1", "--set", "patience=1", "--learning-rate", "1e-9")
    arguments = ("train", "--task", "ner", "--data", splits, "--base", tiny_base, *settings)
    text = cli(*arguments, "--head-learning-rate", "1e-9").fine()
    assert "Stopped early at step 2 of 50: validation f1 was best at step 1, which is kept." in text


def test_steps_are_told_where_they_are_no_surprise() -> None:
    assert steps_text({"planned": 9, "taken": 9, "kept": 9}, "f1") is None
    assert "Kept step 6 of 9" in (steps_text({"planned": 9, "taken": 9, "kept": 6}, "f1") or "")
    assert steps_text({}, "f1") is None


def test_what_is_set_aside_is_said_before_training_and_none_where_none_is_wanted(
    cli: Command, tmp_path: Path, tiny_base: Path
) -> None:
    data = write_reviews(tmp_path / "reviews.csv")
    arguments = ("train", "--task", "sentiment", "--data", data, "--base", tiny_base, *TINY, "--json")
    result = cli(*arguments)
    assert json.loads(result.fine())["metrics"].keys() == {"validation"}
    assert result.err == (
        "validation: no such split given, so 4 of 40 training rows are set aside, chosen by their content\n"
    )
    result = cli(*arguments, "--no-validation")
    assert json.loads(result.fine())["metrics"] == {}
    assert result.err == ""


def test_train_publishes_and_its_json_has_everything(cli: Command, tmp_path: Path, tiny_base: Path) -> None:
    data = write_reviews(tmp_path / "reviews.csv")
    arguments = ("train", "--task", "sentiment", "--data", data, "--test", data, "--base", tiny_base, *TINY)
    record = json.loads(cli(*arguments, "--name", "acme/mood", "--push", "--alias", "prod", "--json").fine())
    assert record.keys() == {"run", "adapter", "digest", "size", "steps", "metrics", "published"}
    assert record["steps"].keys() == {"planned", "taken", "kept"}
    assert record["metrics"]["test"]["accuracy"].keys() == {"value", "low", "high", "n"}
    assert record["published"]["name"] == "acme/mood"
    assert json.loads(cli("show", "acme/mood@prod", "--json").fine())["digest"] == record["digest"]
    found = json.loads(cli("search", "--metric", "accuracy>=0", "--label", "good", "--json").fine())
    assert [entry["name"] for entry in found] == ["acme/mood"]
    answer = json.loads(cli("run", "acme/mood", "the film is great", "--json").fine())[0]
    assert answer["label"] in ("good", "bad")
    assert sum(answer["scores"].values()) == pytest.approx(1)


def test_eval_takes_a_split_of_a_folder_and_agrees_with_the_manifest(
    cli: Command, splits: Path, trained: Path
) -> None:
    record = json.loads(cli("eval", "acme/ner", "--data", splits, "--split", "validation", "--json").fine())
    assert record["rows"] == 6
    assert record["data"].endswith("dev.conll")
    assert record["metrics"]["f1"]["n"] == 6
    by_folder = json.loads(cli("eval", trained, "--data", splits / "dev.conll", "--json").fine())
    assert by_folder["metrics"] == record["metrics"]
    for name in ("lr", "seq-len"):  # what only training takes is not suggested
        line = cli("eval", "acme/ner", "--data", splits, "--set", f"{name}=1").refused()
        assert f"ner data is not read with '{name.replace('-', '_')}'" in line
        assert "learning" not in line
        assert "length" not in line
    assert (
        "Did you mean --batch-size?" in cli("eval", "acme/ner", "--data", splits, "--set", "bs=1").refused()
    )
    (splits / "test.conll").unlink()
    assert "no test split" in cli("eval", "acme/ner", "--data", splits).refused()
    assert "minilm" in cli("eval", "acme/ner", "--data", "sample:minilm").refused()


def test_eval_reads_data_as_it_is_told(cli: Command, tmp_path: Path, trained: Path) -> None:
    data = tmp_path / "test.jsonl"
    row = {"pieces": ["ada", "met", "bob"], "labels": ["I-PER", "O", "I-PER"]}
    data.write_text(json.dumps(row) + "\n")
    arguments = ("eval", "acme/ner", "--data", data, "--set", "token_column=pieces", "--set", "scheme=iob1")
    assert json.loads(cli(*arguments, "--json").fine())["rows"] == 1
    assert "--set token_column." in cli(*arguments[:4]).refused()
    assert "'token_column'" in cli(*arguments[:4], "--set", "token_colum=pieces").refused()
    assert "'text_column'" in cli(*arguments, "--text-column", "words").refused()
    assert "--batch-size" in cli(*arguments, "--batch-size", "0").refused()


def test_run_answers_each_text_in_order(cli: Command, trained: Path) -> None:
    texts = ("ada was born in london .", "she works at acme")
    records = json.loads(cli("run", "acme/ner", *texts, "--json").fine())
    assert [record["text"] for record in records] == list(texts)
    assert json.loads(cli("run", "acme/ner@v1", "-", "--json", stdin="\n\n".join(texts) + "\n").fine()) == [
        {**record, "adapter": "acme/ner@v1"} for record in records
    ]
    assert len(cli("run", "acme/ner", *texts).fine().splitlines()) == 2
    assert json.loads(cli("run", trained, texts[0], "--json").fine())[0]["entities"] == records[0]["entities"]


def test_run_sums_adapters(cli: Command, trained: Path) -> None:
    text = "ada was born in london ."
    alone = json.loads(cli("run", "acme/ner", text, "--json").fine())[0]
    halves = json.loads(cli("run", "1.5*acme/ner - 0.5*acme/ner@v1", text, "--json").fine())[0]
    assert [entity["label"] for entity in halves["entities"]] == [
        entity["label"] for entity in alone["entities"]
    ]
    assert len(halves["digests"]) == 2


def test_a_plain_adapter_says_that_it_needs_a_base(cli: Command, trained: Path, tiny_base: Path) -> None:
    config = json.loads((trained / "adapter_config.json").read_text())
    plain = trained.parent / "plain"
    plain.mkdir()
    (plain / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    (plain / "adapter_model.safetensors").write_bytes((trained / "adapter_model.safetensors").read_bytes())
    assert "--base" in cli("run", plain, "ada was born in london .").refused()
    cli("run", plain, "ada was born in london .", "--base", tiny_base).fine()
    assert "adapthub.json" in cli("eval", plain, "--data", "x.conll", "--base", tiny_base).refused()


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("max-length=48", ("max_length", 48)),
        ("warmup=0.1", ("warmup", 0.1)),
        ("scheme=bio", ("scheme", "bio")),
        ("target_modules=query,value", ("target_modules", ["query", "value"])),
        ("trainable_tokens=7,<end>", ("trainable_tokens", [7, "<end>"])),
        ("delimiter=,", ("delimiter", ",")),
        ("system=You are kind, and brief.", ("system", "You are kind, and brief.")),
        ('words=["a,b", "c"]', ("words", ["a,b", "c"])),
        ("text_column=a=b", ("text_column", "a=b")),
    ],
)
def test_settings_by_name(words: str, meaning: tuple[str, object]) -> None:
    assert setting(words) == meaning


@pytest.mark.parametrize("words", ["", "rank", "=3"])
def test_settings_that_are_none(words: str) -> None:
    with pytest.raises(InvalidSettings, match="NAME=VALUE"):
        setting(words)
