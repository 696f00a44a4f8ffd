"""CoNLL files: one token a line, columns separated by spaces or tabs, sentences by blank lines.

`-DOCSTART-` lines separate like blank ones; before a sentence `# key = value`, `# newdoc` and `# newpar` are comments. A
first line that names columns (`word tag`) is no token, and says which are tokens and, as Kaggle's tables have it, sentences.
Token i of an example stands on line `example.line + i`. Does not check labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.text import read_text

_COMMENT = re.compile(r"# (.*=|new(doc|par)\s*$)")  # the second are CoNLL-U's
_SPACES = re.compile(r"[ \t]+")  # not \s: a no-break or ideographic space can be part of a token
# Names of columns in a header, none of which is a label of any scheme.
_LABELS = ("tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags")
_TOKENS = ("token", "tokens", "word", "words", "form")
_SENTENCES = ("sentence #", "sentence_id", "sent_id", "sentence_idx")


def read_conll(
    path: Path, *, encoding: str = "utf-8", token_column: int | None = None, label_column: int = -1
) -> Dataset:
    """Examples with fields `tokens` and `labels`, equally long lists of str. InvalidData names file and line.

    Columns count from 0, negative ones from the end; tokens are in the first, or where a header says. A file whose first
    token line has a tab is split at tabs only. Of a header there is a note.
    """
    sentences = _Sentences(str(path))
    columns: _Columns | None = None
    tabs = False
    notes: list[str] = []
    for number, raw in enumerate([*read_text(path, encoding).split("\n"), ""], start=1):
        line = raw.rstrip("\r")  # two, where a file with CRLF was written as a text once more
        if not line.strip(" \t") or line.startswith("-DOCSTART-"):
            sentences.end(number)
            continue
        if not sentences.within and _COMMENT.match(line):
            continue
        if columns is None:
            tabs = "\t" in line
            cells, where = _cells(line, tabs=tabs), f"{path}:{number}"
            header = _is_header(cells, label_column)
            columns = _columns(cells, where, token_column, label_column, header=header)
            if header:
                notes.append(_said_of(cells, where, columns))
                continue
        else:
            cells = _cells(line, tabs=tabs)
        if len(cells) != columns.width or not (cells[columns.tokens] and cells[columns.labels]):
            _check_columns(cells, columns, f"{path}:{number}")
        sentences.add(number, cells, columns)
    if columns is None or not sentences.examples:
        raise InvalidData(f"{path}: no sentence in the file", hint="Expected one token and its label a line.")
    said = {"tokens": f"column {columns.tokens}", "labels": f"column {columns.labels}"}
    return Dataset(tuple(sentences.examples), str(path), said, notes=tuple(notes))


@dataclass(frozen=True)
class _Columns:
    """How many a line has, and which are what; sentences by blank lines where none says them."""

    width: int
    tokens: int
    labels: int
    sentences: int | None


class _Sentences:
    """Examples, from tokens as they come."""

    def __init__(self, source: str) -> None:
        self.examples: list[Example] = []
        self._source = source
        self._tokens: list[str] = []
        self._labels: list[str] = []
        self._named = ""

    @property
    def within(self) -> bool:
        return bool(self._tokens)

    def add(self, number: int, cells: Sequence[str], columns: _Columns) -> None:
        # A sentence is said at its first token, or at each.
        if columns.sentences is not None and cells[columns.sentences] not in ("", self._named):
            self._named = cells[columns.sentences]
            self.end(number)
        self._tokens.append(cells[columns.tokens])
        self._labels.append(cells[columns.labels])

    def end(self, number: int) -> None:
        """Before line `number`."""
        if not self._tokens:
            return
        fields = {"tokens": self._tokens, "labels": self._labels}
        self.examples.append(Example(fields, self._source, number - len(self._tokens), spread=True))
        self._tokens, self._labels = [], []


def _cells(line: str, *, tabs: bool) -> list[str]:
    if tabs:
        return [cell.strip() for cell in line.split("\t")]
    cells = line.split(" ")  # which is much faster, and of most files all
    return cells if "" not in cells and "\t" not in line else _SPACES.split(line.strip(" \t"))


def _is_header(cells: Sequence[str], label_column: int) -> bool:
    """Whether a first line names columns: where its label stands is what columns of labels are called."""
    known = len(cells) > 1 and -len(cells) <= label_column < len(cells)
    return known and cells[label_column].lower() in _LABELS


def _places(names: Sequence[str], usual: Sequence[str]) -> list[int]:
    return [at for at, name in enumerate(names) if name.lower() in usual]


def _token_column(names: Sequence[str], where: str) -> int:
    found = _places(names, _TOKENS)
    if len(found) == 1:
        return found[0]
    raise InvalidData(
        f"{where}: the line names columns, {', '.join(map(repr, names))}, of which"
        f" {'several' if found else 'none'} could hold tokens (looked for {', '.join(_TOKENS)})",
        hint="Set token_column to the number of the column of tokens, from 0.",
    )


def _columns(
    cells: list[str], where: str, token_column: int | None, label_column: int, *, header: bool
) -> _Columns:
    """Of a file whose first line has these cells."""
    if token_column is None:
        token_column = _token_column(cells, where) if header else 0
    sentences = next(iter(_places(cells, _SENTENCES)), None) if header else None
    columns = _Columns(len(cells), token_column, label_column, sentences)
    _check_columns(cells, columns, where)
    return columns


def _said_of(names: Sequence[str], where: str, columns: _Columns) -> str:
    by = "blank lines" if columns.sentences is None else f"column {names[columns.sentences]!r}"
    return (
        f"{where} names columns and is no token: tokens are read from {names[columns.tokens]!r}, labels from"
        f" {names[columns.labels]!r}, sentences by {by}"
    )


def _check_columns(cells: list[str], columns: _Columns, where: str) -> None:
    if len(cells) < 2:
        raise InvalidData(
            f"{where}: one column ({cells[0]!r}) where a token and a label are expected",
            hint="Separate them by a space or a tab; sentences by a blank line.",
        )
    width = columns.width
    if len(cells) != width:
        raise InvalidData(
            f"{where}: {len(cells)} columns where the lines before have {width}",
            hint="Give every token the same columns, or separate columns by tabs.",
        )
    for role, column in (("token", columns.tokens), ("label", columns.labels)):
        if not -width <= column < width:
            raise InvalidData(
                f"{where}: no {role} column {column}: the file has {width} columns, 0 to {width - 1}",
                hint=f"Set {role}_column.",
            )
        if not cells[column]:
            raise InvalidData(f"{where}: the {role} is empty", hint="Give every line a token and a label.")
