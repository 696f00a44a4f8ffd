"""Objects of a JSON array, as tools export them: whatever lines they stand on, and what each error names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data import json_rows
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


def write(folder: Path, text: str, name: str = "a.json") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("around", ["{}", "\ufeff\r\n {} \r\n\r\n"])
def test_an_array_is_its_objects_which_count_from_one(
    indent: int | None, ascii_only: bool, around: str, tmp_path: Path
) -> None:
    text = json.dumps(ROWS, indent=indent, ensure_ascii=ascii_only)
    path = write(tmp_path, around.format(text))
    records = read_records(path)
    assert [(row.line, row.values) for row in records.rows] == list(enumerate(ROWS, 1))
    assert records.columns == ("text", "label", "more")
    assert records.where(records.rows[1]) == f"{path}:row 2"
    (block,) = record_blocks(path)
    assert block == records


@given(st.lists(st.dictionaries(st.text(max_size=3), VALUES), min_size=1, max_size=4))
def test_wherever_its_text_is_cut_an_array_is_the_same(found: list[dict[str, Any]]) -> None:
    text = json.dumps(found, indent=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_PIECE", 1)
        read, unit = json_rows.json_rows(text, Path("a.json"))  # a character a piece
        assert [row.values for row in read] == found
        assert unit == "row"


@pytest.mark.parametrize(
    ("text", "message"),
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
def test_broken_arrays_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidData) as caught:
        read_records(path)
    assert caught.value.message == f"{path}{message}"
    with pytest.raises(InvalidData) as caught:
        list(record_blocks(path))
    assert caught.value.message == f"{path}{message}"


def test_lines_of_lists_are_no_array(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"a\.jsonl:1: a JSON list, not an object"):
        read_records(write(tmp_path, json.dumps(ROWS), "a.jsonl"))
