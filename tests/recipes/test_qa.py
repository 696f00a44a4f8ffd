"""The recipe qa: SQuAD and flat records, offsets that are wrong, windows, and a run from data to answer."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForQuestionAnswering

from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidData
from adapthub.hub import open_hub
from adapthub.recipes import evaluate, train
from adapthub.recipes.qa import QuestionAnswering
from adapthub.recipes.recipe import Encoded
from adapthub.recipes.squad import answer_statistics
from adapthub.runtime import Pair, Runtime
from tests.recipes.tokenizer_kinds import byte_level, sentencepiece, wordpiece

QA = QuestionAnswering()
CONTEXT = "Ada met Bob in Paris. Ada slept."
ROWS = [
    {"question": "Who met Bob?", "context": CONTEXT, "answers": {"text": ["Ada"], "answer_start": [0]}},
    {"question": "Who wept?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
]
FIELDS = [
    {"question": "Who met Bob?", "context": CONTEXT, "answers": [{"text": "Ada", "start": 0}]},
    {"question": "Who wept?", "context": CONTEXT, "answers": []},
]


def nested(*asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": "v2.0",
        "data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": [*asked]}]}],
    }


def write_json(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def fields(source: Any, **options: Any) -> list[dict[str, Any]]:
    return [dict(example.fields) for example in QA.read(source, **options)]


def test_squad_and_flat_records_are_one(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    squad = nested(
        {"id": "1", "question": "Who met Bob?", "answers": [{"text": "Ada", "answer_start": 0}]},
        {"id": "2", "question": "Who wept?", "answers": [], "is_impossible": True},
    )
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    csv = tmp_path / "a.csv"
    csv.write_text(
        f'query,passage,answer,answer_start\nWho met Bob?,"{CONTEXT}",Ada,0\nWho wept?,"{CONTEXT}",,\n'
    )
    for source in (
        write_json(tmp_path / "a.json", squad), tmp_path / "a.parquet", lines, csv, ROWS, datasets.Dataset.from_list(ROWS)
    ):  # fmt: skip
        assert fields(source) == FIELDS
    listed = [
        {**row, "answers": [{"text": "Ada", "answer_start": 0}][: 1 - at]} for at, row in enumerate(ROWS)
    ]
    assert fields(listed) == FIELDS
    assert len({QA.read(source).fingerprint for source in (lines, csv, ROWS, listed)}) == 1


def test_an_offset_that_is_wrong_is_corrected_where_the_text_stands_once_and_counted(tmp_path: Path) -> None:
    rows = [
        {**ROWS[0], "answers": {"text": ["Bob"], "answer_start": [7]}},
        {**ROWS[0], "answers": [{"text": "Paris", "answer_start": 0}]},
        {"question": "Where?", "context": CONTEXT, "answer": "slept"},
        {"question": "Where?", "context": CONTEXT, "answers": ["slept"]},
    ]
    read = QA.read(rows[:2])
    assert [example.fields["answers"][0]["start"] for example in read] == [8, 15]
    wrong = "2 answers do not stand at their answer_start and were found where their text stands once, the first at"
    assert read.notes == (f"{wrong} data:row 1",)
    upper = QA.read([{"Question": "Who?", "Context": CONTEXT, "Answer": "Ada", "Answer_Start": 0}])
    assert upper[0].fields["answers"] == [{"text": "Ada", "start": 0}]
    for row in rows[2:]:
        missing = QA.read([row])
        assert missing[0].fields["answers"] == [{"text": "slept", "start": 26}]
        assert missing.notes[0].startswith("1 answers have no answer_start and were found")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [{"text": "Ada", "answer_start": 4}],
            "the answer 'Ada' stands there 2 times; at its answer_start 4 the context has 'met'",
        ),
        (
            [{"text": "Eve", "answer_start": 0}],
            "the answer 'Eve' does not stand in the context; at its answer_start 0 the context has 'Ada'",
        ),
        ([{"text": "Ada"}], "the answer 'Ada' stands there 2 times, and no offset is given"),
        ([{"text": " ", "answer_start": 0}], "an answer is empty"),
        ([{"text": 1912, "answer_start": 0}], "an answer is 1912, not text"),
        ([{"text": "Ada", "answer_start": -3}], "answer_start is -3"),
        (["Ada"], "the answer 'Ada' stands there 2 times, and no offset is given"),
        ([["Ada"]], r"an answer is \['Ada'\]"),
        ({"text": ["Ada"], "answer_start": []}, "'answers' does not have as many texts as starts"),
    ],
)  # fmt: skip
def test_answers_that_do_not_match_are_named_with_both_texts(answers: Any, message: str) -> None:
    with pytest.raises(InvalidData, match=f"data:row 2: {message}"):
        QA.read([ROWS[0], {**ROWS[1], "answers": answers}])


def test_files_that_are_broken_are_named(tmp_path: Path) -> None:
    asked = {"id": "7", "question": "Who?", "answers": [{"text": "Eve", "answer_start": 1}]}
    path = write_json(tmp_path / "a.json", nested(asked))
    with pytest.raises(InvalidData, match=r"a\.json:question 1 \(id 7\): the answer 'Eve' does not stand"):
        QA.read(path)
    write_json(path, nested({"id": "7", "question": "Who?", "answers": []}, {**asked, "answers": []}))
    with pytest.raises(InvalidData, match=r"question 2 \(id 7\): the id '7' also stands at .*question 1"):
        QA.read(path)
    path.write_text(f'{{"data": [{"1" * 5000}]}}')
    with pytest.raises(InvalidData, match=r"a\.json:1: not JSON: a number has too many digits"):
        QA.read(path)
    path.write_text('{"data": [],\n "data": []}')
    with pytest.raises(InvalidData, match=r"a\.json: the key 'data' stands twice in one object"):
        QA.read(path)
    with pytest.raises(InvalidData, match=r"not SQuAD's form: KeyError\('paragraphs'\)"):
        QA.read(write_json(path, {"data": [{}]}))
    with pytest.raises(InvalidData, match="data:row 2: the id 1 also stands at data:row 1"):
        QA.read([{**row, "id": 1} for row in ROWS])
    with pytest.raises(InvalidData, match="data:row 2: the id 1 also stands at data:row 1"):
        QA.read([{**row, "ID": 1} for row in ROWS])
    with pytest.raises(InvalidData, match="data:row 1: the context is empty"):
        QA.read([{**ROWS[0], "context": ""}])
    with pytest.raises(InvalidData, match="no question has an answer"):
        QA.labels(QA.read(ROWS[1:]))


def test_no_answer_is_said_by_the_threshold_that_validation_chose(tmp_path: Path) -> None:
    """Logits that say "none" by 6 too much: chosen, told, and measured with."""
    _, data, encoded = encoded_for(tmp_path, 64)
    outputs = []
    for row in encoded.rows:
        logits = np.full((len(row["input_ids"]), 2), -9.0)
        none = row["labels"] == [0, 0]
        logits[row["labels"], [0, 1]] = 3.0
        logits[0] = 8.0 if none else 5.0
        outputs.append(logits)
    before = QA.measure(outputs, data, encoded, ()).values()
    assert (before["f1"], before["no_answer_accuracy"]) == pytest.approx((1 / 3, 1 / 3))
    chosen, words = QA.chosen(outputs, data, encoded)
    # 10 - 6 where there is an answer; the span of the other is of two tokens that say -9
    assert 4 < chosen["no_answer_threshold"] < 34
    assert "F1 1.000, and F1 0.333 at 0" in words
    after = QA.measure(outputs, data, replace(encoded, settings={**encoded.settings, **chosen}), ())
    assert set(after.values().values()) == {1.0}
    answered = data.select([0, 2])
    assert QA.chosen(outputs, answered, encoded.select([0, 2])) == ({}, "")


def encoded_for(tmp_path: Path, max_length: int) -> tuple[Any, Any, Encoded]:
    tokenizer = wordpiece(tmp_path)
    long = "the film is dull . " * 6 + "bob met alice in paris . " + "she visited berlin . " * 3
    rows = [
        {"question": "who met", "context": long, "answer": "alice in paris"},
        {"question": "who was", "context": long, "answer": ""},
        {"question": "who was", "context": "ada was", "answer": "ada"},
    ]
    data = QA.read(rows)
    settings = QA.resolve(tokenizer, data, max_length=max_length)
    return tokenizer, data, QA.encode(tokenizer, data, (), settings)


def test_long_contexts_are_rows_of_windows_and_perfect_logits_answer(tmp_path: Path) -> None:
    tokenizer, data, encoded = encoded_for(tmp_path, 30)
    assert isinstance(encoded.windows, list)  # type: ignore[attr-defined]
    assert len(encoded.rows) > 5
    assert (encoded.supervised, encoded.targets, encoded.truncated) == (3, 3, 0)
    outputs = []
    for row in encoded.rows:
        logits = np.full((len(row["input_ids"]), 2), -9.0)
        for part, place in enumerate(row["labels"]):
            logits[place, part] = 9.0 if row["labels"] != [0, 0] else 4.0
        outputs.append(logits)
    values = QA.measure(outputs, data, encoded, ()).values()
    assert set(values.values()) == {1.0}
    chosen = encoded.select([2, 0])
    assert len(chosen.rows) == 1 + len(encoded.windows[0])  # type: ignore[attr-defined]
    assert chosen.rows[0] == encoded.rows[-1]
    assert chosen.rows[1] == encoded.rows[0]
    preview = QA.preview(tokenizer, data, encoded, (), 0)
    assert [text for text, label in preview.rows if label] == ["alice", "in", "paris"]


def test_labels_stay_at_their_tokens_whatever_side_the_tokenizer_pads(tmp_path: Path) -> None:
    recipe, tokenizer = QuestionAnswering(), wordpiece(tmp_path)
    tokenizer.padding_side = "left"
    data = recipe.read(
        [
            {"question": "Who", "context": "ada was born", "answers": [{"text": "ada", "answer_start": 0}]},
            {
                "question": "Who",
                "context": "it was in london by bob",
                "answers": [{"text": "bob", "answer_start": 20}],
            },
        ]
    )
    encoded = recipe.encode(tokenizer, data, (), recipe.resolve(tokenizer, data, max_length=64))
    batch = recipe.collator(tokenizer)([dict(row) for row in encoded.rows])
    spelled = [
        tokenizer.convert_ids_to_tokens(ids[first : last + 1].tolist())
        for ids, (first, last) in zip(batch["input_ids"], batch["labels"].tolist(), strict=True)
    ]
    assert ["".join(tokens).replace("##", "") for tokens in spelled] == ["ada", "bob"]
    assert tokenizer.padding_side == "left"


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece", "byte level"])
@pytest.mark.parametrize(
    ("text", "start", "learnt"),
    [
        ("was born ", 4, "was born"),
        (" born", 7, "born"),
        ("\tborn \n", None, "born"),
        ("ca\u0301", 22, "ca\u0301"),
    ],
)
def test_answers_with_space_or_marks_are_learnt_as_such(
    kind: str, text: str, start: int | None, learnt: str, tmp_path: Path
) -> None:
    tokenizer = {"sentencepiece": sentencepiece, "byte level": byte_level}.get(
        kind, lambda: wordpiece(tmp_path)
    )()
    recipe = QuestionAnswering()
    answers = [{"text": text, "answer_start": start}]
    data = recipe.read(
        [{"question": "Who", "context": "ada was born in paris ca\u0301 .", "answers": answers}]
    )
    assert data[0].fields["answers"][0]["text"] == learnt
    encoded = recipe.encode(tokenizer, data, (), recipe.resolve(tokenizer, data, max_length=64))
    first, last = encoded.rows[0]["labels"]
    spans = encoded.windows[0][0].spans
    assert data[0].fields["context"][spans[first][0] : spans[last][1]] == learnt
    assert encoded.truncated == 0


def test_what_no_window_holds_is_counted_and_a_question_without_room_is_named(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    text = "ada was born in london and works at acme"
    data = QA.read([{"question": "who", "context": text, "answer": text}])
    encoded = QA.encode(tokenizer, data, (), {"max_length": 12, "stride": 2, "no_answer": False})
    assert (encoded.supervised, encoded.targets, encoded.truncated) == (0, 1, 1)
    with pytest.raises(InvalidData, match="data:row 1: the question has 3 tokens, which leaves 2 of 8"):
        QA.encode(tokenizer, data, (), {"max_length": 8, "stride": 2, "no_answer": False})


def test_answers_as_long_as_those_of_training_can_be_said(tmp_path: Path) -> None:
    tokenizer, clause = wordpiece(tmp_path), "the film is dull . " * 8  # of 40 tokens
    data = QA.read([{"question": "who", "context": f"ada was born . {clause}", "answer": clause}])
    settings = QA.resolve(tokenizer, data, max_length=64)
    assert settings["longest_answer"] == 40
    assert QA.resolve(tokenizer, QA.read(ROWS), max_length=64)["longest_answer"] == 30
    encoded = QA.encode(tokenizer, data, (), settings)
    logits = np.zeros((len(encoded.rows[0]["input_ids"]), 2))
    logits[encoded.rows[0]["labels"], [0, 1]] = 9.0
    assert QA.measure([logits], data, encoded, ()).values()["exact"] == 1
    before = replace(encoded, settings={**settings, "longest_answer": 30})
    assert QA.measure([logits], data, before, ()).values()["exact"] == 0


def questions(rows: int, seed: int) -> list[dict[str, Any]]:
    """Who is named, among other words, or nobody."""
    draw = random.Random(seed)
    made = []
    for _ in range(rows):
        words = draw.choices(("the", "film", "story", "is", "good", "dull"), k=draw.randint(4, 40))
        name = draw.choice(("ada", "bob", "alice", ""))
        if name:
            words.insert(draw.randrange(len(words)), name)
        made.append({"question": "a", "context": " ".join(words), "answer": name})
    return made


@pytest.mark.slow
def test_from_data_to_an_answer(tiny_base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 150, "batch_size": 16, "max_length": 24, "learning_rate": 5e-3}
    test = questions(40, 2)
    hub = open_hub(tmp_path / "hub")
    result = train(
        "qa", questions(200, 0), base=str(tiny_base), validation=questions(40, 1), test=test, name="acme/qa", hub=hub,
        push=True, alias="prod", output=tmp_path / "run", quiet=True, **settings,
    )  # fmt: skip
    assert result.metrics["test"]["f1"].low > 0.8
    assert result.metrics["test"]["exact/unanswered"].value > 0.5
    manifest = result.artifact.manifest
    assert manifest is not None
    assert (manifest.task, manifest.recipe, manifest.labels) == ("question-answering", "qa", None)
    assert {name: manifest.hyperparameters[name] for name in ("max_length", "stride", "no_answer")} == {
        "max_length": 24, "stride": 8, "no_answer": True,
    }  # fmt: skip
    assert isinstance(manifest.hyperparameters["no_answer_threshold"], float)
    pulled = hub.pull("acme/qa@prod")
    assert evaluate(pulled, test).metrics == result.metrics["test"]

    with Runtime(load_base(str(tiny_base)), hub=hub) as runtime:
        pairs = [Pair(row["question"], row["context"]) for row in test]
        found = runtime.predict(pairs, "acme/qa@prod")
        gold = [[row["answer"]] if row["answer"] else [] for row in test]
        served = answer_statistics(gold, [prediction.answers[0].text for prediction in found]).values()
        assert served == pytest.approx({name: one.value for name, one in result.metrics["test"].items()})
        for pair, prediction in zip(pairs, found, strict=True):
            answer = prediction.answers[0]
            assert pair.second[answer.start : answer.end] == answer.text
        logits = runtime.logits(pairs[:3], "acme/qa@prod")

    plain: Any = AutoModelForQuestionAnswering.from_pretrained(tiny_base, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, str(pulled.path)).eval()
    data = QA.read(test[:3])
    rows = QA.encode(wordpiece(tmp_path / "tokenizer"), data, (), manifest.hyperparameters).rows
    for row, ours in zip(rows, logits, strict=True):
        ids = torch.tensor([row["input_ids"]])
        with torch.inference_mode():
            theirs = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        stacked = torch.stack([theirs.start_logits[0], theirs.end_logits[0]], dim=-1)
        assert (stacked - ours).abs().max() / stacked.abs().max() <= 1e-5
