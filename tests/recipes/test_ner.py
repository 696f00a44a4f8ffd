"""The recipe ner: labels, refusals with file and line, alignment by real tokenizers, what was cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.ner import Ner
from tests.recipes.tokenizer_kinds import byte_level, sentencepiece, wordpiece

NER = Ner()
LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def write(folder: Path, text: str, name: str = "a.conll") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def dataset(*rows: tuple[str, str]) -> Dataset:
    """Rows as ("ada was", "B-PER O")."""
    examples = (
        Example({"tokens": tokens.split(), "labels": labels.split()}, "a.conll", 1, spread=True)
        for tokens, labels in rows
    )
    return Dataset(tuple(examples), "a.conll", {})


def one_hot(rows: Sequence[Sequence[int]], size: int) -> list[NDArray[Any]]:
    """Logits that choose the given label at every sub-token."""
    return [np.eye(size)[[max(index, 0) for index in row]] for row in rows]


@pytest.fixture(scope="module", params=["wordpiece", "sentencepiece", "byte-level"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> PreTrainedTokenizerBase:
    if request.param == "wordpiece":
        return wordpiece(tmp_path_factory.mktemp("wordpiece"))
    return sentencepiece() if request.param == "sentencepiece" else byte_level()


def test_labels_are_ordered_with_o_first() -> None:
    data = dataset(("a b", "I-PER B-LOC"), ("c", "B-PER"))
    assert NER.labels(data) == ("O", "B-LOC", "B-PER", "I-PER")


def test_data_without_an_entity_is_refused() -> None:
    with pytest.raises(InvalidData, match=r"a\.conll: no entity: every label is O"):
        NER.labels(dataset(("a b", "O O")))


def test_labels_of_two_schemes_are_refused() -> None:
    with pytest.raises(InvalidData, match=r"a\.conll: the labels mark no entities: the prefixes S, U belong"):
        NER.labels(dataset(("a b", "U-X S-X")))
    with pytest.raises(InvalidData, match=r"a\.conll: the labels mark no entities: 'LABEL_0' is neither O"):
        NER.check(dataset(("a", "O")), ("LABEL_0", "LABEL_1"))


def test_a_label_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "ada B-PER\nwas O\n\nin IN\n")
    with pytest.raises(InvalidData) as caught:
        NER.read(path)
    assert caught.value.message.startswith(f"{path}:4: 'IN' is neither O nor a prefix")
    with pytest.raises(InvalidData, match=r"a\.conll:1: 'Etikett' is neither O") as caught:
        NER.read(write(tmp_path, "Wort Etikett\nada B-PER\n"))
    assert str(caught.value.hint).endswith("and remove a line that names columns.")
    assert len(NER.read(write(tmp_path, "word tag\nada B-PER\n")).notes) == 1


def test_a_broken_sequence_is_named_with_its_line_and_remedy(tmp_path: Path) -> None:
    path = write(tmp_path, "ada B-PER\n\nin O\nlondon I-LOC\n")
    with pytest.raises(InvalidData) as caught:
        NER.check(NER.read(path), LABELS)
    assert caught.value.message == f"{path}:4: broken BIO sequence: I-LOC cannot follow O (token 'london')"
    assert caught.value.hint is not None
    assert "scheme=iob1" in caught.value.hint
    with pytest.raises(InvalidData, match=r"data:row 1: token 2: broken BILOU sequence: B-X begins"):
        NER.check(NER.read([{"tokens": ["a", "b"], "labels": ["O", "B-X"]}]), ("O", "B-X", "L-X", "U-X"))


def test_a_label_unseen_in_training_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "ada B-PER\n\nacme B-ORG\n")
    with pytest.raises(InvalidData) as caught:
        NER.check(NER.read(path), LABELS)
    assert caught.value.message == f"{path}:3: label 'B-ORG' is not in the training data"
    assert caught.value.hint == "Known labels: O, B-LOC, I-LOC, B-PER, I-PER."


def test_iob1_is_converted_when_asked(tmp_path: Path) -> None:
    path = write(tmp_path, "ada I-PER\nbob B-PER\nin O\nlondon I-LOC\n")
    data = NER.read(path, scheme="iob1")
    NER.check(data, LABELS)
    assert data[0].fields["labels"] == ["B-PER", "B-PER", "O", "B-LOC"]
    assert data[0].at(3) == f"{path}:4"


def test_bmes_and_bmewo_are_read_as_bioes_is(tmp_path: Path) -> None:
    for single in "SW":
        path = write(tmp_path, f"常 B-NAME\n建 M-NAME\n良 E-NAME\n\n男 O\n汉 {single}-RACE\n")
        data = NER.read(path)
        labels = NER.labels(data)
        assert labels == ("O", "B-NAME", "E-NAME", "M-NAME", f"{single}-RACE")
        NER.check(data, labels)
    path = write(tmp_path, "常 B-NAME\n建 M-NAME\n良 E-NAME\n\n常 B-NAME\n建 I-NAME\n良 E-NAME\n")
    with pytest.raises(InvalidData, match="the prefixes B, E, I, M belong to no one scheme"):
        NER.labels(NER.read(path))


def test_a_named_scheme_is_enforced(tmp_path: Path) -> None:
    path = write(tmp_path, "ada U-PER\n")
    assert NER.read(path, scheme="bilou")[0].fields["labels"] == ["U-PER"]
    with pytest.raises(InvalidData, match=r"a\.conll:1: U-PER is not BIO"):
        NER.read(path, scheme="bio")
    with pytest.raises(InvalidSettings, match="unknown scheme 'bioul'"):
        NER.read(path, scheme="bioul")


def test_columns_of_conll_are_numbers_and_of_records_names(tmp_path: Path) -> None:
    path = write(tmp_path, "1 ada B-PER x\n")
    assert NER.read(path, token_column="1", label_column="2")[0].fields["tokens"] == ["ada"]
    with pytest.raises(InvalidSettings, match="token_column='word' is not a column number"):
        NER.read(path, token_column="word")
    records = write(tmp_path, '{"word": ["ada"], "tag": ["B-PER"]}\n', "a.jsonl")
    data = NER.read(records, token_column="word", label_column="tag")
    assert data[0].fields == {"tokens": ["ada"], "labels": ["B-PER"]}
    assert data.columns == {"tokens": "word", "labels": "tag"}


def test_csv_is_not_mistaken_for_conll(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"ner does not read CSV\. It reads CoNLL"):
        NER.read(write(tmp_path, "tokens,labels\na b,O O\n", "a.csv"))


def test_equal_data_has_one_fingerprint_in_every_format(tmp_path: Path) -> None:
    conll = NER.read(write(tmp_path, "ada B-PER\nslept O\n"))
    jsonl = NER.read(write(tmp_path, '{"tokens": ["ada", "slept"], "labels": ["B-PER", "O"]}', "a.jsonl"))
    assert conll.fingerprint == jsonl.fingerprint


def test_alignment_labels_one_sub_token_a_word(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    data = dataset(("xyz was paris", "B-PER O B-LOC"))
    for choice, expected in (
        ("first", [-100, 3, -100, -100, 0, 1, -100]),
        ("last", [-100, -100, -100, 3, 0, 1, -100]),
    ):
        encoded = NER.encode(tokenizer, data, LABELS, {"max_length": 16, "label_token": choice})
        assert encoded.rows[0]["labels"] == expected
        assert set(encoded.rows[0]) <= {"input_ids", "token_type_ids", "labels"}
    assert (encoded.supervised, encoded.targets, encoded.truncated) == (3, 3, 0)


def test_bare_markers_are_not_labelled() -> None:
    tokenizer = sentencepiece()
    data = dataset(("中国 人民 银行", "B-LOC O B-PER"))
    settings = NER.resolve(tokenizer, data, max_length=64)
    assert settings == {"max_length": 64, "label_token": "last"}
    encoded = NER.encode(tokenizer, data, LABELS, settings)
    rows = NER.preview(tokenizer, data, encoded, LABELS, 0).rows
    assert [row for row in rows if row[2]] == [
        ("中国", "中国", "B-LOC"),
        ("人民", "人民", "O"),
        ("银行", "银行", "B-PER"),
    ]


WORD = st.one_of(
    st.sampled_from(
        ["ada", "was", "London", "xyzzy", "中国", "在", "\u200b", "caf\u00e9", "U.N.", "\U0001f600"]
    ),
    st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"]), min_size=1, max_size=6),
)


@given(data=st.data())
def test_what_the_loss_sees_decodes_to_the_gold_labels(
    tokenizer: PreTrainedTokenizerBase, data: st.DataObject
) -> None:
    """Logits that repeat the targets give back every label of a word that has a sub-token."""
    sentence = st.lists(st.tuples(WORD, st.sampled_from(["O", "B-LOC", "B-PER"])), min_size=1, max_size=6)
    sentences = data.draw(st.lists(sentence, min_size=1, max_size=3))
    examples = tuple(
        Example({"tokens": [w for w, _ in rows], "labels": [label for _, label in rows]}, "a", 1)
        for rows in sentences
    )
    gold = Dataset(examples, "a", {})
    encoded = NER.encode(tokenizer, gold, LABELS, NER.resolve(tokenizer, gold, max_length=200))
    assert encoded.truncated == 0
    seen = sum(target != -100 for row in encoded.rows for target in row["labels"])
    assert seen == encoded.supervised <= encoded.targets == sum(map(len, sentences))
    counts = NER.measure(one_hot([row["labels"] for row in encoded.rows], len(LABELS)), gold, encoded, LABELS)
    for row, positions in enumerate(encoded.positions):
        expected = sum(
            label != "O" and positions[index] >= 0 for index, label in enumerate(gold[row].fields["labels"])
        )
        assert counts.counts[row, [0, 3]].sum() == expected
        assert counts.counts[row, [2, 5]].sum() == sum(label != "O" for label in gold[row].fields["labels"])


def test_entities_beyond_max_length_count_as_missed(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    data = dataset(("ada was in london", "B-PER O O B-LOC"))
    encoded = NER.encode(tokenizer, data, LABELS, {"max_length": 4, "label_token": "first"})
    assert (encoded.supervised, encoded.targets, encoded.truncated) == (2, 4, 1)
    values = NER.measure(one_hot([encoded.rows[0]["labels"]], 5), data, encoded, LABELS).values()
    assert (values["precision"], values["recall"], values["f1/LOC"]) == (1.0, 0.5, 0.0)


def test_a_preview_shows_the_alignment(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    data = dataset(("ada xy", "B-PER O"))
    encoded = NER.encode(tokenizer, data, LABELS, {"max_length": 16, "label_token": "first"})
    preview = NER.preview(tokenizer, data, encoded, LABELS, 0)
    assert preview.source == "a.conll:1"
    assert preview.text == "ada xy"
    assert preview.columns == ("sub-token", "word", "label")
    assert preview.rows == (
        ("[CLS]", "", ""),
        ("ada", "ada", "B-PER"),
        ("x", "xy", "O"),
        ("##y", "", ""),
        ("[SEP]", "", ""),
    )
