"""Hostile safetensors files are refused by name, and what is admitted loads in safetensors as it says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from adapthub.adapters import safetensors_header
from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.safetensors_header import DTYPE_BYTES, check_header, check_safetensors


def build(header: object, data: bytes = b"") -> bytes:
    """A file with this header as it stands, valid or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(shape: list[Any], begin: Any, end: Any, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


VALID = save(
    {
        "lora_A": torch.arange(6.0).view(2, 3),
        "lora_B": torch.ones(3, 2, dtype=torch.bfloat16),
        "none": torch.empty(0, 4),
    },
    metadata={"format": "pt"},
)

HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "truncated"),
    "no header": (b"\x08\0\0\0\0\0\0", "truncated"),
    "header beyond the file": (VALID[:40], "truncated"),
    "header of 2^63 bytes": ((2**63).to_bytes(8, "little") + b"{}", "at most 100000000"),
    "header of 100 MB and 1": ((100_000_001).to_bytes(8, "little"), "at most 100000000"),
    "data cut": (VALID[:-1], "truncated"),
    "trailing byte": (VALID + b"\0", "trailing"),
    "not JSON": (build(b"{nope}"), "not valid JSON"),
    "a list": (build(b"[]"), "begin with"),
    "space before the brace": (build(b" {}"), "begin with"),
    "two documents": (build(b"{}{}"), "not valid JSON"),
    "UTF-16": (build("{}".encode("utf-16")), "begin with"),
    "not UTF-8": (build(b'{"\xff": 1}'), "UTF-8"),
    "lone surrogate": (build(b'{"\\ud800": 1}'), "UTF-8"),
    "nested too deeply": (build(b'{"a":' + b"[" * 100_000), "nested too deeply"),
    "number too long": (build(b'{"a":' + b"9" * 5000 + b"}"), "not valid JSON"),
    "NaN": (build(b'{"a": NaN}'), "NaN"),
    "one tensor twice": (
        build(
            b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'
        )
        + b"ab",
        "'w' appears twice",
    ),
    "one field twice": (
        build(b'{"w":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}') + b"a",
        "'dtype' appears twice",
    ),
    "not an entry": (build({"w": 1}), "'w' must have exactly"),
    "a field missing": (build({"w": {"dtype": "F32", "shape": []}}), "'w' must have exactly"),
    "a field too many": (build({"w": {**tensor([1], 0, 4), "code": "x"}}, b"0000"), "'w' must have exactly"),
    "dtype unknown": (build({"w": tensor([1], 0, 4, "F31")}, b"0000"), "F31"),
    "dtype a number": (build({"w": tensor([1], 0, 4, 32)}, b"0000"), "32"),
    "dtype a list": (build({"w": tensor([1], 0, 4, ["F32"])}, b"0000"), "F32"),
    "dtype that torch lacks": (build({"w": tensor([2], 0, 1, "F4")}, b"0"), "F4"),
    "dtype of another size": (build({"w": tensor([1], 0, 4, "F64")}, b"0000"), "8 bytes"),
    "shape negative": (build({"w": tensor([-1, -1], 0, 4)}, b"0000"), "shape"),
    "shape minus zero": (build(b'{"w":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), "-0"),
    "shape a fraction": (build({"w": tensor([1.0], 0, 4)}, b"0000"), "shape"),
    "shape true": (build({"w": tensor([True], 0, 4)}, b"0000"), "shape"),
    "shape a text": (build({"w": {**tensor([], 0, 4), "shape": "1"}}, b"0000"), "shape"),
    "shape overflows to zero": (build({"w": tensor([2**32, 2**32], 0, 0)}), "data_offsets give 0"),
    "shape overflows beside zero": (build({"w": tensor([0, 2**40, 2**40], 0, 0)}), "overflow"),
    "shape beyond 64 bits": (build({"w": tensor([2**64], 0, 0)}), "shape"),
    "too many dimensions": (build({"w": tensor([1] * 33, 0, 4)}, b"0000"), "32"),
    "shape smaller than the data": (build({"w": tensor([1], 0, 8)}, b"00000000"), "data_offsets give 8"),
    "offsets backwards": (build({"w": tensor([1], 4, 0)}, b"0000"), "data_offsets"),
    "offsets negative": (build({"w": tensor([1], -4, 0)}, b"0000"), "data_offsets"),
    "offsets of three": (
        build({"w": {**tensor([1], 0, 4), "data_offsets": [0, 4, 8]}}, b"0000"),
        "data_offsets",
    ),
    "offsets beyond the file": (build({"w": tensor([2], 0, 8)}, b"0000"), "truncated"),
    "overlap": (build({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, b"0" * 12), "'b'.*overlaps"),
    "the same bytes twice": (build({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, b"0000"), "overlaps"),
    "hole at the start": (build({"a": tensor([1], 4, 8)}, b"0" * 8), "hole"),
    "hole in the middle": (build({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, b"0" * 12), "'b'.*hole"),
    "empty tensor outside": (build({"a": tensor([0], 4, 4)}, b""), "hole"),
    "a name that is a path": (
        build({"../../x": tensor([1], 0, 4)}, b"0000"),
        "'../../x' is no tensor's name",
    ),
    "a name that is empty": (build({"": tensor([1], 0, 4)}, b"0000"), "'' is no tensor's name"),
    "a name of two lines": (build({"a\nb": tensor([1], 0, 4)}, b"0000"), "is no tensor's name"),
    "a name too long": (build({"a" * 1025: tensor([1], 0, 4)}, b"0000"), "is no tensor's name"),
    "metadata a list": (build({"__metadata__": []}), "__metadata__"),
    "metadata with a number": (build({"__metadata__": {"a": 1}}), "__metadata__"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_by_name(case: str) -> None:
    data, words = HOSTILE[case]
    with pytest.raises(AdmissionError, match=words) as refused:
        check_safetensors(data, "evil.safetensors")
    assert "evil.safetensors" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", DTYPE_BYTES)
def test_every_admitted_dtype_loads_in_torch(dtype: str) -> None:
    size = DTYPE_BYTES[dtype]
    data = build({"w": tensor([2, 3], 0, 6 * size, dtype)}, bytes(6 * size))
    check_safetensors(data, "file")
    loaded = load(data)["w"]
    assert loaded.shape == (2, 3)
    assert loaded.element_size() == size


def test_scalars_empty_tensors_any_order_and_padding_are_admitted() -> None:
    header = {
        "b": tensor([], 4, 8),
        "e": tensor([0, 7], 4, 4),
        "a": tensor([1], 0, 4),
        "__metadata__": {"k": "v"},
    }
    data = build(json.dumps(header).encode() + b" " * 13, b"\0\0\x80\x3f" + b"\0\0\0\x40")
    check_safetensors(data, "file")
    assert {name: value.tolist() for name, value in load(data).items()} == {"a": [1.0], "b": 2.0, "e": []}


def assert_refused_or_loads(data: bytes) -> None:
    try:
        check_safetensors(data, "file")
    except AdmissionError:
        return
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    loaded = load(data)
    assert loaded.keys() == header.keys()
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        assert list(loaded[name].shape) == entry["shape"]
        assert loaded[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes() == data[begin:end]


@settings(deadline=None, max_examples=400)
@given(st.integers(0, len(VALID) - 1), st.binary(max_size=6), st.integers(0, 6))
def test_any_edit_is_refused_or_loads_what_it_says(position: int, inserted: bytes, removed: int) -> None:
    assert_refused_or_loads(VALID[:position] + inserted + VALID[position + removed :])


SIZES = st.one_of(
    st.integers(-2, 8), st.sampled_from([2**31, 2**32, 2**62, 2**63, 2**64, 1.0, True, None, "1"])
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPE_BYTES, "F4", "C64", "", None]),
        "shape": st.lists(SIZES, max_size=4),
        "data_offsets": st.lists(SIZES, min_size=1, max_size=3),
    }
)


@settings(deadline=None, max_examples=400)
@given(st.dictionaries(st.text(max_size=4), ENTRIES, max_size=3), st.binary(max_size=16))
@example({"w": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8))
def test_any_header_is_refused_or_loads_what_it_says(header: dict[str, Any], data: bytes) -> None:
    assert_refused_or_loads(build(header, data))


CONTROL = "".join(map(chr, [*range(32), 127]))


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    part = st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters=CONTROL + "."), min_size=1, max_size=8
    )
    names = draw(st.lists(st.lists(part, min_size=1, max_size=3).map(".".join), unique=True, max_size=5))
    names = [name for name in names if name != "__metadata__"]
    dtypes = st.sampled_from(
        [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
    )
    shapes = st.lists(st.integers(0, 5), max_size=3)
    return {name: torch.zeros(draw(shapes), dtype=draw(dtypes)) for name in names}


@settings(deadline=None, max_examples=100)
@given(tensors())
def test_whatever_safetensors_writes_of_modules_is_admitted(content: dict[str, torch.Tensor]) -> None:
    check_safetensors(save(content), "file")


ODD_NAMES = ["a", "b", "a.lora_A", "..", "a..b", ".a", "a.", "", "x" * 1025, "a\x7f", "ü", "a\\", "a\nb"]
NAMES = st.sampled_from([*ODD_NAMES, "__metadata__", "\\u0061", "a b", "{", "]", "data_offsets"])
KIND = '"dtype":"U8","shape":[1]'
KINDS = st.sampled_from(
    [
        KIND,
        '"dtype":"U8","shape":[]',
        '"dtype":"F32","shape":[0,2]',
        '"dtype":"I8","shape":[01]',
        '"dtype":"U8","shape":[1,]',
        '"dtype":"U8","shape":[,1]',
        '"dtype":"F31","shape":[1]',
        '"dtype":"U8", "shape":[1]',
        '"shape":[1],"dtype":"U8"',
        '"dtype":"U8","shape":[-1]',
        '"dtype":"U8","shape":[1.0]',
        '"dtype":"U\\u0038","shape":[1]',
    ]
)
OFFSETS = st.sampled_from(["0", "1", "2", "3", "00", "01", "-0", "1.0", "9" * 19, "9" * 20])
BETWEEN = st.sampled_from([",", ",", ",", ", ", "", ",,", ",\n", "x"])
METADATA = ["", '"__metadata__":{},', '"__metadata__":{"a":"}","b":"\\""},', '"__metadata__":{"a":1},']
METADATA += [
    '"__metadata__":{"a":"1","a":"2"},',
    '"__metadata__":{"a":"1",},',
    '"__metadata__":{} ,',
    '"__metadata__":{"a"},',
]


@st.composite
def header_texts(draw: st.DrawFn) -> str:
    """Headers as safetensors writes them, and nearly so: most are good in most places."""
    text = "{" + draw(st.sampled_from(METADATA))
    odd = draw(st.lists(st.none() | st.tuples(NAMES, KINDS, OFFSETS, OFFSETS, BETWEEN), max_size=4))
    for place, tensor in enumerate(odd):
        good = (f"t{place}", KIND, str(place), str(place + 1), ",")
        name, kind, begin, last, between = good if tensor is None else tensor
        text += f'"{name}":{{{kind},"data_offsets":[{begin},{last}]}}' + between * (place < len(odd) - 1)
    return text + draw(st.sampled_from(["}", "}", "} ", "}\n", "},", "", " }", "}\t\0"]))


@settings(deadline=None, max_examples=500)
@given(header_texts(), st.integers(0, 4))
@example('{"t0":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1)
@example(
    '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
    2,
)
def test_a_header_is_read_as_a_json_parser_reads_it(text: str, data: int) -> None:
    header = text.encode()
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for _ in range(2):
            try:
                found.append(check_header(header, 8 + len(header) + data, "file"))
            except AdmissionError:
                found.append(())
            patch.setattr(safetensors_header, "_written_by_safetensors", lambda *_: None)
    assert found[0] == found[1]


@given(tensors())
def test_what_safetensors_writes_needs_no_json_parser(content: dict[str, torch.Tensor]) -> None:
    data = save(content, metadata={"format": "pt", 'a "quoted" text': "{}"})
    length = int.from_bytes(data[:8], "little")
    plain = content and not any("\\" in name or '"' in name for name in content)
    if plain:
        check_header(data[8 : 8 + length], len(data), "file", most_other=0)
    else:
        with pytest.raises(AdmissionError, match="not as safetensors writes it"):
            check_header(data[8 : 8 + length], len(data), "file", most_other=0)


def test_a_text_that_only_begins_as_a_header_is_searched_once() -> None:
    """Were each tensor's beginning looked at up to the end of the text, this would take hours."""
    for piece in (
        '"a":{"dtype":"',
        '"a":{"dtype":"F32","shape":[',
        '"',
        '"a":{"dtype":"F32","shape":[1],"data_offsets":[',
    ):
        with pytest.raises(AdmissionError):
            check_header(f"{{{piece * 300_000}".encode(), 2**40, "file", most_other=0)
