"""The recipe sentiment: columns, labels of every kind, refusals with file and line, encoding, measuring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import CanineTokenizer

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.sentiment import Sentiment
from tests.recipes.tokenizer_kinds import byte_level, wordpiece

SENTIMENT = Sentiment()
ROWS = [{"text": "good film", "label": "pos"}, {"text": "bad", "label": "neg"}]


def write(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_usual_columns_are_found_and_others_can_be_given(tmp_path: Path) -> None:
    path = write(tmp_path, "id,Review,stars,sentiment\n1,fine,5,pos\n2,dull,1,neg\n")
    data = SENTIMENT.read(path)
    assert [dict(example.fields) for example in data] == [
        {"text": "fine", "label": "pos"},
        {"text": "dull", "label": "neg"},
    ]
    assert data.columns == {"text": "Review", "label": "sentiment"}
    assert SENTIMENT.labels(SENTIMENT.read(path, label_column="stars")) == ("1", "5")


def test_labels_are_sorted_by_value_or_as_text_and_kinds_may_mix() -> None:
    numbers = SENTIMENT.read([{"text": "a", "label": label} for label in (10, "9", 2.0, -1)])
    assert SENTIMENT.labels(numbers) == ("-1", "2", "9", "10")
    mixed = SENTIMENT.read([{"text": "a", "label": label} for label in (True, " b ", "b", 3)])
    assert SENTIMENT.labels(mixed) == ("3", "True", "b")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": " ", "label": "pos"}, "the text in column 'text' is empty"),
        ({"text": None, "label": "pos"}, "the text in column 'text' is empty"),
        ({"text": 7, "label": "pos"}, "the text in column 'text' is int, not text"),
        ({"text": "a", "label": ""}, "the label in column 'label' is empty"),
        ({"text": "a"}, "the label in column 'label' is empty"),
        ({"text": "a", "label": 0.5}, r"the label in column 'label' is 0\.5"),
        ({"text": "a", "label": ["pos"]}, r"the label in column 'label' is \['pos'\]"),
    ],
)
def test_rows_that_cannot_be_read_are_named(row: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidData, match=f"data:row 2: {message}"):
        SENTIMENT.read([ROWS[0], row])


def test_a_missing_column_lists_the_columns_and_a_near_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"no label column .* are 'text', 'lable'\. Did you mean 'lable'\?"):
        SENTIMENT.read(write(tmp_path, "text,lable\na,b\n"))


def test_a_label_unseen_in_training_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,label\n"two\nlines",pos\nb,meh\n')
    with pytest.raises(InvalidData) as caught:
        SENTIMENT.check(SENTIMENT.read(path), ("neg", "pos"))
    assert str(caught.value) == f"{path}:4: label 'meh' is not in the training data. Known labels: neg, pos."


def test_one_label_and_columns_that_are_no_labels_are_refused() -> None:
    with pytest.raises(InvalidData, match="every row has the label 'pos' in column 'label'"):
        SENTIMENT.labels(SENTIMENT.read([ROWS[0], ROWS[0]]))
    many = SENTIMENT.read([{"text": "a", "label": f"id {index}"} for index in range(30)])
    with pytest.raises(
        InvalidData, match=r"column 'label' has 30 different values in 30 rows\. .* set label_column"
    ):
        SENTIMENT.labels(many)


def test_equal_data_has_one_fingerprint_in_every_format(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    sources = [
        write(tmp_path, "text,label\ngood film,pos\nbad,neg\n"),
        write(tmp_path, '{"text": "good film", "label": "pos"}\n{"text": "bad", "label": "neg"}', "a.jsonl"),
        tmp_path / "a.parquet",
        ROWS,
    ]
    assert len({SENTIMENT.read(source).fingerprint for source in sources}) == 1


def test_rows_are_the_tokenizers_and_what_is_cut_is_counted(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    data = SENTIMENT.read(
        [
            {"text": "good film is", "label": "pos"},
            {"text": "good film is bad", "label": "neg"},
            {"text": "bad", "label": "neg"},
        ]
    )
    settings = SENTIMENT.resolve(tokenizer, data, max_length=5)
    encoded = SENTIMENT.encode(tokenizer, data, ("neg", "pos"), settings)
    assert settings == {"max_length": 5}
    assert [row["labels"] for row in encoded.rows] == [1, 0, 0]
    assert encoded.rows[2] == {"labels": 0, **tokenizer("bad", return_attention_mask=False)}
    assert encoded.rows[0]["input_ids"][:-1] == encoded.rows[1]["input_ids"][:-1]
    assert (encoded.truncated, encoded.supervised, encoded.targets) == (1, 3, 3)


def test_a_tokenizer_in_python_tells_what_it_cuts_too() -> None:
    tokenizer = CanineTokenizer()
    data = SENTIMENT.read([{"text": "abc", "label": "pos"}, {"text": "abcd", "label": "neg"}])
    settings = {"max_length": 3 + tokenizer.num_special_tokens_to_add()}
    assert SENTIMENT.encode(tokenizer, data, ("neg", "pos"), settings).truncated == 1


def test_measuring_takes_the_largest_logit() -> None:
    data = SENTIMENT.read([*ROWS, {"text": "great", "label": "pos"}])
    encoded = SENTIMENT.encode(byte_level(), data, ("neg", "pos"), {"max_length": 64})
    logits = [np.array(row) for row in ([0.1, 0.2], [3.0, -1.0], [0.5, 0.4])]
    values = SENTIMENT.measure(logits, data, encoded, ("neg", "pos")).values()
    assert values == pytest.approx({"accuracy": 2 / 3, "macro_f1": 2 / 3, "f1/neg": 2 / 3, "f1/pos": 2 / 3})


def test_a_preview_shows_the_label_once(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    data = SENTIMENT.read(ROWS)
    encoded = SENTIMENT.encode(tokenizer, data, ("neg", "pos"), {"max_length": 16})
    preview = SENTIMENT.preview(tokenizer, data, encoded, ("neg", "pos"), 1)
    assert (preview.source, preview.text) == ("data:row 2", "bad")
    assert preview.rows == (("[CLS]", "neg"), ("bad", ""), ("[SEP]", ""))
