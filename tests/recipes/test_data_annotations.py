"""Words with labels, and texts with entity spans, as tokens and BIO labels."""

from __future__ import annotations

from typing import Any

import pytest

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.annotations import read_annotations


def read(rows: list[dict[str, Any]], **columns: Any) -> list[dict[str, Any]]:
    options = {"token_column": None, "label_column": None, "encoding": "utf-8", **columns}
    return [dict(example.fields) for example in read_annotations(rows, **options)]


def test_tokens_and_labels_under_their_usual_names() -> None:
    expected = [{"tokens": ["Ada", "slept"], "labels": ["B-PER", "O"]}]
    for tokens, labels in (("tokens", "labels"), ("words", "ner_tags"), ("tokens", "tags")):
        assert read([{tokens: ["Ada", "slept"], labels: ["B-PER", "O"]}]) == expected
    assert read([{"a": ["Ada"], "b": ["O"]}], token_column="a", label_column="b") == [
        {"tokens": ["Ada"], "labels": ["O"]}
    ]


def test_character_spans_become_bio_over_words() -> None:
    text = "Ada Lovelace met Bob."
    entities: list[Any] = [{"start": 17, "end": 20, "label": "PER"}, [0, 12, "PER"]]
    assert read([{"text": text, "entities": entities}]) == [
        {"tokens": ["Ada", "Lovelace", "met", "Bob", "."], "labels": ["B-PER", "I-PER", "O", "B-PER", "O"]}
    ]
    assert read([{"text": "在北京", "spans": [[1, 3, "LOC"]]}]) == [
        {"tokens": ["在", "北", "京"], "labels": ["O", "B-LOC", "I-LOC"]}
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "Ada slept", "label": [[0, 3, "PER"]]},  # doccano, of old
        {"text": "Ada slept", "labels": [[0, 3, "PER"], [0, 3, "PER"]]},
        {"text": "Ada slept", "entities": [{"id": 1, "label": "PER", "start_offset": 0, "end_offset": 3}]},
        {"sentence": "Ada slept", "label": [{"start": 0, "end": 3, "text": "Ada", "labels": ["PER"]}]},
        {"Text": "Ada slept", "Entities": [{"entity_group": "PER", "word": "ada", "start": 0, "end": 3}]},
        {"text": "Ada slept", "spans": [{"start": 0, "end": 3, "label": "PER"}], "tokens": [{"text": "Ada"}]},
    ],
)
def test_what_annotation_tools_export_is_read(row: dict[str, Any]) -> None:
    assert read([row]) == [{"tokens": ["Ada", "slept"], "labels": ["B-PER", "O"]}]


def test_any_column_of_spans_can_be_given() -> None:
    row = {"text": "Ada slept", "marks": [[0, 3, "PER"]]}
    assert read([row], label_column="marks") == [{"tokens": ["Ada", "slept"], "labels": ["B-PER", "O"]}]


def test_a_label_column_that_is_given_is_read_whatever_else_there_is() -> None:
    row = {"text": "Ada slept", "entities": [[4, 9, "ACT"]], "marks": [[0, 3, "PER"]]}
    assert read([row], label_column="marks")[0]["labels"] == ["B-PER", "O"]
    row |= {"tokens": ["Ada", "slept"], "ner_tags": ["B-ROLE", "O"]}
    assert read([row], label_column="ner_tags")[0]["labels"] == ["B-ROLE", "O"]
    with pytest.raises(
        InvalidData, match="no column 'mark'; the columns are 'text', .* Did you mean 'marks'"
    ):
        read([row], label_column="mark")


def test_types_may_look_like_other_prefixes() -> None:
    assert read([{"text": "a@b", "spans": [[0, 3, "E-MAIL"]]}])[0]["labels"][0] == "B-E-MAIL"


def test_rows_that_prodigys_user_did_not_accept_are_left_out() -> None:
    row = {"text": "Ada slept", "spans": [[0, 3, "PER"]]}
    wrong = {"text": "Bob slept", "spans": [[4, 9, "PER"]]}
    rows = [{**row, "answer": "accept"}, {**wrong, "answer": "reject"}, {**wrong, "answer": "ignore"}]
    data = read_annotations(rows, token_column=None, label_column=None, encoding="utf-8")
    assert [example.fields["tokens"] for example in data] == [["Ada", "slept"]]
    assert data.notes == (
        "2 rows were rejected or ignored, by their 'answer', and are left out, the first at data:row 2",
    )
    with pytest.raises(InvalidData, match="no row was accepted"):
        read(rows[1:])


def test_an_entity_stands_where_it_says() -> None:
    """Offsets of UTF-16, and those that language models make up, often lie on other words, of which nothing would tell."""
    entity = {"start": 2, "end": 4, "label": "PER", "text": "张三"}
    with pytest.raises(
        InvalidData,
        match=r"row 1: the PER at 2-4 says its text is '张三', and '三去' stands.*an emoji as one",
    ):
        read([{"text": "😀张三去北京", "entities": [entity]}])
    lines = [{"start": 0, "end": 7, "label": "PER", "text": "Ada\\nL."}]  # Label Studio's
    assert read([{"text": "Ada\n L. slept", "entities": lines}])[0]["labels"][:2] == ["B-PER", "I-PER"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "labels": ["O"]}, "2 tokens and 1 labels"),
        ({"tokens": [], "labels": []}, "no tokens"),
        ({"tokens": ["a", " "], "labels": ["O", "O"]}, "token 2 is empty"),
        ({"tokens": ["a"], "labels": [3]}, "'labels' is not a list of strings"),
        ({"tokens": "a b", "labels": ["O"]}, "'tokens' is not a list of strings"),
        ({"tokens": ["a"]}, "'labels' is not a list of strings"),
        ({"text": " ", "entities": []}, "the text is empty"),
        ({"text": "a", "entities": None}, "'entities' is not a list"),
        ({"text": "Ada", "entities": [[0, 9, "PER"]]}, r"not an entity of this text: \[0, 9, 'PER'\]"),
        ({"text": "Ada", "entities": [{"start": 0, "end": 3}]}, "not an entity of this text"),
        (
            {"text": "Ada", "entities": [[0, 3, "I-PER"]]},
            "'I-PER' is a label of tokens, and no entity's type",
        ),
        ({"text": "Ada", "entities": [[0, 3, "O"]]}, "'O' is a label of tokens, and no entity's type"),
        ({"text": "Ada met", "entities": [[0, 5, "PER"]]}, "the PER at 0-5 begins or ends inside a word"),
        (
            {"text": "Ada met", "entities": [[0, 7, "A"], [4, 7, "B"]]},
            "the B at 4-7 overlaps the entity before it",
        ),
    ],
)
def test_rows_that_cannot_be_read_are_named(row: dict[str, Any], message: str) -> None:
    good = {"tokens": ["a"], "labels": ["O"]} if "tokens" in row else {"text": "a", "entities": []}
    with pytest.raises(InvalidData, match=f"data:row 2: {message}"):
        read([good, row])


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InvalidData, match=r"data: no token column .* the columns are 'text', 'label'"):
        read([{"text": "a", "label": "b"}])
