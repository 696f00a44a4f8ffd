"""A text file's characters, at once or line by line, or one clear error. Does not parse."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from adapthub.adapters.errors import InvalidData, InvalidSettings

Ends = Literal["any", "\n", "none"]
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_PACKED = {
    b"\x1f\x8b": "a gzip file", b"\x28\xb5\x2f\xfd": "a zstd file", b"BZh": "a bzip2 file", b"\xfd7zX": "an xz file",
    b"PK\x03\x04": "a zip file or a workbook", b"PAR1": "a Parquet file",
}  # fmt: skip
_HEAD = 4  # bytes by which these are told
_BLOCK = 1 << 20


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The whole file decoded strictly, without a byte order mark, line ends as they are.

    Raises InvalidData: no such file, unreadable, empty, or bytes that are not `encoding` (names line and byte
    offset).
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InvalidData(f"{path}: no such file") from None
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read: {error.strerror or error}") from error
    text = decode(data, path, encoding)
    if not text.strip():
        raise _empty(path)
    return text


def read_lines(path: Path, encoding: str = "utf-8", *, ends: Ends) -> Iterator[str]:
    """The lines of a file, decoded strictly as they are read, with their ends, without a byte order mark.

    A line ends at "\\n", or where `ends` is any, at "\\r" and "\\r\\n" too; where it is none, at any character, after some
    million. Raises as `read_text`.
    """
    try:
        with path.open(encoding=_known(encoding), newline="" if ends == "any" else "\n") as stream:
            blank = True
            lines = stream if ends != "none" else iter(partial(stream.read, _BLOCK), "")
            for number, line in enumerate(lines):
                blank = blank and not line.strip()
                yield line if number else line.removeprefix("\ufeff")
    except FileNotFoundError:
        raise InvalidData(f"{path}: no such file") from None
    except UnicodeError as error:
        if "BOM" not in str(error):
            raise _undecodable(path, encoding) from None
        # UTF-16 and UTF-32 without what says which end comes first; its type differs between Pythons
        raise InvalidData(
            f"{path}: not {encoding.upper()}: {error}", hint=f"Set encoding={encoding.lower()}-le, or -be."
        ) from error
    except OSError as error:
        raise InvalidData(f"{path}: cannot be read: {error.strerror or error}") from error
    if blank:
        raise _empty(path)


def decode(data: bytes, path: Path, encoding: str = "utf-8") -> str:
    """`data` as text. Raises InvalidData naming line and byte, InvalidSettings for an unknown encoding."""
    try:
        return data.decode(_known(encoding)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _not_decoded(path, encoding, line, error.start, data[error.start], data[:_HEAD]) from error


def _known(encoding: str) -> str:
    try:
        "".encode(encoding)  # which codecs from bytes to bytes, such as hex, refuse
    except (LookupError, TypeError) as error:  # of another type: no name at all
        raise InvalidSettings(
            f"unknown text encoding {encoding!r}", hint="For example utf-8, cp1252, gb18030."
        ) from error
    return encoding


def _undecodable(path: Path, encoding: str) -> InvalidData:
    """Where the first byte stands that is not `encoding`."""
    decoder = codecs.getincrementaldecoder(encoding)()
    start, line, first = 0, 1, b""
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            first = first or block[:_HEAD]
            held = decoder.getstate()[0]
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                data = held + block
                line += data.count(b"\n", 0, error.start)
                place = start - len(held) + error.start
                return _not_decoded(path, encoding, line, place, data[error.start], first)
            line += block.count(b"\n")
            start += len(block)
    cut = decoder.getstate()[0]  # a character that the file ends in the middle of
    return _not_decoded(path, encoding, line, start - len(cut), cut[0] if cut else 0, first)


def _not_decoded(path: Path, encoding: str, line: int, place: int, byte: int, first: bytes) -> InvalidData:
    if (packed := next((name for mark, name in _PACKED.items() if first.startswith(mark)), None)) is not None:
        return InvalidData(f"{path}: not a text but {packed}", hint="Unpack it, or give it its own suffix.")
    guess = "UTF-16" if first.startswith(_UTF16_MARKS) else "CP1252"
    return InvalidData(
        f"{path}:{line}: byte {place} (0x{byte:02x}) is not {encoding.upper()}",
        hint=f"Convert it (iconv -f {guess} -t UTF-8 {path.name}) or set encoding={guess.lower()}.",
    )


def _empty(path: Path) -> InvalidData:
    return InvalidData(f"{path}: the file is empty", hint="Give a file with at least one labelled example.")
