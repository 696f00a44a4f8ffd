"""A text file's characters, or one clear error. Does not parse."""

from __future__ import annotations

from pathlib import Path

from adapthub.adapters.errors import InvalidData, InvalidSettings

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


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
        raise InvalidData(
            f"{path}: the file is empty", hint="Give a file with at least one labelled example."
        )
    return text


def decode(data: bytes, path: Path, encoding: str = "utf-8") -> str:
    """`data` as text. Raises InvalidData naming line and byte, InvalidSettings for an unknown encoding."""
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except (LookupError, TypeError) as error:  # of another type: no name at all
        raise InvalidSettings(
            f"unknown text encoding {encoding!r}", hint="For example utf-8, cp1252, gb18030."
        ) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        guess = "UTF-16" if data.startswith(_UTF16_MARKS) else "CP1252"
        raise InvalidData(
            f"{path}:{line}: byte {error.start} (0x{data[error.start]:02x}) is not {encoding.upper()}",
            hint=f"Convert it (iconv -f {guess} -t UTF-8 {path.name}) or set encoding={guess.lower()}.",
        ) from error
