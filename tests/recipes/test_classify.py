"""The recipe classify: one label or any number, in every form; refusals and notes that name file and row; its metrics."""

from __future__ import annotations

import random
import warnings
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModelForSequenceClassification

from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.hub import open_hub
from adapthub.recipes import evaluate, train
from adapthub.recipes.classify import Classify
from adapthub.recipes.data.classes import in_order
from adapthub.recipes.sentiment import Sentiment
from adapthub.recipes.splits import read_splits
from adapthub.runtime import Runtime
from tests.recipes.tokenizer_kinds import wordpiece

CLASSIFY = Classify()
ROWS = [
    {"text": "good film", "labels": ["film", "mood"]},
    {"text": "bad", "labels": ["mood"]},
    {"text": "the", "labels": []},
]
FIELDS = [{"text": row["text"], "labels": row["labels"]} for row in ROWS]


def write(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def fields(source: Any, **options: Any) -> list[dict[str, Any]]:
    return [dict(example.fields) for example in CLASSIFY.read(source, **options)]


def test_labels_come_as_a_list_as_text_or_as_columns(tmp_path: Path) -> None:
    cells = write(tmp_path, "text,topics\ngood film, mood | film|\nbad,mood\nthe,\n")
    columns = write(tmp_path, "text,film,mood\ngood film,1,true\nbad,0,1\nthe,0,False\n", "b.csv")
    numbers = [
        {"text": row["text"], **{name: float(name in row["labels"]) for name in ("mood", "film")}}
        for row in ROWS
    ]
    assert fields(ROWS) == FIELDS
    assert fields(columns, label_columns=["film", "mood"]) == FIELDS
    assert fields(numbers, label_columns=["mood", "film"]) == FIELDS
    assert fields(cells, label_separator="|") == FIELDS
    lists = write(
        tmp_path, 'text,labels\ngood film,"[""mood"", ""film""]"\nbad,"[""mood""]"\nthe,[]\n', "c.csv"
    )
    assert fields(lists) == FIELDS
    of_pandas = write(tmp_path, "text,film,mood\ngood film,1.0,1.0\nbad,0.0,1.0\nthe,0.0,0.0\n", "d.csv")
    assert fields(of_pandas, label_columns=["film", "mood"]) == FIELDS


@pytest.mark.parametrize("cell", ["['mood', 'film']", "['mood' 'film']", "['mood']", "[0 3]"])
def test_lists_that_are_not_json_are_no_classes(cell: str, tmp_path: Path) -> None:
    path = write(tmp_path, f'text,labels\ngood film,"{cell}"\nthe,[]\n')
    with pytest.raises(InvalidData, match=r"a\.csv:2: the label in column 'labels' is a list: .*json\.dumps"):
        CLASSIFY.read(path)
    with pytest.raises(InvalidData, match=r"a\.csv:2: .* a list already: .* Leave label_separator out"):
        CLASSIFY.read(path, label_separator=",")
    with pytest.raises(InvalidData, match=r"a\.csv:2: the label in column 'labels' is a list"):
        Sentiment().read(path, label_column="labels")


@pytest.mark.parametrize("label", ["[unclear]", "[", "[]x", "a, b"])
def test_names_in_brackets_are_labels(label: str) -> None:
    assert fields([{"text": "a", "label": label}]) == [{"text": "a", "label": label}]


def test_several_labels_in_one_text_are_noted() -> None:
    several = [
        {"text": "a", "label": label} for label in ("mood; film", "mood", "film", "U.S., East", "East")
    ]
    assert CLASSIFY.read(several).notes == (
        "label 'mood; film' is one class, though its parts are labels, too: classify reads several at once with"
        " label_separator=;",
    )
    assert CLASSIFY.read(several, label_separator=";").notes == ()


def test_labels_of_one_value_have_one_order_in_every_process() -> None:
    """The order of a set changes from process to process, and processes that train together must agree."""
    orders = permutations(("1", "01", "001", "02", "2"))
    assert {in_order(labels) for labels in orders} == {("001", "01", "1", "02", "2")}
    assert in_order({"b", "10", "2"}) == ("10", "2", "b")


def test_one_label_a_text_stays_one() -> None:
    data = CLASSIFY.read([{"text": "a", "label": 1}, {"text": "b", "label": "2"}])
    assert [example.fields["label"] for example in data] == ["1", "2"]
    assert CLASSIFY.labels(data) == ("1", "2")
    of_numpy = CLASSIFY.read(
        [{"text": text, "label": label} for text, label in zip("ab", np.arange(1, 3), strict=True)]
    )
    assert of_numpy.fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            {"text": "a", "labels": "mood"},
            {},
            r"row 4: the labels in column 'labels' are 'mood', and a list in",
        ),
        ({"text": "a", "labels": None}, {}, "row 4: the labels in column 'labels' are empty, and a list in"),
        ({"text": "a", "labels": ["mood", ""]}, {}, "row 4: the label in column 'labels' is empty"),
        ({"text": "a", "labels": [["x"]]}, {}, r"row 4: the label in column 'labels' is \['x'\]"),
        (
            {"text": "a"},
            {"label_columns": ["text", "labels"]},
            "row 1: column 'text' is 'good film', neither",
        ),
    ],
)
def test_rows_that_cannot_be_read_are_named(row: dict[str, Any], options: Any, message: str) -> None:
    with pytest.raises(InvalidData, match=f"data:{message}"):
        CLASSIFY.read([*ROWS, row], **options)


def test_options_that_exclude_each_other_and_one_column_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "text,a,b\nx,1,0\n")
    with pytest.raises(InvalidSettings, match="neither label_column nor label_separator"):
        CLASSIFY.read(path, label_columns=["a", "b"], label_separator=";")
    with pytest.raises(InvalidSettings, match=r"names 1 columns.* set label_column"):
        CLASSIFY.read(path, label_columns="a")
    with pytest.raises(InvalidData, match="no column 'c'"):
        CLASSIFY.read(path, label_columns=["a", "c"])


def test_one_label_only_and_none_at_all_are_refused() -> None:
    with pytest.raises(InvalidData, match="every row that has a label has the label 'mood'"):
        CLASSIFY.labels(CLASSIFY.read(ROWS[1:]))
    none = CLASSIFY.read([{"text": "a", "labels": []}])
    with pytest.raises(InvalidData, match="data: no row has a label in 'labels'"):
        CLASSIFY.labels(none)
    with pytest.raises(InvalidData, match="data: no row has a label in 'labels'"):
        CLASSIFY.check(none, ("mood", "film"))


def test_a_label_unseen_in_training_is_named() -> None:
    with pytest.raises(InvalidData, match="data:row 1: label 'film' is not in the training data"):
        CLASSIFY.check(CLASSIFY.read(ROWS), ("mood", "other"))


def test_a_list_where_training_had_one_label_is_refused(tmp_path: Path) -> None:
    data = CLASSIFY.read(ROWS)
    with pytest.raises(InvalidData, match="data:row 1: a list of labels, where training had one"):
        CLASSIFY.encode(wordpiece(tmp_path), data, ("film", "mood"), {"max_length": 16})


def test_what_is_odd_is_noted_with_file_and_row(tmp_path: Path) -> None:
    path = write(tmp_path, "id,text,label\n7,a,pos\n8,b,3\n7,c,pos\n8,d,pos\n")
    assert CLASSIFY.read(path).notes == (
        f"labels are numbers and names, each a class of its own: '3' ({path}:3) beside 'pos' ({path}:2)",
        f"2 rows have the id of an earlier one: '7' stands at {path}:2 and {path}:4",
    )
    assert CLASSIFY.read(ROWS).notes == ("1 of 3 rows have no label, the first at data:row 3",)
    spellings = [{"text": "a", "label": label} for label in (True, "no", "true")]
    assert CLASSIFY.read(spellings).notes == ("'True' (data:row 1) and 'true' (data:row 3) are two labels",)
    alike = [{"text": "a", "label": "caf\u00e9"}, {"text": "b", "label": "cafe\u0301"}]
    assert CLASSIFY.read(alike).notes == (
        r"'caf\xe9' (data:row 1) and 'cafe\u0301' (data:row 2) are two labels",
    )
    flags = [{"text": "a", "x": 1, "y": 0, "z": 1}]
    assert CLASSIFY.read(flags, label_columns=["x", "y", "z"]).notes == ("label column 'y' has no 1",)


def test_labels_with_few_rows_are_noted_of_the_training_split() -> None:
    many = [{"text": f"a {index}", "label": "often"} for index in range(20)]
    few = [{"text": f"b {index}", "label": f"rare {index % 6}"} for index in range(7)]
    _, notes = read_splits(CLASSIFY, [*many, *few], validation=[{"text": "c", "label": "often"}])
    shown = "rare 1 (1), rare 2 (1), rare 3 (1), rare 4 (1), rare 5 (1) and 1 more"
    assert notes == (f"train: 6 of 7 labels have fewer than 8 rows: {shown}",)
    _, notes = read_splits(CLASSIFY, ROWS, validation=ROWS[:1])
    assert "train: 1 of 3 rows have no label, the first at data:row 3" in notes


def test_rows_have_a_float_a_label_and_the_manifest_says_why(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    data = CLASSIFY.read(ROWS)
    settings = CLASSIFY.resolve(tokenizer, data, max_length=16)
    assert settings == {
        "max_length": 16,
        "problem_type": "multi_label_classification",
        "threshold": 0.5,
    }
    encoded = CLASSIFY.encode(tokenizer, data, ("film", "mood"), settings)
    batch = CLASSIFY.collator(tokenizer)([dict(row) for row in encoded.rows])
    assert batch["labels"].tolist() == [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    assert batch["labels"].is_floating_point()
    previews = [CLASSIFY.preview(tokenizer, data, encoded, ("film", "mood"), at).rows[0] for at in (0, 2)]
    assert [label for _, label in previews] == ["film, mood", "(none)"]
    single = CLASSIFY.read([{"text": "a", "label": "mood"}])
    assert CLASSIFY.encode(tokenizer, single, ("film", "mood"), settings).rows[0]["labels"] == [0.0, 1.0]


def test_measuring_agrees_with_scikit_learn(tmp_path: Path) -> None:
    names = tuple("abcd")
    draw = np.random.default_rng(0)
    gold, logits = draw.random((50, 4)) < 0.3, draw.normal(size=(50, 4))
    rows = [
        {"text": "x", "labels": [name for name, held in zip(names, row, strict=True) if held]} for row in gold
    ]
    data = CLASSIFY.read(rows)
    tokenizer = wordpiece(tmp_path)
    encoded = CLASSIFY.encode(tokenizer, data, names, CLASSIFY.resolve(tokenizer, data, max_length=16))
    values = CLASSIFY.measure(list(logits), data, encoded, names).values()
    predicted = logits > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = {
            "macro_f1": f1_score(gold, predicted, average="macro"),
            "micro_f1": f1_score(gold, predicted, average="micro"),
            "accuracy": accuracy_score(gold, predicted),
        }
        by_label = f1_score(gold, predicted, average=None)
    expected |= {f"f1/{name}": value for name, value in zip(names, by_label, strict=True)}
    assert values == pytest.approx(expected)


def topics(rows: int, seed: int) -> list[dict[str, Any]]:
    """Texts with the kinds of words that they hold, none to three."""
    draw = random.Random(seed)
    kinds = {
        "person": ("ada", "bob", "alice"),
        "place": ("london", "paris", "berlin"),
        "mood": ("good", "awful"),
    }
    made = []
    for _ in range(rows):
        words = draw.choices(("the", "film", "was", "is", "a"), k=draw.randint(2, 8))
        held = [kind for kind in sorted(kinds) if draw.random() < 0.4]
        for kind in held:
            words.insert(draw.randrange(len(words)), draw.choice(kinds[kind]))
        made.append({"text": " ".join(words), "topics": "; ".join(held)})
    return made


@pytest.mark.slow
def test_from_data_to_several_labels_that_are_served_and_pefts(tiny_base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 250, "batch_size": 16, "max_length": 32, "patience": 0}
    settings |= {"learning_rate": 5e-3, "head_learning_rate": 2e-2}
    test, hub = topics(40, 2), open_hub(tmp_path / "hub")
    result = train(
        "classify", topics(200, 0), base=str(tiny_base), validation=topics(40, 1), test=test, name="acme/topics", hub=hub,
        push=True, alias="prod", output=tmp_path / "run", quiet=True, label_separator=";", **settings,
    )  # fmt: skip
    assert result.metrics["test"]["micro_f1"].value > 0.8
    artifact = hub.pull("acme/topics@prod")
    manifest = artifact.manifest
    assert manifest is not None
    assert (manifest.task, manifest.labels) == ("text-classification", ("mood", "person", "place"))
    assert manifest.hyperparameters["problem_type"] == "multi_label_classification"
    assert manifest.hyperparameters["threshold"] == 0.5
    assert evaluate(artifact, test, label_separator=";").metrics == result.metrics["test"]

    texts = [row["text"] for row in test]
    with Runtime(load_base(str(tiny_base)), hub=hub) as runtime:
        found = runtime.predict(texts, "acme/topics@prod")
        logits = runtime.logits(texts[:4], "acme/topics@prod")
    gold = [tuple(filter(None, row["topics"].split("; "))) for row in test]
    right = [prediction.labels == held for prediction, held in zip(found, gold, strict=True)]
    assert np.mean(right) == pytest.approx(result.metrics["test"]["accuracy"].value)

    plain: Any = AutoModelForSequenceClassification.from_pretrained(tiny_base, num_labels=3)
    model = PeftModel.from_pretrained(plain, str(artifact.path)).eval()
    tokenizer = wordpiece(tmp_path / "tokenizer")
    for text, ours in zip(texts, logits, strict=False):
        with torch.inference_mode():
            theirs = model(**tokenizer(text, return_tensors="pt")).logits[0]
        assert (ours - theirs).abs().max() / theirs.abs().max() <= 1e-5
