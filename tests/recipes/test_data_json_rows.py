"""Objects of a JSON array, as tools export them: whatever lines they stand on, and what each error names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data import json_rows, text
from adapthub.recipes.data.tables import read_records, record_blocks

ROWS: list[dict[str, Any]] = [
    {"text": 'a "]," b\u2028 ü', "label": ["x", {"y": None}]},
    {"text": "c", "more": 1.5},
    {},
]
VALUES = st.recursive(
    st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def write(folder: Path, said: str, name: str = "a.json") -> Path:
    path = folder / name
    path.write_bytes(said.encode())
    return path


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("around", ["{}", "\ufeff\r\n {} \r\n\r\n"])
def test_an_array_is_its_objects_which_count_from_one(
    indent: int | None, ascii_only: bool, around: str, tmp_path: Path
) -> None:
    path = write(tmp_path, around.format(json.dumps(ROWS, indent=indent, ensure_ascii=ascii_only)))
    records = read_records(path)
    assert [(row.line, row.values) for row in records.rows] == list(enumerate(ROWS, 1))
    assert records.columns == ("text", "label", "more")
    assert records.where(records.rows[1]) == f"{path}:row 2"
    (block,) = record_blocks(path)
    assert block == records


@given(st.lists(st.dictionaries(st.text(max_size=3), VALUES), min_size=1, max_size=4))
def test_wherever_its_text_is_cut_an_array_is_the_same(found: list[dict[str, Any]]) -> None:
    written = json.dumps(found, indent=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_PIECE", 1)
        read, unit = json_rows.json_rows(lambda _: written, Path("a.json"))  # a character a piece
        assert [row.values for row in read] == found
        assert unit == "row"


def test_an_array_of_one_line_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_BLOCK", 10)
    monkeypatch.setattr(json_rows, "_PIECE", 10)
    path = write(tmp_path, "\ufeff" + json.dumps(ROWS * 20))
    assert max(map(len, text.read_lines(path, ends="none"))) == 10
    (block,) = record_blocks(path)
    assert [row.values for row in block.rows] == ROWS * 20


@pytest.mark.parametrize("wrong", ['{"a": 1 "b": 2}', '{"a": 1, "a": 2}', '{"a": "\\ud83d"}', "[" * 100_000])
def test_what_is_wrong_in_itself_is_found_without_the_rest(wrong: str) -> None:
    """Of a large file the rest may be more than memory holds."""

    def pieces() -> Iterator[str]:
        yield f'[{{"a": 1}}, {wrong}, {{"a": 2}}, ' + " " * json_rows._PIECE
        raise AssertionError

    read, _ = json_rows.json_rows(lambda _: pieces(), Path("a.json"))
    with pytest.raises(InvalidData, match=r"a\.json:row 2"):
        list(read)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('[{"a": 1}, {"a": \n]', ":row 2: not JSON: Expecting value"),
        ('[{"a": 1},\n["b", {}]]', ":row 2: a JSON list, not an object"),
        ('[{"a": 1}, {"b": 1, "b": 2}]', ":row 2: the key 'b' stands twice in one object"),
        ('[{"a": 1},]', ":row 2: not JSON: Expecting value"),
        ('[{"a": 1} {"a": 2}]', ":row 1: not JSON: { where , or ] is expected"),
        ('[{"a": 1}', ":row 1: not JSON: the end where , or ] is expected"),
        ('[{"a": 1}]\n[{"a": 1}]', ": not JSON: [ behind the array's end"),
        ("[\n]", ": the array has no rows"),
        ("[" * 100_000, ":row 1: not JSON: nested too deeply"),
        ('[{"a": "\\ud83d"}]', ":row 1: not JSON: half of a surrogate pair stands alone"),
    ],
)
def test_broken_arrays_are_named(written: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, written)
    with pytest.raises(InvalidData) as caught:
        read_records(path)
    assert caught.value.message == f"{path}{message}"
    with pytest.raises(InvalidData) as caught:
        list(record_blocks(path))
    assert caught.value.message == f"{path}{message}"


def test_lines_of_lists_are_no_array(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"a\.jsonl:1: a JSON list, not an object"):
        read_records(write(tmp_path, json.dumps(ROWS), "a.jsonl"))
