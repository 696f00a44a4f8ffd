"""The policy on a safetensors file's header, checked before any tensor is built from it.

The format (its README): 8 bytes, an unsigned little-endian integer N; N bytes of JSON that begin with `{`,
one entry a tensor {"dtype", "shape", "data_offsets": [begin, end]} and optionally "__metadata__" of
strings; then the data, to which the offsets are relative and which they must cover without holes.

A header as safetensors itself writes it is read by one regular expression, which takes a fifth of the time
of a JSON parser and the checks of what that returns: the headers of large adapters have tens of thousands of
tensors. Any other header is read as the JSON that it is. Both admit the same.

Does not build tensors and does not judge their values.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import filterfalse
from operator import sub
from typing import NamedTuple, TypeGuard

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.strict_json import parse_json_object

MAX_HEADER_BYTES = 100_000_000  # safetensors' own bound
MAX_DIMENSIONS = 32
_MAX_SIZE = 2**62
_INTEGERS = frozenset({int})
_NAME = re.compile(r"[^.\x00-\x1f\x7f]+(?:\.[^.\x00-\x1f\x7f]+)*")
_CONTROL = bytes([*range(0x20), 0x7F])
_LONGEST_NAME = 1024
_FIELDS = {"dtype", "shape", "data_offsets"}

# As safetensors writes a header: the metadata, if any, then the tensors, without escapes in names. What a group
# matches ends at the next quote or bracket, so that any text is searched in time proportional to it.
_START = re.compile(r'\{(?:"__metadata__":(\{(?:"(?:[^"\\]++|\\.)*+"[:,]?+)*+\}),)?+', re.DOTALL)
_OFFSET = "(0|[1-9][0-9]{0,18})"
_ENTRY = re.compile(
    r'"([^"]++)":\{("dtype":"[^"]++","shape":\[[0-9,]*+\]),'
    rf'"data_offsets":\[{_OFFSET},{_OFFSET}\]\}}'
)
_MOST_METADATA = 2**18  # characters; more is read as any JSON is
_MOST_KINDS = 1000  # of tensors, by dtype and shape: in an adapter a few for each kind of module

# What both the format and torch know, in bytes an element. The sub-byte and scale formats have no torch
# tensor.
DTYPE_BYTES: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


class Span(NamedTuple):
    """Where a tensor's bytes are in the file: [begin, end). `dtype` is one of DTYPE_BYTES."""

    begin: int
    end: int
    name: str
    dtype: str
    shape: tuple[int, ...]


class _Kind(NamedTuple):
    """What a tensor is; `size` in bytes."""

    dtype: str
    shape: tuple[int, ...]
    size: int


_Placed = tuple[int, int, str, _Kind]
"""Where in the data part a tensor is, [begin, end), its name, and what it is."""


def check_safetensors(data: bytes | bytearray, where: str) -> tuple[Span, ...]:
    """The tensors of `data`. Raises AdmissionError where it is not exactly one well-formed safetensors file."""
    length = header_length(bytes(data[:8]), len(data), where)
    return check_header(bytes(data[8 : 8 + length]), len(data), where)


def header_length(start: bytes, size: int, where: str, *, most: int = MAX_HEADER_BYTES) -> int:
    """The bytes of the header of a file of `size` bytes that begins with `start` (8 bytes). Raises AdmissionError where it
    has none, or one of more than `most` bytes."""
    if size < 8:
        raise AdmissionError(f"{where} is truncated: {size} bytes is less than a header's length field")
    length = int.from_bytes(start, "little")
    if length > most:
        raise AdmissionError(f"{where}: a header of {length} bytes; at most {most} are read")
    if 8 + length > size:
        raise AdmissionError(f"{where} is truncated: its header has {length} bytes, the file {size}")
    return length


def check_header(
    header: bytes, size: int, where: str, *, most_other: int = MAX_HEADER_BYTES
) -> tuple[Span, ...]:
    """The tensors of a file of `size` bytes whose header is `header`. Raises AdmissionError where the two make no
    well-formed safetensors file, and where the header has more than `most_other` bytes and is not as safetensors
    writes it."""
    if header[:1] != b"{":
        raise AdmissionError(f"{where}: the header does not begin with '{{'")
    placed = _written_by_safetensors(header, where)
    if placed is None:
        if len(header) > most_other:
            raise AdmissionError(
                f"{where}: a header of {len(header)} bytes; at most {most_other} are read of one that is not"
                " as safetensors writes it",
                hint="Load the file with safetensors and save it again.",
            )
        entries = parse_json_object(header, f"{where}: header")
        _check_metadata(entries.pop("__metadata__", {}), where)
        placed = [_placed(name, entry, where) for name, entry in entries.items()]
    placed.sort()
    start = 8 + len(header)
    _check_coverage(placed, size - start, where)
    return tuple(
        Span(start + begin, start + end, name, kind.dtype, kind.shape) for begin, end, name, kind in placed
    )


def _written_by_safetensors(header: bytes, where: str) -> list[_Placed] | None:
    """The tensors, read by _ENTRY; None where the header is written in another way, or has no tensor."""
    try:
        text = header.decode("utf-8")
    except UnicodeError:
        return None
    head = _START.match(text, 0, _MOST_METADATA)
    if head is None or text.find("\\", head.end()) >= 0:
        return None
    first, *rest = _ENTRY.split(text[head.end() :])
    names, kinds, gaps = rest[::5], rest[1::5], rest[4::5]
    kind_names = dict(zip(kinds, names, strict=True))
    as_written = not first and gaps and gaps.pop().rstrip(" ") == "}" and gaps.count(",") == len(gaps)
    if not as_written or "__metadata__" in names or len(kind_names) > _MOST_KINDS:
        return None
    if head[1] is not None:
        _check_metadata(parse_json_object(head[1].encode(), f"{where}: header"), where)
    _check_names(names, where)
    known = {kind: _read_kind(kind, name, where) for kind, name in kind_names.items()}
    begins, ends = [*map(int, rest[2::5])], [*map(int, rest[3::5])]
    found = [known[kind] for kind in kinds]
    if [*map(sub, ends, begins)] != [kind.size for kind in found]:
        for name, kind, begin, end in zip(names, found, begins, ends, strict=True):
            _check_offsets(name, kind, begin, end, where)
    return [*zip(begins, ends, names, found, strict=True)]


def _check_names(names: Sequence[str], where: str) -> None:
    if len(set(names)) != len(names):
        ((twice, _),) = Counter(names).most_common(1)
        raise AdmissionError(f"{where}: header: the key {twice!r} appears twice")
    together = f".{'.'.join(names)}.".encode()  # each of them at once: an empty part is two dots
    if b".." in together or len(together.translate(None, _CONTROL)) != len(together):
        raise _no_name(next(filterfalse(_NAME.fullmatch, names)), where)
    if len(longest := max(names, key=len)) > _LONGEST_NAME:
        raise _no_name(longest, where)


def _read_kind(text: str, name: str, where: str) -> _Kind:
    fields = parse_json_object(f"{{{text}}}".encode(), f"{where}: header")
    return _kind(name, fields["dtype"], fields["shape"], where)


def _check_metadata(metadata: object, where: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise AdmissionError(f"{where}: __metadata__ may hold strings only")


def _placed(name: str, entry: object, where: str) -> _Placed:
    """One tensor whose dtype, shape and offsets agree."""
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise _no_name(name, where)
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise AdmissionError(f"{where}: tensor {name!r} must have exactly dtype, shape and data_offsets")
    kind, offsets = _kind(name, entry["dtype"], entry["shape"], where), entry["data_offsets"]
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _no_offsets(name, where)
    _check_offsets(name, kind, offsets[0], offsets[1], where)
    return offsets[0], offsets[1], name, kind


def _no_name(name: str, where: str) -> AdmissionError:
    return AdmissionError(
        f"{where}: {name[:80]!r} is no tensor's name: names of modules, joined by single dots"
    )


def _no_offsets(name: str, where: str) -> AdmissionError:
    return AdmissionError(f"{where}: tensor {name!r} has data_offsets that are not [begin, end]")


def _kind(name: str, dtype: object, shape: object, where: str) -> _Kind:
    """What the tensor `name` is, if it can be."""
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise AdmissionError(
            f"{where}: tensor {name!r} has dtype {dtype!r}, which is not one of {', '.join(DTYPE_BYTES)}"
        )
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise AdmissionError(f"{where}: tensor {name!r} has a shape that is not up to {MAX_DIMENSIONS} sizes")
    elements = math.prod(shape)
    if elements == 0 and math.prod(size or 1 for size in shape) > _MAX_SIZE:
        raise AdmissionError(f"{where}: tensor {name!r} has a shape whose strides overflow")
    return _Kind(dtype, tuple(shape), elements * DTYPE_BYTES[dtype])


def _check_offsets(name: str, kind: _Kind, begin: int, end: int, where: str) -> None:
    if begin > end:
        raise _no_offsets(name, where)
    if kind.size != end - begin:
        raise AdmissionError(
            f"{where}: tensor {name!r} is {kind.dtype} of shape {list(kind.shape)}, {kind.size} bytes;"
            f" data_offsets give {end - begin}"
        )


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    if not isinstance(value, list) or not _INTEGERS.issuperset(map(type, value)):  # a bool is no size
        return False
    return not value or (min(value) >= 0 and max(value) <= _MAX_SIZE)


def _check_coverage(placed: Sequence[_Placed], size: int, where: str) -> None:
    """That tensors, in order, take all `size` bytes of the data part."""
    expected = 0
    for begin, end, name, _ in placed:
        if begin != expected:
            what = "overlaps the tensor before it" if begin < expected else "leaves a hole before it"
            raise AdmissionError(
                f"{where}: tensor {name!r} begins at byte {begin} and {what}; {expected} was due"
            )
        expected = end
    if expected != size:
        what = "is truncated" if expected > size else "has trailing bytes"
        raise AdmissionError(f"{where} {what}: its tensors take {expected} bytes, its data part has {size}")
