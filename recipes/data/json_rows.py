"""Objects of JSON as records: one a line (JSONL), or those of one array, as most tools export them.

Does not read files and does not interpret values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.json_values import DECODER, RepeatedKey
from adapthub.recipes.data.records import Record
from adapthub.recipes.data.text import Ends

_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r\n]*")
_TWICE = "Leave one out, or rename it."
_PIECE = 1 << 18  # characters of an array that are looked at together
_OPEN = "Unterminated string"  # of which the parser says where it begins
_LONGEST_WORD = len("-Infinity")


def json_rows(read: Callable[[Ends], Iterable[str]], path: Path) -> tuple[Iterator[Record], str]:
    """The records of a JSON file, and what their numbers count: "row" where a .json file is an array, else "line".

    `read`: gives its text from the beginning, in lines as `read_lines` has them; of an array, which may be one line, in
    pieces. Raises InvalidData, by line or row, where the reading comes to what is no JSON or no object.
    """
    if path.suffix.lower() == ".json" and _Text(read("none")).sign() == "[":
        return _of_array(read("none"), path), "row"
    return _of_lines(read("\n"), path), "line"


def _of_lines(lines: Iterable[str], path: Path) -> Iterator[Record]:
    """Blank lines are skipped."""
    hint = f"Write one JSON object a line (jq -c '.[]' {path.name} makes lines of an array)."
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = DECODER.decode(line)
            _check_characters(line, values)
        except RepeatedKey as error:
            raise InvalidData(f"{path}:{number}: {error}", hint=_TWICE) from error
        except (ValueError, RecursionError) as error:
            raise InvalidData(f"{path}:{number}: not JSON: {_reason(error)}", hint=hint) from error
        if not isinstance(values, dict):
            raise InvalidData(f"{path}:{number}: a JSON {type(values).__name__}, not an object", hint=hint)
        yield Record(values, number)


class _Text:
    """A text that comes in pieces; what was taken of it is forgotten."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces = iter(pieces)
        self.held = ""
        self.at = 0

    def more(self, size: int) -> bool:
        """Hold `size` more characters, or all that there are; False where there were none."""
        some: list[str] = []
        for piece in self._pieces:
            some.append(piece)
            size -= len(piece)
            if size <= 0:
                break
        self.held = self.held[self.at :] + "".join(some)
        self.at = 0
        return bool(some)

    def sign(self) -> str:
        """The next that is no white space, which is skipped; "" at the end."""
        while True:
            self.at = _SPACE.match(self.held, self.at).end()  # type: ignore[union-attr]  # matches nothing, too
            if self.at < len(self.held) or not self.more(_PIECE):
                return self.held[self.at : self.at + 1]


def _of_array(pieces: Iterable[str], path: Path) -> Iterator[Record]:
    """The objects of the array that the text is, which begins with its bracket; each is parsed as it comes."""
    text, number = _Text(pieces), 0
    text.sign()
    text.at += 1
    while (sign := text.sign()) != "]" or number:
        number += 1
        values = _next(text, f"{path}:row {number}")
        if not isinstance(values, dict):
            raise InvalidData(
                f"{path}:row {number}: a JSON {type(values).__name__}, not an object",
                hint="Write an array of objects, whose names are those of columns.",
            )
        yield Record(values, number)
        sign = text.sign()
        text.at += 1
        if sign == "]":
            break
        if sign != ",":
            raise InvalidData(
                f"{path}:row {number}: not JSON: {sign or 'the end'} where , or ] is expected",
                hint="Write one array of objects, or one object a line.",
            )
    if not number:
        raise InvalidData(f"{path}: the array has no rows", hint="Give at least one labelled example.")
    if left := text.sign():
        raise InvalidData(
            f"{path}: not JSON: {left} behind the array's end",
            hint="Write one array of objects, or one object a line.",
        )


def _next(text: _Text, where: str) -> Any:
    """The value that begins where `text` is. Raises InvalidData."""
    size = _PIECE
    while True:
        try:
            values, end = DECODER.raw_decode(text.held, text.at)
            _check_characters(text.held[text.at : end], values)
        except RepeatedKey as error:
            raise InvalidData(f"{where}: {error}", hint=_TWICE) from error
        except (ValueError, RecursionError) as error:
            # Twice as much is asked for, so that a long one is not parsed again for every piece.
            if _may_be_cut(error, text) and text.more(size):
                size *= 2
                continue
            raise InvalidData(
                f"{where}: not JSON: {_reason(error)}",
                hint="Write one array of objects, or one object a line.",
            ) from error
        text.at = end
        return values


def _may_be_cut(error: ValueError | RecursionError, text: _Text) -> bool:
    """Whether an error may only come of where `text` ends for now: a value that is wrong in itself needs no more of it."""
    return isinstance(error, json.JSONDecodeError) and (
        error.msg.startswith(_OPEN) or len(error.doc) - error.pos < _LONGEST_WORD
    )


def _check_characters(text: str, values: Any) -> None:
    """Half a surrogate pair, which JSON can write, is no text that a tokenizer takes. Raises ValueError."""
    if _SURROGATE.search(text):
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise json.JSONDecodeError("half of a surrogate pair stands alone", text, 0) from None


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    # Of the others that json raises one is known: Python converts no whole number so long.
    return "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
