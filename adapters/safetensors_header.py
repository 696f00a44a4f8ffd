"""The policy on a safetensors file's header, checked before any tensor is built from it.

The format (its README): 8 bytes, an unsigned little-endian integer N; N bytes of JSON that begin with `{`,
one entry a tensor {"dtype", "shape", "data_offsets": [begin, end]} and optionally "__metadata__" of
strings; then the data, to which the offsets are relative and which they must cover without holes.

Does not build tensors and does not judge their values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.strict_json import parse_json_object

MAX_HEADER_BYTES = 100_000_000  # safetensors' own bound
MAX_DIMENSIONS = 32
_MAX_SIZE = 2**62
_INTEGERS = frozenset({int})
_NAME = re.compile(r"[^.\x00-\x1f\x7f]+(?:\.[^.\x00-\x1f\x7f]+)*")
_LONGEST_NAME = 1024
_FIELDS = {"dtype", "shape", "data_offsets"}

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


def check_header(header: bytes, size: int, where: str) -> tuple[Span, ...]:
    """The tensors of a file of `size` bytes whose header is `header`. Raises AdmissionError where the two make no
    well-formed safetensors file."""
    if header[:1] != b"{":
        raise AdmissionError(f"{where}: the header does not begin with '{{'")
    start = 8 + len(header)
    entries = parse_json_object(header, f"{where}: header")
    _check_metadata(entries.pop("__metadata__", {}), where)
    spans = sorted(_span(name, entry, where, start) for name, entry in entries.items())
    _check_coverage(spans, start, size, where)
    return tuple(spans)


def _check_metadata(metadata: object, where: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise AdmissionError(f"{where}: __metadata__ may hold strings only")


def _span(name: str, entry: object, where: str, start: int) -> Span:
    """One tensor whose dtype, shape and offsets agree; the data part begins at `start`."""
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise AdmissionError(
            f"{where}: {name[:80]!r} is no tensor's name: names of modules, joined by single dots"
        )
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise AdmissionError(f"{where}: tensor {name!r} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise AdmissionError(
            f"{where}: tensor {name!r} has dtype {dtype!r}, which is not one of {', '.join(DTYPE_BYTES)}"
        )
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise AdmissionError(f"{where}: tensor {name!r} has a shape that is not up to {MAX_DIMENSIONS} sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise AdmissionError(f"{where}: tensor {name!r} has data_offsets that are not [begin, end]")
    elements = math.prod(shape)
    if elements == 0 and math.prod(size or 1 for size in shape) > _MAX_SIZE:
        raise AdmissionError(f"{where}: tensor {name!r} has a shape whose strides overflow")
    needed, given = elements * DTYPE_BYTES[dtype], offsets[1] - offsets[0]
    if needed != given:
        raise AdmissionError(
            f"{where}: tensor {name!r} is {dtype} of shape {shape}, {needed} bytes; data_offsets give {given}"
        )
    return Span(start + offsets[0], start + offsets[1], name, dtype, tuple(shape))


def _are_sizes(value: object) -> bool:
    if not isinstance(value, list) or not _INTEGERS.issuperset(map(type, value)):  # a bool is no size
        return False
    return not value or (min(value) >= 0 and max(value) <= _MAX_SIZE)


def _check_coverage(spans: list[Span], start: int, size: int, where: str) -> None:
    expected = start
    for span in spans:
        if span.begin != expected:
            what = "overlaps the tensor before it" if span.begin < expected else "leaves a hole before it"
            raise AdmissionError(
                f"{where}: tensor {span.name!r} begins at byte {span.begin - start} and {what};"
                f" {expected - start} was due"
            )
        expected = span.end
    if expected != size:
        what = "is truncated" if expected > size else "has trailing bytes"
        raise AdmissionError(
            f"{where} {what}: its tensors take {expected - start} bytes, its data part has {size - start}"
        )
