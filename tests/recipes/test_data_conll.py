"""The CoNLL reader on hand-written files: what it reads, and the line each error names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.conll import read_conll

SPACED = """-DOCSTART- -X- -X- O

Ada NNP B-NP B-PER
slept VBD B-VP O

# NN B-NP O

London NNP B-NP B-LOC
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "a.conll"
    path.write_bytes(text.encode())
    return path


def test_columns_by_spaces_sentences_by_blank_lines(tmp_path: Path) -> None:
    examples = read_conll(write(tmp_path, SPACED))
    assert [example.fields for example in examples] == [
        {"tokens": ["Ada", "slept"], "labels": ["B-PER", "O"]},
        {"tokens": ["#"], "labels": ["O"]},
        {"tokens": ["London"], "labels": ["B-LOC"]},
    ]
    assert [example.line for example in examples] == [3, 6, 8]
    assert examples[0].at(1) == f"{tmp_path}/a.conll:4"


def test_tabs_keep_spaces_inside_tokens_and_other_columns_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, "New York\tB-LOC\tx\r\nis\tO\ty\r\n\r\n")
    [example] = read_conll(path, token_column=0, label_column=1)
    assert example.fields == {"tokens": ["New York", "is"], "labels": ["B-LOC", "O"]}


def test_line_ends_of_windows_are_no_part_of_labels_even_twice(tmp_path: Path) -> None:
    for end in ("\n", "\r\n", "\r\r\n"):
        path = tmp_path / "a.conll"
        path.write_bytes(end.join(("Ada B-PER", "", "Bob O", "")).encode())
        assert [example.fields["labels"] for example in read_conll(path)] == [["B-PER"], ["O"]]


def test_comments_before_a_sentence_are_skipped_and_lines_still_count(tmp_path: Path) -> None:
    [example] = read_conll(write(tmp_path, "# newdoc\n# id = 7\nAda\tB-PER\n"))
    assert example.at(0) == f"{tmp_path}/a.conll:3"


def test_invisible_and_odd_separators_do_not_split_lines_or_tokens(tmp_path: Path) -> None:
    [example] = read_conll(write(tmp_path, "a\u00a0b O\nc\u2028d O\ne\x0cf O\n"))
    assert example.fields["tokens"] == ["a\u00a0b", "c\u2028d", "e\x0cf"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ada B-PER\nslept\n", r":2: one column \('slept'\)"),
        ("Ada NNP B-PER\nslept O\n", ":2: 2 columns where the lines before have 3"),
        ("Ada\tB-PER\n\tO\n", ":2: the token is empty"),
        ("Ada\tB-PER\nslept\t\n", ":2: the label is empty"),
        ("-DOCSTART- O\n\n", ": no sentence in the file"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidData, match=r"a\.conll" + message):
        read_conll(write(tmp_path, text))


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no label column 4: the file has 2 columns, 0 to 1"):
        read_conll(write(tmp_path, "Ada B-PER\n"), label_column=4)


def test_a_line_that_names_columns_is_no_token(tmp_path: Path) -> None:
    for header in ("word\ttag", "Token\tNER_tags", "-DOCSTART-\tO\n\nWORDS\tLabel"):
        path = write(tmp_path, f"{header}\nAda\tB-PER\n\nslept\tO\n")
        read = read_conll(path)
        assert [example.fields["tokens"] for example in read] == [["Ada"], ["slept"]]
        assert read[0].at(0) == f"{path}:{header.count(chr(10)) + 2}"
        [note] = read.notes
        assert note.startswith(f"{path}:{header.count(chr(10)) + 1} names columns and is no token")
    assert len(read_conll(write(tmp_path, "pos tag word\nNNP B-PER Ada\n"), label_column=1)) == 1


@pytest.mark.parametrize("repeated", [False, True])
def test_a_header_says_where_tokens_and_sentences_are(tmp_path: Path, repeated: bool) -> None:
    """As Kaggle's tables have it: the number of a sentence at its first token, or at each."""
    second = "Sentence: 1" if repeated else ""
    path = write(
        tmp_path,
        "\tSentence #\tWord\tPOS\tTag\n0\tSentence: 1\tAda\tNNP\tB-per\n"
        f"1\t{second}\tslept\tVBD\tO\n2\tSentence: 2\tLondon\tNNP\tB-geo\n",
    )
    read = read_conll(path)
    assert [example.fields for example in read] == [
        {"tokens": ["Ada", "slept"], "labels": ["B-per", "O"]},
        {"tokens": ["London"], "labels": ["B-geo"]},
    ]
    assert [example.line for example in read] == [2, 4]
    assert read.notes == (
        f"{path}:1 names columns and is no token: tokens are read from 'Word', labels from 'Tag', sentences by"
        " column 'Sentence #'",
    )


@pytest.mark.parametrize(("header", "found"), [("Wort\ttag", "none"), ("word\tform\ttag", "several")])
def test_a_header_that_names_no_one_column_of_tokens_asks_for_it(
    tmp_path: Path, header: str, found: str
) -> None:
    rows = "\t".join(["Ada", "Ada", "B-PER"][-header.count("\t") - 1 :])
    path = write(tmp_path, f"{header}\n{rows}\n")
    with pytest.raises(InvalidData, match=f":1: the line names columns, .* of which {found} could") as caught:
        read_conll(path)
    assert caught.value.hint == "Set token_column to the number of the column of tokens, from 0."
    assert read_conll(path, token_column=0)[0].fields == {"tokens": ["Ada"], "labels": ["B-PER"]}
    with pytest.raises(InvalidData, match="no token column 5"):
        read_conll(path, token_column=5)


TOKEN = st.text(
    st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs", "Zs"]), min_size=1
).filter(lambda token: token == token.strip() and not token.startswith(("-DOCSTART-", "\ufeff")))


@given(st.lists(st.lists(st.tuples(TOKEN, st.sampled_from(["O", "B-X", "I-X"])), min_size=1), min_size=1))
def test_what_is_written_is_read_and_every_token_knows_its_line(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[list[tuple[str, str]]]
) -> None:
    path = tmp_path_factory.mktemp("conll") / "a.conll"
    text = "\n\n".join("\n".join(f"{token}\t{label}" for token, label in rows) for rows in sentences)
    path.write_bytes(text.encode())
    examples = read_conll(path)
    assert [list(zip(e.fields["tokens"], e.fields["labels"], strict=True)) for e in examples] == sentences
    lines = text.split("\n")
    for example in examples:
        for index, token in enumerate(example.fields["tokens"]):
            number = int(example.at(index).rpartition(":")[2])
            assert lines[number - 1].split("\t")[0] == token
