"""CSV, JSONL, Parquet, the datasets library and mappings as records, and the line that each error names."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.records import mapped_parquet
from adapthub.recipes.data.tables import read_records


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def rows(source: Any, **options: Any) -> list[tuple[int, dict[str, Any]]]:
    return [(row.line, dict(row.values)) for row in read_records(source, **options).rows]


def test_csv_rows_know_the_line_they_begin_on(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'text,label\r\n"two\r\nlines, ""quoted""",good\r\n\r\nplain,bad\r\n')
    assert rows(path) == [
        (2, {"text": 'two\r\nlines, "quoted"', "label": "good"}),
        (5, {"text": "plain", "label": "bad"}),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "text\tlabel\na, b\tgood\n"),
        ("a.csv", "text;label\na, b;good\n"),
        ("a.csv", "text|label\na, b|good\n"),
        ("a.csv", '\ufefftext,label\n"a, b",good'),
    ],
)
def test_the_delimiter_is_found_in_the_header(tmp_path: Path, name: str, text: str) -> None:
    assert rows(write(tmp_path, name, text)) == [(2, {"text": "a, b", "label": "good"})]


def test_a_delimiter_can_be_given(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "text,more:label\na,b:good\n")
    assert rows(path, delimiter=":") == [(2, {"text,more": "a,b", "label": "good"})]


@pytest.mark.parametrize(
    "text",
    [
        "text;label;;\r\na, b;good;;\r\n;;;\r\n ;;;\r\n",  # columns and rows that are empty
        "sep=;\r\ntext;label\r\na, b;good\r\n",
        "SEP=|\ntext|label\na, b|good\n",
        '"text";"label";"notes, remarks, more"\na, b;good;\n',
    ],
)
def test_what_spreadsheets_write_is_read(tmp_path: Path, text: str) -> None:
    ((_, row),) = rows(write(tmp_path, "a.csv", text))
    assert (row["text"], row["label"]) == ("a, b", "good")


@pytest.mark.parametrize("blank", ["", " ", "   ", " \t"])
def test_lines_of_spaces_are_skipped_as_empty_ones_are(tmp_path: Path, blank: str) -> None:
    path = write(tmp_path, "a.csv", f"text,label\na,good\n{blank}\nb,bad\n{blank}\n")
    assert rows(path) == [(2, {"text": "a", "label": "good"}), (4, {"text": "b", "label": "bad"})]
    above = write(tmp_path, "b.csv", f"{blank.strip(chr(9))}\ntext;label\na;good\n")
    assert rows(above) == [(3, {"text": "a", "label": "good"})]
    assert rows(write(tmp_path, "c.csv", f"text\na\n{blank}\nb\n")) == [
        (2, {"text": "a"}),
        (4, {"text": "b"}),
    ]
    quoted = write(tmp_path, "d.csv", f'text,label\na,good\n{blank}"\n"\n')
    with pytest.raises(InvalidData, match=":3: "):  # a cell that spans lines is no line of spaces
        rows(quoted)


@pytest.mark.parametrize("text", ["sep=;\n", "sep=;\n \n", '""\n'])
def test_a_table_without_a_header_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidData, match=r"a\.csv: no header"):
        rows(write(tmp_path, "a.csv", text))


@pytest.mark.parametrize("said", ["sep=", 'sep="'])
def test_a_line_that_says_no_delimiter_is_a_line_like_others(tmp_path: Path, said: str) -> None:
    assert rows(write(tmp_path, "a.csv", f"{said}\r\ntext;label\r\n")) == [(2, {said: "text;label"})]
    assert rows(write(tmp_path, "b.csv", "text\nsep=;\n")) == [(2, {"text": "sep=;"})]


def test_cells_longer_than_the_csv_modules_limit_are_read_and_the_limit_is_kept(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    long = "x" * (limit + 1)
    assert rows(write(tmp_path, "a.csv", f"text,label\n{long},a\n"))[0][1]["text"] == long
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\na,good\nb\n", ":3: 1 cells where the header has 2"),
        ("text,label\na,b,good\n", ":2: 3 cells where the header has 2"),
        ('text,label\na,good\n"open,bad\nand on\n', ":3: not CSV: unexpected end of data"),
        ('text,label\n"a" b,good\n', ":2: not CSV: ',' expected after '\"'"),
        ("text,label,text\na,b,c\n", ":1: a column name stands twice"),
        ("text,label\n", ": a header and no rows"),
    ],
)
def test_broken_csv_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidData) as caught:
        read_records(write(tmp_path, "a.csv", text))
    assert caught.value.message.startswith(f"{tmp_path}/a.csv{message}")
    assert csv.field_size_limit() == 131072


def test_rows_between_two_stray_quotes_of_a_tsv_are_not_taken_for_one(tmp_path: Path) -> None:
    stray = write(tmp_path, "a.tsv", 'id\ttext\tlabel\n1\tfine\t0\n2\t"Hi there\t0\n3\tand you"\t1\n')
    with pytest.raises(
        InvalidData, match=r"a\.tsv:3: a double quote opens a cell here and closes one lines later"
    ):
        read_records(stray)
    quoted = write(tmp_path, "b.tsv", 'text\tlabel\n"Hi\tthere,\tyou\nand I"\t0\n"a\nb"\t1\n')
    assert [values["text"] for _, values in rows(quoted)] == ["Hi\tthere,\tyou\nand I", "a\nb"]


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(CELL, CELL), min_size=1))
def test_what_the_csv_module_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *cells])
    said = [row for row in cells if any(map(str.strip, row))]
    if said:
        assert [tuple(row.values.values()) for row in read_records(path).rows] == said


def test_jsonl_skips_blank_lines_and_counts_them(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "a\u2028b", "label": 1}\n\n{"text": "c", "extra": null}\r\n')
    assert rows(path) == [(1, {"text": "a\u2028b", "label": 1}), (3, {"text": "c", "extra": None})]
    assert read_records(path).columns == ("text", "label", "extra")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": \n', ":2: not JSON: Expecting value"),
        ('{"a": 1}\n[1, 2]\n', ":2: a JSON list, not an object"),
        ('{"a": 1}\n{"a": 1, "b": 2, "a": 1}\n', ":2: the key 'a' stands twice in one object"),
        ('{"a": [{"b": {"c": 1, "\\u0063": 2}}]}', ":1: the key 'c' stands twice in one object"),
        ("[" * 100_000, ":1: not JSON: nested too deeply"),
        (f'{{"a": {"1" * 5000}}}', ":1: not JSON: a number has too many digits"),
        (
            '{"a": "\\ud83d\\ude00"}\n{"a": {"b": ["\\uD83D"]}}\n',
            ":2: not JSON: half of a surrogate pair stands alone",
        ),
    ],
)
def test_broken_jsonl_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidData) as caught:
        read_records(write(tmp_path, "a.jsonl", text))
    assert caught.value.message == f"{tmp_path}/a.jsonl{message}"


def test_parquet_rows_are_counted_from_one(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None], "tokens": [["x", "y"], []]}), path)
    records = read_records(path)
    assert [(row.line, row.values) for row in records.rows] == [
        (1, {"text": "a", "tokens": ["x", "y"]}),
        (2, {"text": None, "tokens": []}),
    ]
    assert records.where(records.rows[1]) == f"{path}:row 2"


def test_broken_missing_and_empty_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(InvalidData, match=r"a\.parquet: not a readable Parquet file: .*"):
        read_records(write(tmp_path, "a.parquet", "text,label\n"))
    with pytest.raises(InvalidData, match=r"gone\.parquet: no such file"):
        read_records(tmp_path / "gone.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "none.parquet")
    with pytest.raises(InvalidData, match=r"none\.parquet: the file has no rows"):
        read_records(tmp_path / "none.parquet")


@pytest.mark.parametrize("cause", ["no UTF-8", "no date"])
def test_values_of_parquet_that_cannot_be_read_are_an_error_of_the_file(cause: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, ends = tmp_path / "a.parquet", pa.py_buffer(b"\0\0\0\0\2\0\0\0")
    odd = {
        "no UTF-8": pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"\xff\xfe")]),
        "no date": pa.array([10_000_000], pa.date32()),
    }[cause]
    pq.write_table(pa.table({"text": ["a"], "more": odd}), path)
    with pytest.raises(
        InvalidData, match=r"a\.parquet: not a readable Parquet file: ('utf-8' codec|date value)"
    ):
        read_records(path)


def test_columns_of_parquet_with_one_name_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InvalidData, match=r"a\.parquet: a column name stands twice: 'text', 'text'"):
        read_records(tmp_path / "a.parquet")


@pytest.mark.parametrize("kept", ["in memory", "as Parquet"])
def test_class_labels_of_the_datasets_library_become_names(kept: str, tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["bad", "good"]),
        ner_tags=datasets.List(datasets.ClassLabel(names=["O", "B-X"])),
    )
    table = datasets.Dataset.from_dict(
        {"text": ["a", "b"], "label": [1, -1], "ner_tags": [[0, 1], []]}, features=features
    )
    if kept == "as Parquet":
        table.to_parquet(str(tmp_path / "a.parquet"))
    assert rows(table if kept == "in memory" else tmp_path / "a.parquet") == [
        (1, {"text": "a", "label": "good", "ner_tags": ["O", "B-X"]}),
        (2, {"text": "b", "label": None, "ner_tags": []}),
    ]


def test_mappings_are_records_and_none_are_refused() -> None:
    assert rows([{"text": "a"}, {"text": "b"}]) == [(1, {"text": "a"}), (2, {"text": "b"})]
    with pytest.raises(InvalidData, match="there are no rows"):
        read_records([])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            pandas.DataFrame({"text": ["a"], "label": ["b"]}),
            "row 1 is 'text', no mapping of columns to values",
        ),
        ([{"a": 1}, ["b"]], r"row 2 is \['b'\], no mapping"),
        (5, "int holds no rows"),
    ],
)
def test_what_is_no_row_is_named(rows: Any, message: str) -> None:
    with pytest.raises(InvalidData, match=message) as raised:
        read_records(rows)
    assert "frame.to_dict('records')" in (raised.value.hint or "")


def test_what_pandas_has_for_no_value_is_none(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"text": ["a", None], "number": [1, None], "day": [pandas.Timestamp(0), None]})
    for made in (frame, frame.convert_dtypes()):
        assert rows(made.to_dict("records"))[1] == (2, {"text": None, "number": None, "day": None})
    with pytest.raises(InvalidData, match="row 1 has the column 0, whose name is no text"):
        read_records(pandas.DataFrame([["a", "b"]]).to_dict("records"))


def test_lists_that_pandas_reads_of_parquet_are_lists(tmp_path: Path) -> None:
    table = [
        {"tokens": ["a", "b"], "answers": {"text": ["x"], "answer_start": [0]}, "talk": [{"role": "user"}]}
    ]
    pandas.DataFrame(table).to_parquet(tmp_path / "a.parquet")
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    assert not isinstance(frame["tokens"][0], list)
    assert rows(frame.to_dict("records")) == [(1, table[0])]
    sound = np.zeros(8, np.float32)
    assert rows([{"audio": {"array": sound}}])[0][1]["audio"]["array"] is sound


@pytest.mark.parametrize("kind", ["numpy", "torch", "pandas"])
def test_a_format_of_the_datasets_library_changes_no_value(kind: str) -> None:
    import datasets

    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["bad", "good"])
    )
    table = datasets.Dataset.from_dict({"text": ["a"], "label": [1]}, features=features).with_format(kind)
    assert rows(table) == [(1, {"text": "a", "label": "good"})]
    assert rows(table.with_format(kind, columns=["label"])) == [(1, {"label": "good"})]
    shouting = table.with_transform(lambda some: {"text": [text.upper() for text in some["text"]]})
    assert rows(shouting) == [(1, {"text": "A"})]


def test_streams_keep_columns_that_the_first_row_does_not_have() -> None:
    import datasets

    def stream(*some: dict[str, Any]) -> Any:
        return datasets.IterableDataset.from_generator(partial(iter, some))

    assert rows(stream({"text": "a"}, {"text": "b", "label": 1})) == [
        (1, {"text": "a", "label": None}),
        (2, {"text": "b", "label": 1}),
    ]
    with pytest.raises(InvalidData, match="the stream's rows are not of one kind: Could not convert 'x'"):
        read_records(stream({"label": 1}, {"label": "x"}))


@pytest.mark.parametrize("folder", ["data [2]", "what?", "plain"])
def test_parquet_is_mapped_wherever_it_lies_and_an_empty_file_is_called_so(
    folder: str, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / folder / "a.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"text": ["a"]}), path)
    assert mapped_parquet(path)[0] == {"text": "a"}
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(InvalidData, match=r"a\.parquet: the file has no rows"):
        mapped_parquet(path)


def test_a_path_that_is_not_there_is_said_whatever_its_suffix(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="tset: no such file or folder"):
        read_records(tmp_path / "tset")


def test_an_unknown_suffix_lists_the_formats(tmp_path: Path) -> None:
    for name in ("a.xlsx", "reviews"):
        with pytest.raises(
            InvalidData, match=r"cannot tell the format from .*\.csv, \.tsv, \.jsonl and \.parquet"
        ):
            read_records(write(tmp_path, name, "a"))


def test_columns_are_found_by_name_in_any_case_and_can_be_given(tmp_path: Path) -> None:
    records = read_records(write(tmp_path, "a.csv", "Id,Review,Stars,text\n1,fine,5,\n"))
    assert records.column("text", None, ("text", "review")) == "text"
    assert records.column("text", None, ("sentence", "review")) == "Review"
    assert records.column("text", "Stars", ("text",)) == "Stars"


def test_a_missing_column_lists_those_there_and_a_near_one(tmp_path: Path) -> None:
    records = read_records(write(tmp_path, "a.csv", "Id,Review,lable\n1,fine,5\n"))
    with pytest.raises(InvalidData) as caught:
        records.column("label", None, ("label", "class"))
    assert str(caught.value) == (
        f"{tmp_path}/a.csv: no label column (looked for label, class); "
        "the columns are 'Id', 'Review', 'lable'. "
        "Did you mean 'lable'? Set label_column."
    )
    with pytest.raises(InvalidData, match=r"no column 'Reviews'.* Did you mean 'Review'\?"):
        records.column("text", "Reviews", ("text",))


def test_a_table_without_the_names_of_its_columns_is_told_where_they_stand(tmp_path: Path) -> None:
    records = read_records(write(tmp_path, "a.csv", "lovely,good\ndull,bad\n"))
    with pytest.raises(
        InvalidData, match=r"are 'lovely', 'good'.*The first line of the file names its columns"
    ):
        records.column("label", None, ("label",))


def test_json_suffixes_are_the_same_format(tmp_path: Path) -> None:
    for name in ("a.json", "a.ndjson", "A.JSONL"):
        assert rows(write(tmp_path, name, json.dumps({"a": 1}))) == [(1, {"a": 1})]
