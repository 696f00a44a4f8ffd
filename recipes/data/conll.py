"""CoNLL files: one token a line, columns separated by spaces or tabs, sentences by blank lines.

`-DOCSTART-` lines separate like blank ones; before a sentence `# key = value`, `# newdoc` and `# newpar` are comments. A
first line that names columns (`word tag`) is no token, and says which are tokens and, as Kaggle's tables have it, sentences.
Token i of an example stands on line `example.line + i`. Does not check labels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    examples: list[Example] = []
    tokens: list[str] = []
    labels: list[str] = []
    width = 0
    tabs: bool | None = None
    token_at, sentence_at = token_column or 0, None
    sentence = ""
    notes: list[str] = []

    def end_sentence(number: int) -> None:
        nonlocal tokens, labels
        if tokens:
            fields = {"tokens": tokens, "labels": labels}
            examples.append(Example(fields, str(path), number - len(tokens), spread=True))
            tokens, labels = [], []

    for number, raw in enumerate([*read_text(path, encoding).split("\n"), ""], start=1):
        line = raw.rstrip("\r")  # two, where a file with CRLF was written as a text once more
        if not line.strip(" \t") or line.startswith("-DOCSTART-"):
            end_sentence(number)
            continue
        if not tokens and _COMMENT.match(line):
            continue
        tabs = "\t" in line if tabs is None else tabs
        cells = _cells(line, tabs=tabs)
        if not width and _is_header(cells, label_column):
            width, where = len(cells), f"{path}:{number}"
            token_at = _token_column(cells, where) if token_column is None else token_column
            _check_columns(cells, width, where, token_at, label_column)
            sentence_at = next(iter(_places(cells, _SENTENCES)), None)
            notes.append(_said_of(cells, where, token_at, label_column, sentence_at))
            continue
        if len(cells) != width or not (cells[token_at] and cells[label_column]):
            width = width or len(cells)
            _check_columns(cells, width, f"{path}:{number}", token_at, label_column)
        # A sentence is said at its first token, or at each.
        if sentence_at is not None and cells[sentence_at] not in ("", sentence):
            sentence = cells[sentence_at]
            end_sentence(number)
        tokens.append(cells[token_at])
        labels.append(cells[label_column])
    if not examples:
        raise InvalidData(f"{path}: no sentence in the file", hint="Expected one token and its label a line.")
    columns = {"tokens": f"column {token_at}", "labels": f"column {label_column}"}
    return Dataset(tuple(examples), str(path), columns, notes=tuple(notes))


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


def _said_of(names: Sequence[str], where: str, token: int, label: int, sentence: int | None) -> str:
    by = "blank lines" if sentence is None else f"column {names[sentence]!r}"
    return (
        f"{where} names columns and is no token: tokens are read from {names[token]!r}, labels from {names[label]!r},"
        f" sentences by {by}"
    )


def _check_columns(cells: list[str], width: int, where: str, token_column: int, label_column: int) -> None:
    if len(cells) < 2:
        raise InvalidData(
            f"{where}: one column ({cells[0]!r}) where a token and a label are expected",
            hint="Separate them by a space or a tab; sentences by a blank line.",
        )
    if len(cells) != width:
        raise InvalidData(
            f"{where}: {len(cells)} columns where the lines before have {width}",
            hint="Give every token the same columns, or separate columns by tabs.",
        )
    for role, column in (("token", token_column), ("label", label_column)):
        if not -width <= column < width:
            raise InvalidData(
                f"{where}: no {role} column {column}: the file has {width} columns, 0 to {width - 1}",
                hint=f"Set {role}_column.",
            )
        if not cells[column]:
            raise InvalidData(f"{where}: the {role} is empty", hint="Give every line a token and a label.")
