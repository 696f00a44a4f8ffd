"""A finished run is repeated from its folder: the same bytes, or a refusal that says what is no longer the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes import TrainingResult, train
from adapthub.recipes.repeating import changes, repeated
from adapthub.recipes.run import Run, differences
from tests.adapters.causal_pass import write_causal_base
from tests.recipes.test_chat import PLAIN, TALK
from tests.recipes.test_translate import causal_base, pairs
from tests.recipes.tokenizer_kinds import byte_level

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

__all__ = ["causal_base"]
WEIGHTS = "adapter_model.safetensors"
OWN = "like: ner\ndefaults: {batch_size: 4}\n"
SHORT: dict[str, Any] = {"batch_size": 4, "max_steps": 4, "learning_rate": 1e-2, "seed": 5}


@pytest.fixture
def data(ner_data: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(ner_data, tmp_path / "data"))


@pytest.fixture(scope="module")
def first(tiny_base: Path, ner_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    output = tmp_path_factory.mktemp("first") / "run"
    return train("ner", ner_data, base=str(tiny_base), output=output, quiet=True, scheme="bio", **SHORT)


@pytest.mark.parametrize(
    "kind",
    [
        {"dropout": 0.1},
        pytest.param({"method": "dora", "quantize": "int8"}, marks=pytest.mark.slow),
        pytest.param({"method": "prefix", "precision": "fp32"}, marks=pytest.mark.slow),
    ],
)
def test_a_repeat_gives_the_same_bytes(
    kind: dict[str, Any], tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ner_data)  # paths as a user gives them, and a repeat from elsewhere
    settings = {**SHORT, **kind, "validation": Path("validation.conll"), "test": "test.conll"}
    before = train("ner", "train.conll", base=str(tiny_base), output=tmp_path / "a", quiet=True, **settings)
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    after = train(**repeated("a"), output=tmp_path / "b", quiet=True, report=told.append)
    assert after.artifact.files[WEIGHTS] == before.artifact.files[WEIGHTS]
    assert after.run.history == before.run.history
    assert not differences(after.run.configuration, before.run.configuration)
    assert after.metrics == before.metrics
    assert not any("other" in note for note in told)
    assert (
        train(**repeated("b"), output=tmp_path / "c", quiet=True).artifact.files[WEIGHTS]
        == (before.artifact.files[WEIGHTS])
    )


@pytest.mark.slow
def test_a_run_from_a_parent_is_repeated(first: TrainingResult, ner_data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 2, "batch_size": 4, "quiet": True, "validation": False}
    before = train("ner", ner_data, start=first.artifact.path, output=tmp_path / "a", **settings)
    after = train(**repeated(tmp_path / "a"), output=tmp_path / "b", quiet=True)
    assert after.artifact.files[WEIGHTS] == before.artifact.files[WEIGHTS]
    assert after.artifact.manifest is not None
    assert before.artifact.manifest is not None
    assert after.artifact.manifest.parents == before.artifact.manifest.parents


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_data_that_changed_is_refused_with_its_split(
    split: str, tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    train("ner", data, base=str(tiny_base), output=tmp_path / "run", quiet=True, max_steps=1)
    with (data / f"{split}.conll").open("a") as file:
        file.write("ada B-PER\n")
    rows = 22 if split == "train" else 12
    with pytest.raises(
        InvalidData, match=rf"the {split} split \(.*{split}.conll\) changed: it had {rows} .*{rows + 1}"
    ):
        train(**repeated(tmp_path / "run"), output=tmp_path / "again", quiet=True)
    assert not (tmp_path / "again").exists()


def test_data_that_is_gone_is_refused(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    train("ner", data, base=str(tiny_base), output=tmp_path / "run", quiet=True, max_steps=1)
    (data / "test.conll").unlink()
    with pytest.raises(InvalidData, match="the test split is no longer there"):
        train(**repeated(tmp_path / "run"), output=tmp_path / "again", quiet=True)
    shutil.rmtree(data)
    with pytest.raises(InvalidData, match=rf"its training data lay at {data}, which is no longer there"):
        repeated(tmp_path / "run")


def test_rows_in_memory_cannot_be_repeated(tiny_base: Path, tmp_path: Path) -> None:
    rows = [{"tokens": ["ada", "met", "bob"], "labels": ["B-PER", "O", "B-PER"]}] * 4
    settings: dict[str, Any] = {"validation": False, "quiet": True, "max_steps": 1}
    train("ner", {"train": rows}, base=str(tiny_base), output=tmp_path / "run", **settings)
    with pytest.raises(InvalidData, match="its train split was a list in memory, not a file"):
        repeated(tmp_path / "run")


@pytest.mark.slow
def test_a_recipe_of_ones_own_is_repeated_unless_it_changed(
    tiny_base: Path, ner_data: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(OWN)
    settings: dict[str, Any] = {"base": str(tiny_base), "max_steps": 1, "quiet": True}
    before = train(str(recipe), ner_data, output=tmp_path / "run", **settings).artifact
    after = train(**repeated(tmp_path / "run"), output=tmp_path / "again", quiet=True).artifact
    assert after.files[WEIGHTS] == before.files[WEIGHTS]
    recipe.write_text(f"{OWN}# more\n")
    with pytest.raises(InvalidSettings, match=r"its recipe .*own.yaml changed"):
        repeated(tmp_path / "run")


def test_an_option_of_a_recipe_of_ones_own_is_repeated_as_it_was_given(
    tiny_base: Path, review_data: Path, tmp_path: Path
) -> None:
    """Also one called as an option of ours, which it does not keep as ours do."""
    recipe = tmp_path / "own.py"
    recipe.write_text(
        "from adapthub.recipes.sentiment import Sentiment\n\n\nclass Own(Sentiment):\n"
        "    options = {**Sentiment().options, 'answered': 'questions that were answered: yes or no'}\n\n"
        "    def read(self, source, *, answered='no', **given):\n"
        "        assert answered in ('yes', 'no')\n        return super().read(source, **given)\n\n\n"
        "recipe = Own(name='own')\n"
    )
    settings: dict[str, Any] = {"base": str(tiny_base), "max_steps": 1, "max_length": 32, "quiet": True}
    before = train(str(recipe), review_data, output=tmp_path / "run", answered="yes", **settings)
    assert repeated(tmp_path / "run")["answered"] == "yes"
    after = train(**repeated(tmp_path / "run"), output=tmp_path / "again", quiet=True)
    assert after.artifact.files[WEIGHTS] == before.artifact.files[WEIGHTS]


def test_a_template_is_repeated_as_its_file_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_level()
    base = write_causal_base(
        tmp_path / "base", vocab_size=len(tokenizer), max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id
    )  # fmt: skip
    tokenizer.save_pretrained(base)
    (tmp_path / "talk.jsonl").write_text(f"{json.dumps({'messages': TALK})}\n" * 2)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("own.jinja").write_text(PLAIN)
    settings: dict[str, Any] = {"base": str(base), "max_steps": 1, "validation": False, "quiet": True}
    before = train("chat", tmp_path / "talk.jsonl", output=tmp_path / "a", template="own.jinja", **settings)
    Path("own.jinja").write_text("another")
    monkeypatch.chdir(tmp_path)
    after = train(**repeated("a"), output=tmp_path / "b", quiet=True)
    assert after.artifact.files[WEIGHTS] == before.artifact.files[WEIGHTS]


def test_what_is_no_finished_run_is_refused(first: TrainingResult, tmp_path: Path) -> None:
    record = json.loads((first.run.path / "run.json").read_text())
    for name, change, message in (
        ("started", {"state": "started"}, "is not finished.*--resume"),
        ("old", {"sources": None}, "an older AdaptHub made it"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(InvalidSettings, match=message):
            repeated(tmp_path / name)
    with pytest.raises(InvalidSettings, match="is not the folder of a run"):
        repeated(tmp_path / "nothing")


def test_other_versions_and_hardware_are_told(first: TrainingResult, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(first.run.path, run)
    record = json.loads((run / "run.json").read_text())
    record["environment"]["libraries"]["torch"] = "1.0"
    record["environment"]["hardware"]["threads"] = 99
    (run / "run.json").write_text(json.dumps(record))
    told: list[str] = []
    train(**repeated(run), output=tmp_path / "again", quiet=True, report=told.append)
    assert any(
        note.startswith(f"repeated with other versions than {run} began with: torch 1.0 -> ") for note in told
    )
    assert any(
        note.startswith(f"repeated with other hardware than {run} began with: threads 99 -> ")
        for note in told
    )


@pytest.mark.parametrize(
    ("later", "told"),
    [
        ({}, []),
        ({"triton": "3.5"}, ["liger_kernel none -> 0.6"]),
        ({"triton": "3.4", "liger_kernel": "0.6", "gone": "2"}, ["triton 3.4 -> 3.5", "gone 2 -> none"]),
    ],
)
def test_a_library_that_records_did_not_have_yet_is_not_called_new(
    later: dict[str, str], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"python": "3.12", "torch": "2.13", "triton": "3.5", "liger_kernel": "0.6"}
    monkeypatch.setattr("adapthub.recipes.repeating.libraries", lambda: versions)
    environment = {"libraries": {"python": "3.12", "torch": "2.13", **later}, "hardware": {}}
    run = Run(Path("run"), {}, environment, "")
    said = "resumed with other versions than run began with: "
    assert list(changes(run, {}, doing="resumed")) == [f"{said}{', '.join(told)}"] * bool(told)


def fails(*_: Any, **__: Any) -> None:
    raise RuntimeError("no room")


def test_a_run_from_before_texts_were_counted_is_repeated_and_goes_on(
    causal_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote all of them. Who goes on with one measures as is asked now, and a repeat of that measures so too."""
    for name, rows in (("train", 8), ("test", 4)):
        lines = map(json.dumps, pairs(rows, seed=rows))
        (tmp_path / "data" / f"{name}.jsonl").parent.mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.jsonl").write_text("\n".join(lines))
    settings: dict[str, Any] = {"base": str(causal_base), "max_steps": 1, "validation": False, "quiet": True}
    before = train("translate", tmp_path / "data", output=tmp_path / "a", answered="all", **settings)
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert "answered" not in record["configuration"]["settings"]
    record["sources"]["options"] = {}
    (tmp_path / "a" / "run.json").write_text(json.dumps(record))

    after = train(**repeated(tmp_path / "a"), output=tmp_path / "b", quiet=True)
    assert after.metrics == before.metrics
    assert after.metrics["test"]["chrf"].n == 4
    assert after.artifact.files[WEIGHTS] == before.artifact.files[WEIGHTS]
    assert after.artifact.manifest is not None
    assert before.artifact.manifest is not None
    assert after.artifact.manifest.hyperparameters == before.artifact.manifest.hyperparameters

    with monkeypatch.context() as failing:
        failing.setattr("adapthub.recipes.training.fit", fails)
        with pytest.raises(RuntimeError, match="no room"):
            train("translate", tmp_path / "data", resume=tmp_path / "a", answered=3, **settings)
    assert json.loads((tmp_path / "a" / "run.json").read_text()) == record, "what it was measured as"
    fewer = train("translate", tmp_path / "data", resume=tmp_path / "a", answered=3, **settings)
    assert fewer.metrics["test"]["chrf"].n == 3
    assert fewer.artifact.files[WEIGHTS] == before.artifact.files[WEIGHTS]
    again = train(**repeated(tmp_path / "a"), output=tmp_path / "c", quiet=True)
    assert again.metrics == fewer.metrics


def test_rows_that_are_set_aside_otherwise_are_not_called_other_data(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before passages of one query stayed together."""
    rows = [{"query": f"ada {at // 2}", "passage": f"bob met alice {at}"} for at in range(40)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings: dict[str, Any] = {"base": str(tiny_base), "max_steps": 1, "batch_size": 4, "quiet": True}
    with monkeypatch.context() as older:
        older.setattr("adapthub.recipes.splits._grouped_by", lambda recipe, dataset: None)
        train("embed", tmp_path / "data.jsonl", output=tmp_path / "run", **settings)
    said = (
        "the rows set aside for validation were chosen 'by their content', and are now chosen 'by their content;"
        " rows of one query stay together'"
    )
    with pytest.raises(
        InvalidSettings, match=rf"cannot resume .*: {said}; data.train.* Train anew"
    ) as refused:
        train("embed", tmp_path / "data.jsonl", resume=tmp_path / "run", **settings)
    assert refused.value.hint == "Train anew without --resume.", "no column gives that way back"
    monkeypatch.setattr("adapthub.recipes.run.RUNS", tmp_path)
    with pytest.raises(
        InvalidSettings, match=rf"nothing to resume .*run, differs: {said}; data.train"
    ) as refused:
        train("embed", tmp_path / "data.jsonl", resume=True, **settings)
    assert refused.value.hint == "Train without --resume."
    with pytest.raises(InvalidData, match=rf"cannot repeat .*run: {said}\. Train anew"):
        train(**repeated(tmp_path / "run"), output=tmp_path / "again", quiet=True)
    given = {**settings, "validation": False}
    with pytest.raises(
        InvalidSettings, match=r"cannot resume .*run: data.train.* Give the settings of that run"
    ):
        train("embed", tmp_path / "data.jsonl", resume=tmp_path / "run", **given)


def test_rows_that_a_column_kept_together_may_be_kept_so_again(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"text": f"{word} {at}", "label": word, "film": str(at // 4)} for at in range(12) for word in "ab"
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings: dict[str, Any] = {"base": str(tiny_base), "max_steps": 1, "batch_size": 4, "quiet": True}
    train("sentiment", tmp_path / "data.jsonl", output=tmp_path / "run", group_column="film", **settings)
    monkeypatch.setattr("adapthub.recipes.run.RUNS", tmp_path)
    for resume in (True, tmp_path / "run"):
        with pytest.raises(
            InvalidSettings, match=r"rows of one film stay together', and are now chosen 'by their content'"
        ) as refused:
            train("sentiment", tmp_path / "data.jsonl", resume=resume, **settings)
        assert (refused.value.hint or "").endswith("--resume, or with group_column='film' as that run.")


def test_a_setting_that_no_longer_means_the_same_is_refused(first: TrainingResult, tmp_path: Path) -> None:
    shutil.copytree(first.run.path, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["configuration"]["settings"]["label_token"] = "last"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(InvalidSettings, match="settings.label_token was 'last', is now 'first'"):
        train(**repeated(tmp_path / "run"), output=tmp_path / "again", quiet=True)
